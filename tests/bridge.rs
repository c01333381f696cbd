//! The bridge, from outside: real HTTP in front, scripted children behind.

#[path = "bridge/calls.rs"]
mod calls;
#[path = "bridge/child.rs"]
mod child;
#[path = "bridge/crashes.rs"]
mod crashes;
#[path = "bridge/http.rs"]
mod http;
#[path = "bridge/interop.rs"]
mod interop;
#[path = "bridge/leases.rs"]
mod leases;
#[path = "bridge/load.rs"]
mod load;
#[path = "bridge/misbehaviour.rs"]
mod misbehaviour;
#[path = "bridge/notices.rs"]
mod notices;
#[path = "bridge/processes.rs"]
mod processes;
#[path = "bridge/refusals.rs"]
mod refusals;
#[path = "bridge/rig.rs"]
mod rig;
#[path = "bridge/shares.rs"]
mod shares;
#[path = "bridge/stateless.rs"]
mod stateless;
#[path = "bridge/storm.rs"]
mod storm;
