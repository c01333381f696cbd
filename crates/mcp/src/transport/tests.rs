//! The transport under a real rmcp server, over pipes in memory.
//!
//! Where a test must know that nothing more will happen by itself, it asks [`idle`]: under the
//! paused clock that returns only once every task sleeps.

mod endings;
mod equivalence;
mod handshake;
mod in_flight;
mod refusals;
mod server;

use std::time::Duration;

/// Returns once no task can go on by itself. Only for tests that start with the clock paused.
async fn idle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}
