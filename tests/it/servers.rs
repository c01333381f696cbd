//! MCP servers and workers as real processes: the runtime follows the state, from the grant that starts them to their
//! end.
mod catalogs;
mod crashes;
mod leases;
mod pool;
mod rig;
mod starts;
mod workers;
