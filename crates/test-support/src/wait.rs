//! Waits for conditions. Each has a time limit far above its usual duration, so that a hang becomes a failure.

use std::thread;
use std::time::{Duration, Instant};

/// The time limit of a wait.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// The interval between two checks of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Waits until a condition holds.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    wait_for(what, || holds().then_some(()));
}

/// Repeats `look` until it returns a value.
#[track_caller]
pub fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    match wait_within(WAIT_MAX, look) {
        Some(seen) => seen,
        None => panic!("still waiting after {WAIT_MAX:?}: {what}"),
    }
}

/// Repeats `look` until it returns a value, or until the time limit.
pub fn wait_within<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(seen) = look() {
            return Some(seen);
        }
        if start.elapsed() > limit {
            return None;
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Waits until a condition holds, while the other tasks of the runtime go on.
pub async fn wait_until_async(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let polling = async {
        while !holds().await {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    if tokio::time::timeout(WAIT_MAX, polling).await.is_err() {
        panic!("still waiting after {WAIT_MAX:?}: {what}");
    }
}

/// Awaits a future that must complete.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(WAIT_MAX, future).await.expect("an end of the wait")
}
