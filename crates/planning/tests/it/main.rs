//! The tests of `cortex-planning`, one module for each subject.

mod properties;
