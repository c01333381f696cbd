//! What get_plan answers.

use cortex_planning::{Action, AgentRequirement, Plan, Severity, Subject, Trend, WorkerRequirement};
use schemars::JsonSchema;
use serde::Serialize;

/// The rate of requests now and the one to expect.
#[derive(Serialize, JsonSchema)]
pub(crate) struct RateResult {
    /// Requests a minute since the last look, refused ones included.
    current_rate_per_minute: f64,
    /// `increasing`, `stable` or `decreasing`.
    trend: &'static str,
    /// Requests a minute to expect next.
    predicted_rate_per_minute: f64,
}

/// Something that holds tasks up.
#[derive(Serialize, JsonSchema)]
struct PlanBottleneck {
    /// `token_exhaustion`, `quota_exceeded`, `slow_agent` or `task_queue_backlog`.
    bottleneck_type: &'static str,
    /// `low`, `medium`, `high` or `critical`.
    severity: &'static str,
    /// The job, type or agent that it is about; empty if it is about all of them.
    affected: Vec<String>,
}

/// How many agents the tasks to come take.
#[derive(Serialize, JsonSchema)]
struct AgentsAheadResult {
    /// Tasks to expect in a minute: it stays at or below this in nine of ten cases.
    expected_tasks_per_minute: f64,
    /// The part of such forecasts that was enough, as measured; null for a rate that was asked about.
    confidence: Option<f64>,
    /// Whether the plan goes by it.
    is_trusted: bool,
    /// How long a task takes, in the mean, as seen.
    avg_task_duration_ms: u64,
    /// How bursty tasks come, as the variance of their number over its mean: 1 if they come independently.
    arrival_variability: f64,
    /// Tasks under way at once, in the mean, by Little's law.
    tasks_under_way: f64,
    /// Places it takes so that the part of them that should be in use is.
    places_for_utilization: u64,
    /// Places it takes so that few tasks wait long.
    places_for_waiting: u64,
    /// The chance to wait over 5 s with the larger number.
    wait_chance: f64,
    /// Agents that have so many places.
    required_agents: u64,
}

/// How many workers the leases to come take.
#[derive(Serialize, JsonSchema)]
struct WorkersAheadResult {
    /// Workers that are wanted at once at the most, in nine of ten cases.
    required_workers: u64,
    /// The part of such forecasts that was enough, as measured.
    confidence: f64,
    /// Whether the plan goes by it.
    is_trusted: bool,
}

/// What the demand to come takes; null while too little is known.
#[derive(Serialize, JsonSchema)]
struct CapacityPlanResult {
    /// For tasks.
    agents: Option<AgentsAheadResult>,
    /// For leases.
    workers: Option<WorkersAheadResult>,
}

/// The answer to get_plan.
#[derive(Serialize, JsonSchema)]
pub(crate) struct PlanResult {
    /// When it was made.
    planned_at: String,
    /// By which policy: `aggressive`, `balanced`, `conservative` or `custom`.
    policy: &'static str,
    /// What is done with the number of workers: `scale_up`, `scale_down` or `hold`.
    action: &'static str,
    /// What holds tasks up, the most severe first; at most ten. Null if the look for it failed.
    bottlenecks: Option<Vec<PlanBottleneck>>,
    /// Whether so many tokens are used that the rest is saved.
    conservation_mode: bool,
    /// Tasks that wait for tokens.
    deferred_tasks: u64,
    /// Workers there are.
    current_workers: u64,
    /// Workers there should be.
    target_workers: u64,
    /// Workers that are wanted, before bounds, steps and patience.
    wanted_workers: u64,
    /// The fewest there may be.
    min_workers: u64,
    /// The most there may be.
    max_workers: u64,
    /// Workers that are leased, leases past their deadline left out.
    leased_workers: u64,
    /// The part of the workers that is leased, from 0 to 1.
    utilization: f64,
    /// Agents there are.
    current_agents: u64,
    /// Agents there should be: whoever runs agents starts and stops them.
    target_agents: u64,
    /// Agents that are wanted, before steps and patience.
    wanted_agents: u64,
    /// The part of what the agents may hold that they hold, from 0 to 1.
    agent_utilization: f64,
    /// Tasks that wait for an agent.
    pending_tasks: u64,
    /// How long what waits has waited, in the mean.
    avg_wait_time_ms: u64,
    /// Over how many seconds requests were counted.
    window_seconds: f64,
    /// Requests granted in that time.
    granted_requests: u64,
    /// Requests refused in that time.
    refused_requests: u64,
    /// The rate of requests, and the one to expect by its trend.
    forecast: RateResult,
    /// What the demand to come takes.
    capacity_plan: CapacityPlanResult,
    /// Steps of the plan that failed; the others went on without them.
    failed_steps: Vec<&'static str>,
    /// Why, in order.
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
                agents: plan.capacity.agents.as_ref().map(AgentsAheadResult::from),
                workers: plan.capacity.workers.as_ref().map(WorkersAheadResult::from),
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

impl From<&AgentRequirement> for AgentsAheadResult {
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

impl From<&WorkerRequirement> for WorkersAheadResult {
    fn from(ahead: &WorkerRequirement) -> Self {
        Self { required_workers: ahead.required, confidence: ahead.confidence, is_trusted: ahead.is_trusted() }
    }
}
