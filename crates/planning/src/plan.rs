//! Plans: what the planner would do, as data with its reasons.

use super::bottlenecks::{Severity, Subject};
use super::capacity_plan::CapacityPlan;
use super::forecast::Forecast;
use cortex_core::policy::PolicyName;
use cortex_core::time::Timestamp;

/// What a plan does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// More workers.
    ScaleUp,
    /// Fewer workers.
    ScaleDown,
    /// As many as there are.
    Hold,
}

/// How many bottlenecks a plan names.
pub const PLAN_BOTTLENECKS_MAX: usize = 10;

/// What the planner would do, with the figures and the reasons that led to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// When it was made.
    pub planned_at: Timestamp,
    /// By which policy.
    pub policy: PolicyName,
    /// What it does.
    pub action: Action,
    /// What holds tasks up, the most severe first; at most [`PLAN_BOTTLENECKS_MAX`] of them. Nothing if the look for them failed.
    pub bottlenecks: Option<Vec<(Subject, Severity)>>,
    /// Whether so many tokens are used that the rest is saved.
    pub saves_tokens: bool,
    /// How many tasks wait for tokens.
    pub deferred_tasks: u64,
    /// Worker slots there are.
    pub current_workers: u64,
    /// Worker slots there should be.
    pub target_workers: u64,
    /// Worker slots that are wanted, before bounds, steps and patience.
    pub wanted_workers: u64,
    /// The fewest there may be.
    pub min_workers: u64,
    /// The most there may be.
    pub max_workers: u64,
    /// Worker slots taken, those of leases past their deadline left out.
    pub leased_workers: u64,
    /// The part of the workers that is taken, from 0 to 1; 0 if there are none.
    pub utilization: f64,
    /// Agents there are.
    pub current_agents: u64,
    /// Agents there should be. None is ever registered or sent away: whoever runs agents does that.
    pub target_agents: u64,
    /// Agents that are wanted, before steps and patience.
    pub wanted_agents: u64,
    /// The part of what the agents may hold that they hold, from 0 to 1; 0 if there are none.
    pub agent_utilization: f64,
    /// Tasks that wait for an agent.
    pub pending_tasks: u64,
    /// How long what waits has waited, in the mean, in milliseconds.
    pub avg_wait_time_ms: u64,
    /// Over how many seconds requests were counted.
    pub window_seconds: f64,
    /// Requests granted in that time.
    pub granted_requests: u64,
    /// Requests refused in that time.
    pub refused_requests: u64,
    /// The most workers that one of those asked for that this plan goes by; 0 if it goes by none.
    pub refused_workers_max: u64,
    /// The rate of requests, and the one to expect by its trend.
    pub forecast: Forecast,
    /// What the demand to expect takes.
    pub capacity: CapacityPlan,
    /// The steps that failed, if any: the others went on without them.
    pub failed_steps: Vec<&'static str>,
    /// Why, in order.
    pub reasons: Vec<String>,
}
