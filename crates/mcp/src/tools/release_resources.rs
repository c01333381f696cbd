//! `release_resources`: releases a lease.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, Wait, definition};
use crate::arguments::{self, Arguments, Parameter};
use cortex_core::command::Release;
use cortex_core::ids::AllocationId;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

const DESCRIPTION: &str = "Release a lease when its job ends, even if it failed. Frees its workers immediately; \
    MCP servers stay for other leases. Repeating is safe: \"already_released\".";

/// The description where MCP servers are managed.
const MANAGED_DESCRIPTION: &str = "Release a lease when its job ends, even if it failed. Its access_token becomes \
    invalid. Returns when its own processes have ended, which may take seconds; MCP servers stay for other leases. \
    Repeating is safe: \"already_released\".";

pub(super) struct ReleaseResources {
    description: &'static str,
    allocation_id: Parameter<Result<AllocationId, arguments::UnknownAllocation>>,
}

impl ReleaseResources {
    pub(super) fn new(is_managed: bool) -> Self {
        let description = if is_managed { MANAGED_DESCRIPTION } else { DESCRIPTION };
        Self { description, allocation_id: arguments::allocation_id() }
    }
}

impl ToolHandler for ReleaseResources {
    fn name(&self) -> &'static str {
        "release_resources"
    }

    fn describe(&self) -> Tool {
        definition::<ReleaseResult>(
            self.name(),
            "Release resources",
            self.description,
            &[&self.allocation_id],
            &Hints { is_read_only: false, is_destructive: true, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let Invocation { engine, managed, arguments, progress, closing, .. } = invocation;
            let arguments = Arguments::new(arguments, &[&self.allocation_id])?;
            let allocation = arguments.required(&self.allocation_id)?.map_err(ToolError::NotFound)?;
            if managed.is_none() {
                return ToolOutput::new(&ReleaseResult::from(engine.release(allocation).await?));
            }
            let wait = Wait { engine: engine.clone(), progress, closing };
            let mut release = Box::pin(async move { engine.release(allocation).await });
            match wait.for_reply("ending the processes of the lease", release.as_mut()).await {
                Some(released) => ToolOutput::new(&ReleaseResult::from(released?)),
                None => {
                    // It may not be sent yet, and must go on although the caller is gone.
                    tokio::spawn(release);
                    Err(ToolError::Closing("the release goes on"))
                }
            }
        }
        .boxed()
    }
}

/// The result of release_resources.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum ReleaseResult {
    /// This call ended the lease.
    Released(ReleasedResult),
    /// It had already ended.
    AlreadyReleased(AlreadyReleasedResult),
}

/// A lease that this call ended.
#[derive(Serialize, JsonSchema)]
struct ReleasedResult {
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
struct AlreadyReleasedResult {
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
