//! `detect_bottlenecks`: returns what delays tasks.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::Arguments;
use crate::results::BottlenecksResult;
use cortex_planning::Bottlenecks;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use std::sync::Arc;

pub(super) struct DetectBottlenecks;

impl ToolHandler for DetectBottlenecks {
    fn name(&self) -> &'static str {
        "detect_bottlenecks"
    }

    fn describe(&self) -> Tool {
        definition::<BottlenecksResult>(
            self.name(),
            "Detect bottlenecks",
            "Find what delays tasks now or soon: token budgets over 80 % used, agent quotas 90 % used, agents that \
             fail often or are twice as slow as the others, a queue of 50 tasks. Each comes with severity, figures \
             and advice. Subscribe to cluster://bottlenecks for changes.",
            &[],
            &Hints { is_read_only: true, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            Arguments::new(invocation.arguments, &[])?;
            let figures = invocation.engine.fleet_figures().await?;
            ToolOutput::new(&BottlenecksResult::from(&Bottlenecks::find(&figures)))
        }
        .boxed()
    }
}
