//! The tools of managed mode as a client sees them: a real server and a real engine, with a stub for whoever runs the servers
//! and workers.

#[path = "managed_tools/client.rs"]
mod client;
#[path = "managed_tools/grants.rs"]
mod grants;
#[path = "managed_tools/rig.rs"]
mod rig;
#[path = "support/schema.rs"]
mod schema;
#[path = "managed_tools/servers.rs"]
mod servers;
#[path = "managed_tools/stub.rs"]
mod stub;
#[path = "managed_tools/waits.rs"]
mod waits;
#[path = "managed_tools/workers.rs"]
mod workers;
