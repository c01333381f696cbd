//! Shared by the tests of the real binary: a server as a child process, and checks of its answers.
//!
//! A child never outlives its test.

pub(crate) mod durable;
#[cfg(unix)]
pub(crate) mod http;
pub(crate) mod list;
pub(crate) mod misbehaving;
pub(crate) mod pattern;
pub(crate) mod server;
pub(crate) mod session;

use std::time::Duration;

pub(crate) use cortex_test_support::wait::{WAIT_MAX, wait_for, wait_until, wait_until_async, wait_within, within};

/// The time limit for a process to end on request.
pub(crate) const END_LIMIT: Duration = Duration::from_secs(1);
