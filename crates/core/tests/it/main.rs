//! The tests of `cortex-core`, one module for each subject.

#![expect(clippy::too_many_lines, reason = "a case that is a script reads best as a whole")]

mod cases;
mod fleet;
mod fleet_bounds;
mod fleet_invalid_events;
mod fleet_matching;
mod fleet_properties;
mod fleet_simulation;
mod fleet_state;
mod golden;
mod image;
mod lease_simulation;
mod properties;
mod scaling_state;
