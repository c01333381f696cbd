//! Real servers behind the endpoints: they follow the books, from the grant that starts them to the end of all they were.
#![cfg(unix)]

#[path = "servers/catalogs.rs"]
mod catalogs;
#[path = "servers/crashes.rs"]
mod crashes;
#[path = "servers/leases.rs"]
mod leases;
#[path = "support/misbehaving.rs"]
mod misbehaving;
#[path = "servers/pool.rs"]
mod pool;
#[path = "servers/rig.rs"]
mod rig;
#[path = "servers/starts.rs"]
mod starts;
#[path = "servers/workers.rs"]
mod workers;
