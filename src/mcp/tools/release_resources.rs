//! `release_resources`: gives a lease back.

use super::{Answer, Hints, Invocation, Run, ToolError, definition};
use crate::core::AllocationId;
use crate::mcp::arguments::{self, Arguments, Parameter};
use crate::mcp::results::ReleaseResult;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use std::sync::Arc;

pub(super) struct ReleaseResources {
    allocation_id: Parameter<Result<AllocationId, String>>,
}

impl ReleaseResources {
    pub(super) fn new() -> Self {
        Self { allocation_id: arguments::allocation_id() }
    }
}

impl Run for ReleaseResources {
    fn name(&self) -> &'static str {
        "release_resources"
    }

    fn describe(&self) -> Tool {
        definition::<ReleaseResult>(
            self.name(),
            "Release resources",
            "Give a lease back when its job is done, also when the job failed. Its workers are free at once; an MCP server's \
             port is when nobody else holds it. Releasing twice is harmless and answers \"already_released\".",
            &[&self.allocation_id],
            &Hints { is_read_only: false, is_destructive: true, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<Answer, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &[&self.allocation_id])?;
            let allocation = arguments.required(&self.allocation_id)?.map_err(ToolError::NotFound)?;
            let released = invocation.engine.release(allocation).await?;
            Answer::new(&ReleaseResult::from(released))
        }
        .boxed()
    }
}
