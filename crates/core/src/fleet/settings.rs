//! The limits and periods of the fleet.

use super::super::time::Millis;
use serde::{Deserialize, Serialize};

/// An agent is lost after this number of consecutive missed heartbeats.
pub(super) const HEARTBEATS_MISSED_MAX: u64 = 3;

/// The limits and periods of the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetSettings {
    /// The maximum number of open tasks.
    pub tasks_max: u64,
    /// The maximum bytes of text in open tasks. A task that exceeds it is refused; an error that exceeds it is left out
    /// of its attempt.
    pub task_bytes_max: u64,
    /// The maximum bytes of text in ended tasks; the oldest records are removed first.
    pub ended_task_bytes_max: u64,
    /// The interval at which an agent sends heartbeats, in milliseconds; at least 1.
    pub heartbeat_ms: Millis,
    /// The waiting time that raises a task by one priority, in milliseconds; 0 for never.
    pub priority_aging_ms: Millis,
    /// The target duration of a task, in milliseconds; at least 1. The health of agents is measured against it.
    pub response_target_ms: Millis,
}

impl Default for FleetSettings {
    fn default() -> Self {
        Self {
            tasks_max: 100_000,
            task_bytes_max: 256 << 20,
            ended_task_bytes_max: 64 << 20,
            heartbeat_ms: Millis::from_seconds(10),
            priority_aging_ms: Millis::from_seconds(300),
            response_target_ms: Millis::from_seconds(3),
        }
    }
}
