//! The sweep: records the expiry of leases whose deadline has passed, and forgets records that are too old.

use super::every;
use crate::engine::EngineHandle;
use std::time::Duration;

/// Sweeps every `period` until the engine has ended.
pub async fn sweep_expired(engine: EngineHandle, period: Duration) {
    every("sweep", period, async || {
        let expired = engine.sweep().await?;
        tracing::debug!(expired = expired.count, "swept");
        Ok(())
    })
    .await;
}
