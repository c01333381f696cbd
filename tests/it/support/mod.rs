//! Shared by the tests of the real binary: a server as a child process, and checks of its answers.
//!
//! Every wait has a time limit far above its usual duration, so that a hang becomes a failure. A child never outlives
//! its test.

pub(crate) mod durable;
#[cfg(unix)]
pub(crate) mod http;
pub(crate) mod misbehaving;
pub(crate) mod pattern;
pub(crate) mod server;
pub(crate) mod session;

use std::{
    thread,
    time::{Duration, Instant},
};

/// A time limit far above the usual duration of a wait.
pub(crate) const HANG: Duration = Duration::from_secs(30);

/// The time limit for a process to end on request.
pub(crate) const END_LIMIT: Duration = Duration::from_secs(1);

/// The interval between two checks of a condition.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Repeats `look` until it returns a value.
pub(crate) fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    match wait_within(HANG, look) {
        Some(seen) => seen,
        None => panic!("still waiting for {what} after {HANG:?}"),
    }
}

/// Repeats `look` until it returns a value, or until the time limit.
pub(crate) fn wait_within<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(seen) = look() {
            return Some(seen);
        }
        if start.elapsed() > limit {
            return None;
        }
        thread::sleep(LOOK_INTERVAL);
    }
}
