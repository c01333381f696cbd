//! The tools of managed mode as a client sees them: a real server and a real engine, with a stub for whoever runs the servers
//! and workers.

mod client;
mod grants;
mod rig;
mod servers;
mod stub;
mod waits;
mod workers;
