//! `release_resources`: releases a lease.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, Wait, definition};
use crate::arguments::{self, Arguments, Parameter};
use crate::results::ReleaseResult;
use cortex_core::ids::AllocationId;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use std::sync::Arc;

const DESCRIPTION: &str = "Release a lease when its job ends, even if it failed. Frees its workers immediately; \
    MCP servers stay for other leases. Repeating is safe: \"already_released\".";

/// The description where MCP servers are managed.
const MANAGED_DESCRIPTION: &str = "Release a lease when its job ends, even if it failed. Its access_token becomes \
    invalid. Returns when its own processes have ended, which may take seconds; MCP servers stay for other leases. \
    Repeating is safe: \"already_released\".";

pub(super) struct ReleaseResources {
    description: &'static str,
    allocation_id: Parameter<Result<AllocationId, String>>,
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
