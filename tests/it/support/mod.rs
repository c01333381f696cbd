//! What the tests over the real binary share: a server as a child process, and checks of what it answers.
//!
//! Every wait has a limit that is far longer than the wait takes, so that a hang becomes a failure. A child never outlives its test.

pub(crate) mod durable;
pub(crate) mod misbehaving;
pub(crate) mod pattern;
pub(crate) mod server;
pub(crate) mod session;

use std::{
    thread,
    time::{Duration, Instant},
};

/// Far longer than any single wait takes: it only turns a hang into a failure.
pub(crate) const HANG: Duration = Duration::from_secs(30);

/// Within this time the process has to be gone once it is told to end.
pub(crate) const END_LIMIT: Duration = Duration::from_secs(1);

/// The time between two looks at a condition.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Looks again and again until `look` sees what it waits for.
pub(crate) fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    match wait_within(HANG, look) {
        Some(seen) => seen,
        None => panic!("still waiting for {what} after {HANG:?}"),
    }
}

/// Looks again and again until `look` sees what it waits for, or the time is over.
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
