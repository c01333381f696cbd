//! `get_plan`: returns a dry run of the planner.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, AnyParameter, Arguments, Parameter};
use cortex_engine::{EngineError, EngineHandle, EngineState};
use cortex_planning::{
    Action, AgentRequirement, Bottlenecks, Plan, Planner, Severity, Subject, Trend, WhatIf, WorkerRequirement,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
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
            rate_per_minute: arguments::integer("rate_per_minute", "Rate of requests, and of tasks.", 0..=FIGURE_MAX),
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
            "Dry run of the planner: the numbers of workers and agents it would choose now, and why. The \
             arguments replace measured figures.",
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
    let read = |state: &EngineState<'_>, now| (now, state.demand(now), state.fleet_metrics(now));
    let (now, demand, metrics) = engine.read(read).await?;
    let bottlenecks = Bottlenecks::find(&metrics);
    let planner = planner.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(planner.plan(&planner.observe(now, &demand).with(what_if), Some(&bottlenecks)))
}

/// The current rate of requests and its forecast.
#[derive(Serialize, JsonSchema)]
struct RateResult {
    /// Requests a minute since the last check, refused ones included.
    current_rate_per_minute: f64,
    /// `increasing`, `stable` or `decreasing`.
    trend: &'static str,
    predicted_rate_per_minute: f64,
}

/// Something that delays tasks.
#[derive(Serialize, JsonSchema)]
struct PlanBottleneck {
    /// `token_exhaustion`, `quota_exceeded`, `slow_agent` or `task_queue_backlog`.
    bottleneck_type: &'static str,
    /// `low`, `medium`, `high` or `critical`.
    severity: &'static str,
    /// The job, agent type or agent concerned; empty if it concerns all.
    affected: Vec<String>,
}

/// Agents needed for the forecast tasks.
#[derive(Serialize, JsonSchema)]
struct AgentRequirementResult {
    /// Tasks a minute are at or below this in nine of ten cases.
    expected_tasks_per_minute: f64,
    /// The measured part of such forecasts that was high enough; null for a given `rate_per_minute`.
    confidence: Option<f64>,
    /// Whether the plan uses it.
    is_trusted: bool,
    /// The mean duration of past tasks.
    avg_task_duration_ms: u64,
    /// The burstiness of arrivals, variance over mean: 1 for independent arrivals.
    arrival_variability: f64,
    /// Mean concurrent tasks, by Little's law.
    tasks_under_way: f64,
    /// Concurrent task slots that keep use at its target.
    places_for_utilization: u64,
    /// Concurrent task slots that keep waits short.
    places_for_waiting: u64,
    /// The probability of a wait over 5 s with the larger of the two.
    wait_chance: f64,
    /// Agents that have as many slots.
    required_agents: u64,
}

/// Workers needed for the forecast leases.
#[derive(Serialize, JsonSchema)]
struct WorkerRequirementResult {
    /// Concurrent workers are at or below this in nine of ten cases.
    required_workers: u64,
    /// The measured part of such forecasts that was high enough.
    confidence: f64,
    /// Whether the plan uses it.
    is_trusted: bool,
}

/// Capacity for the forecast demand; null while too little is known.
#[derive(Serialize, JsonSchema)]
struct CapacityPlanResult {
    agents: Option<AgentRequirementResult>,
    workers: Option<WorkerRequirementResult>,
}

