//! `detect_bottlenecks`: what holds tasks up now.

use super::{Answer, Hints, Invocation, Run, ToolError, definition};
use crate::arguments::Arguments;
use crate::results::BottlenecksResult;
use cortex_planning::Bottlenecks;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use std::sync::Arc;

pub(super) struct DetectBottlenecks;

impl Run for DetectBottlenecks {
    fn name(&self) -> &'static str {
        "detect_bottlenecks"
    }

    fn describe(&self) -> Tool {
        definition::<BottlenecksResult>(
            self.name(),
            "Detect bottlenecks",
            "Look for what holds tasks up now, or is about to: token budgets over 80 % used, quotas of agents from 90 % on, agents that \
             take over twice as long as the others or fail too often, a queue of 50 tasks and more. Each comes with its severity, \
             its figures and advice. Watch cluster://bottlenecks to be told of changes.",
            &[],
            &Hints { is_read_only: true, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<Answer, ToolError>> {
        async move {
            Arguments::new(invocation.arguments, &[])?;
            let figures = invocation.engine.fleet_figures().await?;
            Answer::new(&BottlenecksResult::from(&Bottlenecks::find(&figures)))
        }
        .boxed()
    }
}
