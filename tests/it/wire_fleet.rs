//! The toolsets `agents` and `usage` over the real binary: who may work, and what there is to work with.

mod agents;
mod bad_input;
mod bottlenecks;
mod fleet;
mod health;
mod lists;
mod usage;
