//! What the tests of several crates share: a naive reference of the lease machine, random commands and histories for
//! it, the driver of seeded simulations, checkers for JSON schemas and for the files of snapshots, demand scenarios,
//! the table of the benchmarks, and waits for conditions.

pub mod history;
pub mod lease_generator;
pub mod model;
pub mod replica;
pub mod scenarios;
pub mod schema;
pub mod seeded_simulation;
pub mod setting;
pub mod snapshot_files;
pub mod table;
pub mod wait;
