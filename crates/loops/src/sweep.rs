//! The sweep: records the expiry of leases whose deadline has passed, and trims records that are too old.

use super::{LoopStatus, every};
use cortex_engine::EngineHandle;
use std::future::pending;
use std::sync::Arc;

/// Sweeps once per period of `status` until the engine has stopped.
pub async fn sweep_expired(engine: EngineHandle, status: Arc<LoopStatus>) {
    every(&status, pending, async || {
        let expired = engine.sweep().await?;
        tracing::debug!(expired = expired.count, "sweep finished");
        Ok(())
    })
    .await;
}
