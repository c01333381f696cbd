//! Scaling policies: when to scale, and how far. They are part of the books, so that a restart goes on with the one that was set.

use super::time::Millis;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A policy by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyName {
    /// Early and much, for throughput.
    Aggressive,
    /// In between.
    Balanced,
    /// Late and little, for thrift.
    Conservative,
    /// With figures of somebody's own.
    Custom,
}

impl PolicyName {
    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aggressive => "aggressive",
            Self::Balanced => "balanced",
            Self::Conservative => "conservative",
            Self::Custom => "custom",
        }
    }

    /// The policy of this name; a custom one begins with the figures of the balanced one.
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

/// A part of something in hundredths, from 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Percent(u8);

impl Percent {
    /// So many hundredths, from 0 to 100, and nothing for any other number.
    #[must_use]
    pub const fn new(hundredths: u8) -> Option<Self> {
        if hundredths <= 100 { Some(Self(hundredths)) } else { None }
    }

    /// In hundredths.
    #[must_use]
    pub const fn as_hundredths(self) -> u8 {
        self.0
    }

    /// As a part, from 0 to 1.
    #[must_use]
    pub fn as_part(self) -> f64 {
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
        Self::new(hundredths).ok_or_else(|| format!("{hundredths} % is more than there is: give 0 to 100"))
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
    /// Which it is.
    pub name: PolicyName,
    /// With more waiting tasks than this there are too few agents.
    pub queue_depth_up: u64,
    /// With at least so many there are not too many agents.
    pub queue_depth_down: u64,
    /// For so many waiting tasks above [`Self::queue_depth_up`] there is to be one agent more; at least 1.
    pub tasks_per_agent: u64,
    /// If tasks have waited longer than this in the mean there are too few agents, in milliseconds.
    pub wait_up_ms: Millis,
    /// If they have waited at least so long there are not too many, in milliseconds.
    pub wait_down_ms: Millis,
    /// Above this part in use there are too few agents, or workers.
    pub utilization_up: Percent,
    /// Below this part in use there are too many.
    pub utilization_down: Percent,
    /// The part that should be in use after scaling; above 0.
    pub utilization_target: Percent,
    /// A number that differs from the wanted one by less than this part of it stays, unless somebody waits or was refused.
    pub tolerance: Percent,
    /// How long after a change nothing is changed, in milliseconds.
    pub cooldown_ms: Millis,
    /// The number goes down no further than to the highest that was wanted over this time, in milliseconds.
    pub scale_in_window_ms: Millis,
}

impl Policy {
    /// The policy with 30 and 10 waiting tasks, one agent for 20 tasks, and 20 s of cooldown: the default.
    pub const BALANCED: Self = Self::of_table(PolicyName::Balanced, [30, 10, 20], 20);

    /// The policy with 20 and 5 waiting tasks, one agent for 15 tasks, and 10 s of cooldown.
    pub const AGGRESSIVE: Self = Self::of_table(PolicyName::Aggressive, [20, 5, 15], 10);

    /// The policy with 50 and 15 waiting tasks, one agent for 25 tasks, and 30 s of cooldown.
    pub const CONSERVATIVE: Self = Self::of_table(PolicyName::Conservative, [50, 15, 25], 30);

    /// All that have a name of their own.
    pub const NAMED: [Self; 3] = [Self::AGGRESSIVE, Self::BALANCED, Self::CONSERVATIVE];

    /// A row of the scaling policies of the Resource Allocation Module, with what its scaling criteria have for all of them (5 s
    /// and 1 s of waiting, 80 % and 20 % in use), the 30 % headroom of its capacity plan, and the tolerance of 10 % and the 300 s
    /// of looking back of the Horizontal Pod Autoscaler of Kubernetes.
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
