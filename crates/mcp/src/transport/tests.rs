//! The transport under a real rmcp server, over pipes in memory.
//!
//! A test that needs all tasks to be idle awaits [`idle`]: under the paused clock it returns only once
//! every task sleeps.

mod endings;
mod equivalence;
mod handshake;
mod in_flight;
mod refusals;
mod server;

use std::time::Duration;

/// Returns once no task can make progress. Only for tests that start with the clock paused.
async fn idle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}
