//! `get_allocation`: reads one allocation back.

use super::{Answer, Hints, Invocation, Run, ToolError, definition, unknown_allocation};
use crate::core::AllocationId;
use crate::mcp::arguments::{self, Arguments, Parameter};
use crate::mcp::results::AllocationResult;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use std::sync::Arc;

pub(super) struct GetAllocation {
    allocation_id: Parameter<Result<AllocationId, String>>,
}

impl GetAllocation {
    pub(super) fn new() -> Self {
        Self { allocation_id: arguments::allocation_id() }
    }
}

impl Run for GetAllocation {
    fn name(&self) -> &'static str {
        "get_allocation"
    }

    fn describe(&self) -> Tool {
        definition::<AllocationResult>(
            self.name(),
            "Get allocation",
            "Read one allocation back: its state, workers and MCP servers with their endpoints, timestamps, whether it is past \
             its deadline, and its metadata. Released ones and refused requests can be read for a while.",
            &[&self.allocation_id],
            &Hints { is_read_only: true, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<Answer, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &[&self.allocation_id])?;
            let allocation = arguments.required(&self.allocation_id)?.map_err(ToolError::NotFound)?;
            let reading = invocation.engine.allocation(allocation).await?;
            let reading = reading.ok_or_else(|| unknown_allocation(allocation))?;
            Answer::new(&AllocationResult::from(&reading))
        }
        .boxed()
    }
}
