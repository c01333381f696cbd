//! `get_scaling_history`: returns past changes by the planner.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, AnyParameter, Arguments, Parameter};
use crate::results::PolicyResult;
use cortex_core::policy::Policy;
use cortex_core::scaling_state::{PastScaling, SCALINGS_MAX};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
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

/// A change by the planner.
#[derive(Serialize, JsonSchema)]
struct ScalingResult {
    scaled_at: String,
    policy: &'static str,
    from_workers: u64,
    to_workers: u64,
    from_agents: u64,
    /// Agents there should be since then; the caller starts and stops agents.
    to_agents: u64,
    reason: String,
}

/// The result of get_scaling_history.
#[derive(Serialize, JsonSchema)]
struct ScalingHistoryResult {
    policy: PolicyResult,
    /// The newest first.
    scalings: Vec<ScalingResult>,
    count: usize,
    /// Changes on record.
    total: usize,
}

impl ScalingHistoryResult {
    fn new<'a>(policy: &Policy, scalings: impl Iterator<Item = &'a PastScaling>, total: usize) -> Self {
        let scalings: Vec<ScalingResult> = scalings.map(ScalingResult::from).collect();
        Self { policy: policy.into(), count: scalings.len(), scalings, total }
    }
}

impl From<&PastScaling> for ScalingResult {
    fn from(past: &PastScaling) -> Self {
        let scaling = &past.scaling;
        Self {
            scaled_at: past.at.to_string(),
            policy: scaling.policy.as_str(),
            from_workers: scaling.workers_from,
            to_workers: scaling.workers_to,
            from_agents: scaling.agents_from,
            to_agents: scaling.agents_to,
            reason: scaling.reason.to_string(),
        }
    }
}
