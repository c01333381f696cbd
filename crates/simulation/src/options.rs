//! What a simulator is like, and who runs the agents in it.

use cortex_core::fleet::settings::FleetSettings;
use cortex_core::policy::Policy;
use cortex_core::time::Millis;

/// The most agents that there may be.
pub const AGENTS_MAX: u64 = 100_000;

/// Agents that vanish at a moment: they stop beating and reporting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// When, from the first arrival on.
    pub at: Millis,
    /// How many, or all if there are fewer.
    pub agents: u64,
}

/// A budget of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBudget {
    /// How many tokens all tasks may take together, in each window if there are any.
    pub tokens: u64,
    /// After how long what was taken is cleared, each time; zero for never.
    pub window: Millis,
}

/// What a simulator is like.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// What the durations of tasks and the moments of arrivals are drawn from.
    pub seed: u64,
    /// How long a task takes, in the mean.
    pub duration_mean: Millis,
    /// How much time there is between two plans; above zero.
    pub plan_every: Millis,
    /// How many agents there are at the start; at least 1.
    pub agents_at_start: u64,
    /// How many there may be at most, up to [`AGENTS_MAX`].
    pub agents_max: u64,
    /// The bounds and periods of the books.
    pub fleet: FleetSettings,
    /// The token budget; as many as are asked for if absent.
    pub tokens: Option<TokenBudget>,
    /// The agents that vanish, in any order.
    pub losses: Vec<Loss>,
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

/// Who says how many agents there should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operator {
    /// The planner, by this policy.
    Planner(Policy),
    /// Nobody: as many as at the start, where those that are lost are replaced.
    Nobody,
}
