//! The tests of `cortex-mcp`, one module for each subject.

mod managed_tools;