/// The result of get_plan.
#[derive(Serialize, JsonSchema)]
pub(crate) struct PlanResult {
    planned_at: String,
    /// `aggressive`, `balanced`, `conservative` or `custom`.
    policy: &'static str,
    /// The change of the number of workers: `scale_up`, `scale_down` or `hold`.
    action: &'static str,
    /// The most severe first; at most ten. Null if their detection failed.
    bottlenecks: Option<Vec<PlanBottleneck>>,
    /// Whether tokens are conserved, because most of them are used.
    conservation_mode: bool,
    /// Tasks that wait for tokens.
    deferred_tasks: u64,
    current_workers: u64,
    target_workers: u64,
    /// Workers wanted before limits, step sizes and cooldown.
    wanted_workers: u64,
    /// The least workers.
    min_workers: u64,
    /// The most workers.
    max_workers: u64,
    /// Leased workers, without leases past their deadline.
    leased_workers: u64,
    /// The leased part of the workers, from 0 to 1.
    utilization: f64,
    current_agents: u64,
    /// Agents there should be; the caller starts and stops agents.
    target_agents: u64,
    /// Agents wanted before step sizes and cooldown.
    wanted_agents: u64,
    /// The used part of the agents' task limits, from 0 to 1.
    agent_utilization: f64,
    /// Tasks that wait for an agent.
    pending_tasks: u64,
    /// The mean wait of waiting tasks.
    avg_wait_time_ms: u64,
    /// The time in which requests were counted.
    window_seconds: f64,
    /// Requests granted in that time.
    granted_requests: u64,
    /// Requests refused in that time.
    refused_requests: u64,
    forecast: RateResult,
    capacity_plan: CapacityPlanResult,
    /// Steps of planning that failed; the others went on without them.
    failed_steps: Vec<&'static str>,
    /// The reasons, in the order of the decisions.
    reasons: Vec<String>,
}

impl From<&Plan> for PlanResult {
    fn from(plan: &Plan) -> Self {
        Self {
            planned_at: plan.planned_at.to_string(),
            policy: plan.policy.as_str(),
            action: match plan.action {
                Action::ScaleUp => "scale_up",
                Action::ScaleDown => "scale_down",
                Action::Hold => "hold",
            },
            bottlenecks: plan.bottlenecks.as_ref().map(|named| named.iter().map(PlanBottleneck::from).collect()),
            conservation_mode: plan.saves_tokens,
            deferred_tasks: plan.deferred_tasks,
            current_workers: plan.current_workers,
            target_workers: plan.target_workers,
            wanted_workers: plan.wanted_workers,
            min_workers: plan.min_workers,
            max_workers: plan.max_workers,
            leased_workers: plan.leased_workers,
            utilization: plan.utilization,
            current_agents: plan.current_agents,
            target_agents: plan.target_agents,
            wanted_agents: plan.wanted_agents,
            agent_utilization: plan.agent_utilization,
            pending_tasks: plan.pending_tasks,
            avg_wait_time_ms: plan.avg_wait_time_ms,
            window_seconds: plan.window_seconds,
            granted_requests: plan.granted_requests,
            refused_requests: plan.refused_requests,
            forecast: RateResult {
                current_rate_per_minute: plan.forecast.current_rate_per_minute,
                trend: match plan.forecast.trend {
                    Trend::Increasing => "increasing",
                    Trend::Stable => "stable",
                    Trend::Decreasing => "decreasing",
                },
                predicted_rate_per_minute: plan.forecast.predicted_rate_per_minute,
            },
            capacity_plan: CapacityPlanResult {
                agents: plan.capacity.agents.as_ref().map(AgentRequirementResult::from),
                workers: plan.capacity.workers.as_ref().map(WorkerRequirementResult::from),
            },
            failed_steps: plan.failed_steps.clone(),
            reasons: plan.reasons.clone(),
        }
    }
}

impl From<&(Subject, Severity)> for PlanBottleneck {
    fn from((subject, severity): &(Subject, Severity)) -> Self {
        Self {
            bottleneck_type: subject.kind(),
            severity: severity.as_str(),
            affected: subject.name().map(str::to_owned).into_iter().collect(),
        }
    }
}

impl From<&AgentRequirement> for AgentRequirementResult {
    fn from(ahead: &AgentRequirement) -> Self {
        Self {
            expected_tasks_per_minute: ahead.tasks_per_minute,
            confidence: ahead.confidence,
            is_trusted: ahead.is_trusted(),
            avg_task_duration_ms: ahead.durations.mean.0,
            arrival_variability: ahead.arrival_variability,
            tasks_under_way: ahead.capacity.concurrent_tasks,
            places_for_utilization: ahead.capacity.slots_for_utilization,
            places_for_waiting: ahead.capacity.slots_for_waiting,
            wait_chance: ahead.capacity.wait_probability,
            required_agents: ahead.required,
        }
    }
}

impl From<&WorkerRequirement> for WorkerRequirementResult {
    fn from(ahead: &WorkerRequirement) -> Self {
        Self { required_workers: ahead.required, confidence: ahead.confidence, is_trusted: ahead.is_trusted() }
    }
}
