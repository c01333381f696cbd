//! `get_allocation`: reads one allocation back.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition, unknown_allocation};
use crate::arguments::{self, Arguments, Parameter};
use crate::results::{AllocationResult, RuntimeStatus};
use cortex_core::ids::AllocationId;
use cortex_engine::Record;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use std::sync::Arc;

const DESCRIPTION: &str = "Read one allocation: state, workers, MCP servers with endpoints, timestamps, expiry and \
    metadata. Ended allocations and refused requests stay readable for a while.";

/// The description where MCP servers are managed.
const MANAGED_DESCRIPTION: &str = "Read one allocation: state, workers, MCP servers with endpoints and status \
    (starting, running, restarting, failed with the reason), timestamps, expiry and metadata; while active also \
    access_token, if its endpoints need one, and mcp_config for an MCP client. Ended allocations and refused \
    requests stay readable for a while.";

pub(super) struct GetAllocation {
    description: &'static str,
    allocation_id: Parameter<Result<AllocationId, String>>,
}

impl GetAllocation {
    pub(super) fn new(is_managed: bool) -> Self {
        let description = if is_managed { MANAGED_DESCRIPTION } else { DESCRIPTION };
        Self { description, allocation_id: arguments::allocation_id() }
    }
}

impl ToolHandler for GetAllocation {
    fn name(&self) -> &'static str {
        "get_allocation"
    }

    fn describe(&self) -> Tool {
        definition::<AllocationResult>(
            self.name(),
            "Get allocation",
            self.description,
            &[&self.allocation_id],
            &Hints { is_read_only: true, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &[&self.allocation_id])?;
            let allocation = arguments.required(&self.allocation_id)?.map_err(ToolError::NotFound)?;
            let reading = invocation.engine.allocation(allocation).await?;
            let reading = reading.ok_or_else(|| unknown_allocation(allocation))?;
            let runtime_status = match (&invocation.managed, &reading.value) {
                (Some(managed), Record::Allocation(view)) => RuntimeStatus::with_credentials(managed, view).await?,
                _ => None,
            };
            ToolOutput::new(&AllocationResult::new(&reading, runtime_status.as_ref()))
        }
        .boxed()
    }
}
