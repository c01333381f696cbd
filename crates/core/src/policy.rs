//! Scaling policies: when to scale, and how far. The current policy is part of the state, so that a restart keeps it.

use super::time::Millis;
use serde::{Deserialize, Serialize};
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyName {
    /// Scales early and far, for throughput.
    Aggressive,
    /// The default.
    Balanced,
    /// Scales late and little, to save resources.
    Conservative,
    /// Has figures set by the user.
    Custom,
}

impl PolicyName {
    /// Returns the name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aggressive => "aggressive",
            Self::Balanced => "balanced",
            Self::Conservative => "conservative",
            Self::Custom => "custom",
        }
    }

    /// Returns the policy of this name. A custom one starts with the figures of the balanced one.
    #[must_use]
    pub const fn policy(self) -> Policy {
        match self {
            Self::Aggressive => Policy::AGGRESSIVE,
            Self::Balanced => Policy::BALANCED,
            Self::Conservative => Policy::CONSERVATIVE,
            Self::Custom => Policy { name: Self::Custom, ..Policy::BALANCED },
        }
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A percentage from 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Percent(u8);

impl Percent {
    /// Returns the percentage, or `None` above 100.
    #[must_use]
    pub const fn new(hundredths: u8) -> Option<Self> {
        if hundredths <= 100 { Some(Self(hundredths)) } else { None }
    }

    #[must_use]
    pub const fn as_hundredths(self) -> u8 {
        self.0
    }

    /// Returns the fraction, from 0 to 1.
    #[must_use]
    pub fn as_fraction(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.0)
    }
}

impl TryFrom<u8> for Percent {
    type Error = String;

    fn try_from(hundredths: u8) -> Result<Self, Self::Error> {
        Self::new(hundredths).ok_or_else(|| format!("{hundredths} % is not a percentage: give 0 to 100"))
    }
}

impl From<Percent> for u8 {
    fn from(percent: Percent) -> Self {
        percent.0
    }
}

/// When to scale, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    pub name: PolicyName,
    /// With more waiting tasks than this, there are too few agents.
    pub queue_depth_up: u64,
    /// With at least this number of waiting tasks, there are not too many agents.
    pub queue_depth_down: u64,
    /// One agent is added for this number of waiting tasks above [`Self::queue_depth_up`]; at least 1.
    pub tasks_per_agent: u64,
    /// If tasks have waited longer than this on average, there are too few agents; in milliseconds.
    pub wait_up_ms: Millis,
    /// If tasks have waited at least this long on average, there are not too many agents; in milliseconds.
    pub wait_down_ms: Millis,
    /// Above this utilization there are too few agents, or workers.
    pub utilization_up: Percent,
    /// Below this utilization there are too many.
    pub utilization_down: Percent,
    /// The utilization to reach by scaling; above 0.
    pub utilization_target: Percent,
    /// A number that differs from the target by less than this part of the target stays, unless a request waits or
    /// was refused.
    pub tolerance: Percent,
    /// How long nothing is changed after a change, in milliseconds.
    pub cooldown_ms: Millis,
    /// A number is never reduced below the highest target of this period, in milliseconds.
    pub scale_in_window_ms: Millis,
}

impl Policy {
    /// The default: scales up above 30 waiting tasks and down below 10, with one agent for 20 tasks and 20 s of
    /// cooldown.
    pub const BALANCED: Self = Self::of_table(PolicyName::Balanced, [30, 10, 20], 20);

    /// Scales up above 20 waiting tasks and down below 5, with one agent for 15 tasks and 10 s of cooldown.
    pub const AGGRESSIVE: Self = Self::of_table(PolicyName::Aggressive, [20, 5, 15], 10);

    /// Scales up above 50 waiting tasks and down below 15, with one agent for 25 tasks and 30 s of cooldown.
    pub const CONSERVATIVE: Self = Self::of_table(PolicyName::Conservative, [50, 15, 25], 30);

    /// All policies but the custom one.
    pub const NAMED: [Self; 3] = [Self::AGGRESSIVE, Self::BALANCED, Self::CONSERVATIVE];

    /// Makes a policy from a row of the scaling policies of the Resource Allocation Module. All policies share the
    /// thresholds of its scaling criteria (5 s and 1 s of waiting, 80 % and 20 % utilization) and the 30 % headroom
    /// of its capacity plan. The tolerance of 10 % and the window of 300 s are those of the Horizontal Pod Autoscaler
    /// of Kubernetes.
    const fn of_table(name: PolicyName, [up, down, tasks_per_agent]: [u64; 3], cooldown_seconds: u64) -> Self {
        Self {
            name,
            queue_depth_up: up,
            queue_depth_down: down,
            tasks_per_agent,
            wait_up_ms: Millis::from_seconds(5),
            wait_down_ms: Millis::from_seconds(1),
            utilization_up: Percent(80),
            utilization_down: Percent(20),
            utilization_target: Percent(70),
            tolerance: Percent(10),
            cooldown_ms: Millis::from_seconds(cooldown_seconds),
            scale_in_window_ms: Millis::from_seconds(300),
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::BALANCED
    }
}
