//! `get_capacity`: returns total, leased and available amounts.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::Arguments;
use crate::results::CapacityResult;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use std::sync::Arc;

pub(super) struct GetCapacity;

impl ToolHandler for GetCapacity {
    fn name(&self) -> &'static str {
        "get_capacity"
    }

    fn describe(&self) -> Tool {
        definition::<CapacityResult>(
            self.name(),
            "Get capacity",
            "Show total, leased and available workers, CPU (cores) and memory (MB), and MCP servers in use. Check \
             it before a large request. Reclaimable amounts, of expired leases, are available to requests too.",
            &[],
            &Hints { is_read_only: true, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            Arguments::new(invocation.arguments, &[])?;
            let capacity = invocation.engine.capacity().await?;
            ToolOutput::new(&CapacityResult::from(&capacity.value))
        }
        .boxed()
    }
}
