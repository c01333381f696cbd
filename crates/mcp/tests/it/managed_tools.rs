//! The tools of managed mode as a client sees them: a real server and a real engine, with a stub for the manager of
//! servers and workers.

mod client;
mod grants;
mod rig;
mod servers;
mod stub;
mod waits;
mod workers;
