//! Real servers behind the endpoints: they follow the books, from the grant that starts them to the end of all they were.
mod catalogs;
mod crashes;
mod leases;
mod pool;
mod rig;
mod starts;
mod workers;
