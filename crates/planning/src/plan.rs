//! Plans: the decisions of the planner as data, with their reasons.

use super::bottlenecks::{Severity, Subject};
use super::capacity_plan::CapacityPlan;
use super::forecast::TrendForecast;
use cortex_core::policy::PolicyName;
use cortex_core::time::Timestamp;

/// What a plan does with the number of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Adds workers.
    ScaleUp,
    /// Removes workers.
    ScaleDown,
    /// Keeps the number of workers.
    Hold,
}

/// The maximum number of bottlenecks in a plan.
pub(super) const PLAN_BOTTLENECKS_MAX: usize = 10;

/// A scaling decision with the figures and the reasons behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The time of the observation.
    pub planned_at: Timestamp,
    /// The policy in effect.
    pub policy: PolicyName,
    /// What happens to the number of workers.
    pub action: Action,
    /// The bottlenecks, the most severe first; at most 10. `None` if the check for bottlenecks failed.
    pub bottlenecks: Option<Vec<(Subject, Severity)>>,
    /// Whether token conservation is on.
    pub saves_tokens: bool,
    /// The number of tasks that wait for tokens.
    pub deferred_tasks: u64,
    /// The present number of worker slots.
    pub current_workers: u64,
    /// The planned number of worker slots.
    pub target_workers: u64,
    /// The number of worker slots needed, before limits, step size, stabilization and cooldown.
    pub wanted_workers: u64,
    /// The lower limit of worker slots.
    pub min_workers: u64,
    /// The upper limit of worker slots.
    pub max_workers: u64,
    /// The leased worker slots, without those of leases past their deadline.
    pub leased_workers: u64,
    /// The leased fraction of the workers, from 0 to 1; 0 if there are none.
    pub utilization: f64,
    /// The present number of agents.
    pub current_agents: u64,
    /// The planned number of agents. The planner itself neither starts nor stops agents: their operator does.
    pub target_agents: u64,
    /// The number of agents needed, before step size, stabilization and cooldown.
    pub wanted_agents: u64,
    /// The fraction of the agents' task slots in use, from 0 to 1; 0 if there are none.
    pub agent_utilization: f64,
    /// The number of tasks that wait for an agent.
    pub pending_tasks: u64,
    /// The mean time that the waiting tasks have waited, in milliseconds.
    pub avg_wait_time_ms: u64,
    /// The period over which requests were counted, in seconds.
    pub window_seconds: f64,
    /// The requests granted in that period.
    pub granted_requests: u64,
    /// The requests refused in that period.
    pub refused_requests: u64,
    /// The largest number of workers in a refused request that this plan considers; 0 if there is none.
    pub refused_workers_max: u64,
    /// The request rate and its trend.
    pub forecast: TrendForecast,
    /// What the expected demand requires.
    pub capacity: CapacityPlan,
    /// The planning steps that failed; the plan was made without them.
    pub failed_steps: Vec<&'static str>,
    /// The reasons, in the order of the decisions.
    pub reasons: Vec<String>,
}
