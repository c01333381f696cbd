//! The tests of `cortex-engine`, one module for each subject.

mod durable_simulation;
