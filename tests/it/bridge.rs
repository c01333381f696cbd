//! The bridge, from outside: real HTTP in front, scripted children behind.

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
