//! `get_scaling_history`: returns past changes by the planner.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, AnyParameter, Arguments, Parameter};
use crate::results::ScalingHistoryResult;
use cortex_core::scaling_state::SCALINGS_MAX;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use std::sync::Arc;

/// The default of `limit`.
const LIMIT_DEFAULT: u64 = 50;

pub(super) struct GetScalingHistory {
    limit: Parameter<u64>,
}

impl GetScalingHistory {
    pub(super) fn new() -> Self {
        let limit = arguments::integer("limit", "", 1..=SCALINGS_MAX as u64);
        Self { limit: limit.with_default(LIMIT_DEFAULT) }
    }

    fn parameters(&self) -> [&dyn AnyParameter; 1] {
        [&self.limit]
    }
}

impl ToolHandler for GetScalingHistory {
    fn name(&self) -> &'static str {
        "get_scaling_history"
    }

    fn describe(&self) -> Tool {
        definition::<ScalingHistoryResult>(
            self.name(),
            "Get scaling history",
            "List past changes of the number of workers and the wanted number of agents, newest first with \
             reasons, and the current policy with its figures.",
            &self.parameters(),
            &Hints { is_read_only: true, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &self.parameters())?;
            let limit = arguments.optional(&self.limit)?.unwrap_or(LIMIT_DEFAULT);
            let limit = usize::try_from(limit).unwrap_or(SCALINGS_MAX);
            let history = invocation.engine.read(move |state, _| {
                let scalings = state.cluster.scalings();
                let total = scalings.len();
                ScalingHistoryResult::new(&state.cluster.policy(), scalings.take(limit), total)
            });
            ToolOutput::new(&history.await?)
        }
        .boxed()
    }
}
