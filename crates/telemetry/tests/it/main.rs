//! The tests of `cortex-telemetry`, one module for each subject.

mod telemetry;
