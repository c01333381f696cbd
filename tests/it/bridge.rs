//! Tests the bridge from outside: HTTP clients on one side, scripted children on the other.

mod calls;
mod child;
mod crashes;
mod http;
mod interop;
mod leases;
mod load;
mod misbehaviour;
mod notices;
mod processes;
mod refusals;
mod rig;
mod shares;
mod stateless;
mod storm;
