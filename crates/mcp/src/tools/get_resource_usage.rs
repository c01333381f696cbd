//! `get_resource_usage`: what is used of quotas, tokens and the queue.

use super::{Answer, Hints, Invocation, Run, ToolError, definition};
use crate::arguments::Arguments;
use crate::results::UsageResult;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use std::sync::Arc;

pub(super) struct GetResourceUsage;

impl Run for GetResourceUsage {
    fn name(&self) -> &'static str {
        "get_resource_usage"
    }

    fn describe(&self) -> Tool {
        definition::<UsageResult>(
            self.name(),
            "Get resource usage",
            "See how many agents there are and may be, in all and by type; how many tokens are used, reserved and left, in all and \
             for each job with a budget; what waits in the queue, and for how long; and whether tokens are being saved (above 80 % \
             use), with how many tasks are deferred for it.",
            &[],
            &Hints { is_read_only: true, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<Answer, ToolError>> {
        async move {
            Arguments::new(invocation.arguments, &[])?;
            let usage = invocation.engine.usage().await?;
            Answer::new(&UsageResult::from(&usage))
        }
        .boxed()
    }
}
