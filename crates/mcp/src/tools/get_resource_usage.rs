//! `get_resource_usage`: returns the use of quotas, tokens and the queue.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::Arguments;
use crate::results::UsageResult;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use std::sync::Arc;

pub(super) struct GetResourceUsage;

impl ToolHandler for GetResourceUsage {
    fn name(&self) -> &'static str {
        "get_resource_usage"
    }

    fn describe(&self) -> Tool {
        definition::<UsageResult>(
            self.name(),
            "Get resource usage",
            "Show agents and quotas, in total and by type; tokens used, reserved and left, in total and per job \
             with a budget; waiting tasks and their wait; whether tokens are conserved (above 80 % use), and how \
             many tasks are deferred.",
            &[],
            &Hints { is_read_only: true, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            Arguments::new(invocation.arguments, &[])?;
            let usage = invocation.engine.read(|state, now| state.usage(now)).await?;
            ToolOutput::new(&UsageResult::from(&usage))
        }
        .boxed()
    }
}
