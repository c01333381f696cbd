//! Policies: when to scale, and how far.

use crate::core::Millis;

/// A policy by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyName {
    /// Early and much, for throughput.
    Aggressive,
    /// In between.
    Balanced,
    /// Late and little, for thrift.
    Conservative,
}

impl PolicyName {
    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aggressive => "aggressive",
            Self::Balanced => "balanced",
            Self::Conservative => "conservative",
        }
    }
}

/// When to scale, and how far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Which it is.
    pub name: PolicyName,
    /// With more waiting tasks than this there are too few agents.
    pub queue_depth_up: u64,
    /// With at least so many there are not too many agents.
    pub queue_depth_down: u64,
    /// For so many waiting tasks above [`Self::queue_depth_up`] there is to be one agent more; at least 1.
    pub tasks_per_agent: u64,
    /// If tasks have waited longer than this in the mean there are too few agents.
    pub wait_up: Millis,
    /// If they have waited at least so long there are not too many.
    pub wait_down: Millis,
    /// Above this part in use there are too few agents, or workers.
    pub utilization_up: f64,
    /// Below this part in use there are too many.
    pub utilization_down: f64,
    /// The part that should be in use after scaling; above 0.
    pub utilization_target: f64,
    /// A number that differs from the wanted one by less than this part of it stays, unless somebody waits or was refused.
    pub tolerance: f64,
    /// How long after a change nothing is changed.
    pub cooldown: Millis,
    /// The number goes down no further than to the highest that was wanted over this time.
    pub scale_in_window: Millis,
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
            wait_up: Millis::from_seconds(5),
            wait_down: Millis::from_seconds(1),
            utilization_up: 0.8,
            utilization_down: 0.2,
            utilization_target: 0.7,
            tolerance: 0.1,
            cooldown: Millis::from_seconds(cooldown_seconds),
            scale_in_window: Millis::from_seconds(300),
        }
    }
}
