//! `get_plan`: returns a dry run of the planner.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, AnyParameter, Arguments, Parameter};
use crate::results::PlanResult;
use cortex_engine::{EngineError, EngineHandle};
use cortex_planning::{Bottlenecks, Plan, Planner, WhatIf};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use std::sync::{Arc, Mutex, PoisonError};

/// The largest figure of a dry run, far above any fleet.
const FIGURE_MAX: u64 = 1_000_000_000;

pub(super) struct GetPlan {
    queue_depth: Parameter<u64>,
    rate_per_minute: Parameter<u64>,
    agents: Parameter<u64>,
}

impl GetPlan {
    pub(super) fn new() -> Self {
        Self {
            queue_depth: arguments::integer("queue_depth", "Tasks that wait.", 0..=FIGURE_MAX),
            rate_per_minute: arguments::integer(
                "rate_per_minute",
                "Resource requests, and as many tasks, a minute.",
                0..=FIGURE_MAX,
            ),
            agents: arguments::integer("agents", "Registered agents.", 0..=FIGURE_MAX),
        }
    }

    fn parameters(&self) -> [&dyn AnyParameter; 3] {
        [&self.queue_depth, &self.rate_per_minute, &self.agents]
    }
}

impl ToolHandler for GetPlan {
    fn name(&self) -> &'static str {
        "get_plan"
    }

    fn describe(&self) -> Tool {
        definition::<PlanResult>(
            self.name(),
            "Get plan",
            "Show what the planner would do now with the number of workers and agents, and why, without changing \
             anything. The arguments replace actual figures.",
            &self.parameters(),
            &Hints { is_read_only: true, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &self.parameters())?;
            let what_if = WhatIf {
                waiting: arguments.optional(&self.queue_depth)?,
                rate_per_minute: arguments.optional(&self.rate_per_minute)?,
                agents: arguments.optional(&self.agents)?,
            };
            let plan = dry_run(&invocation.engine, &invocation.planner, &what_if).await?;
            ToolOutput::new(&PlanResult::from(&plan))
        }
        .boxed()
    }
}

/// Returns the planner's plan for the current figures, replaced by those of `what_if`, without applying it.
pub(crate) async fn dry_run(
    engine: &EngineHandle,
    planner: &Mutex<Planner>,
    what_if: &WhatIf,
) -> Result<Plan, EngineError> {
    let demand = engine.demand(false).await?;
    let bottlenecks = Bottlenecks::find(&engine.fleet_figures().await?);
    let planner = planner.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(planner.plan(&planner.observe(demand.at, &demand.value).with(what_if), Some(&bottlenecks)))
}
