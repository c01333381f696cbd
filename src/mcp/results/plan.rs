//! What get_plan answers.

use crate::planning::{Action, Plan, Trend};
use schemars::JsonSchema;
use serde::Serialize;

/// The rate of requests now and the one to expect.
#[derive(Serialize, JsonSchema)]
pub(in crate::mcp) struct RateResult {
    /// Requests a minute since the last look, refused ones included.
    current_rate_per_minute: f64,
    /// `increasing`, `stable` or `decreasing`.
    trend: &'static str,
    /// Requests a minute to expect next.
    predicted_rate_per_minute: f64,
}

/// The answer to get_plan.
#[derive(Serialize, JsonSchema)]
pub(in crate::mcp) struct PlanResult {
    /// When it was made.
    planned_at: String,
    /// By which policy: `aggressive`, `balanced` or `conservative`.
    policy: &'static str,
    /// What is done with the number of workers: `scale_up`, `scale_down` or `hold`.
    action: &'static str,
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
    /// The rate of requests.
    forecast: RateResult,
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
            reasons: plan.reasons.clone(),
        }
    }
}
