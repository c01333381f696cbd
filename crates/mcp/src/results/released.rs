//! The result of release_resources.

use cortex_core::command::Release;
use schemars::JsonSchema;
use serde::Serialize;

/// The result of release_resources.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum ReleaseResult {
    /// This call ended the lease.
    Released(ReleasedResult),
    /// It had already ended.
    AlreadyReleased(AlreadyReleasedResult),
}

/// A lease that this call ended.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ReleasedResult {
    /// `released`.
    status: &'static str,
    allocation_id: String,
    job_id: String,
    workers_released: u64,
    /// In cores.
    cpu_freed: f64,
    /// In MB.
    memory_freed: u64,
    released_at: String,
    duration_seconds: u64,
}

/// A lease that had already ended.
#[derive(Serialize, JsonSchema)]
pub(crate) struct AlreadyReleasedResult {
    /// `already_released`.
    status: &'static str,
    allocation_id: String,
    released_at: String,
}

impl From<cortex_engine::Released> for ReleaseResult {
    fn from(released: cortex_engine::Released) -> Self {
        match released {
            cortex_engine::Released::Now(Release { allocation, job, freed, released_at, duration, .. }) => {
                Self::Released(ReleasedResult {
                    status: "released",
                    allocation_id: allocation.to_string(),
                    job_id: job.to_string(),
                    workers_released: freed.workers,
                    cpu_freed: freed.cpu_millis.as_cores(),
                    memory_freed: freed.memory_mb.0,
                    released_at: released_at.to_string(),
                    duration_seconds: duration.as_seconds(),
                })
            }
            cortex_engine::Released::Before { allocation, released_at } => {
                Self::AlreadyReleased(AlreadyReleasedResult {
                    status: "already_released",
                    allocation_id: allocation.to_string(),
                    released_at: released_at.to_string(),
                })
            }
        }
    }
}
