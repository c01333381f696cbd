//! The tests of `cortex-simulation`, one module for each subject.

mod closed_loop;
