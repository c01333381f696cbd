//! The tests of `cortex-core`, one module for each subject.

mod books;
mod cases;
mod fleet;
mod fleet_balance;
mod fleet_bounds;
mod fleet_forgeries;
mod fleet_properties;
mod fleet_simulation;
mod golden;
mod image;
mod lease_simulation;
mod properties;
mod scaling_state;
