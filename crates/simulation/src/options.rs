//! The options of a simulation, and the operator of its agents.

use cortex_core::fleet::settings::FleetSettings;
use cortex_core::policy::Policy;
use cortex_core::time::Millis;

/// The maximum number of agents in a simulation.
pub const AGENTS_MAX: u64 = 100_000;

/// A loss of agents: they stop sending heartbeats and reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentLoss {
    /// The time since the first arrival.
    pub at: Millis,
    /// The number of lost agents; all if there are fewer.
    pub agents: u64,
}

/// A token budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBudget {
    /// The tokens that all tasks may use together, per window if there is one.
    pub tokens: u64,
    /// The window after which the budget is refilled; zero for never.
    pub window: Millis,
}

/// The options of a simulation.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The seed of task durations.
    pub seed: u64,
    /// The mean duration of a task.
    pub duration_mean: Millis,
    /// The interval between two plans; above zero. New agents take as long to start.
    pub plan_every: Millis,
    /// The number of agents at the start; at least 1.
    pub agents_at_start: u64,
    /// The maximum number of agents, up to [`AGENTS_MAX`].
    pub agents_max: u64,
    /// The limits and periods of the fleet.
    pub fleet: FleetSettings,
    /// The token budget; unlimited if absent.
    pub tokens: Option<TokenBudget>,
    /// The losses of agents, in any order.
    pub losses: Vec<AgentLoss>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            duration_mean: Millis::from_seconds(30),
            plan_every: Millis::from_seconds(30),
            agents_at_start: 1,
            agents_max: AGENTS_MAX,
            fleet: FleetSettings::default(),
            tokens: None,
            losses: Vec::new(),
        }
    }
}

/// The component that decides the number of agents.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operator {
    /// The planner, with this policy.
    Planner(Policy),
    /// No component: the number at the start stays, and lost agents are replaced.
    Fixed,
}
