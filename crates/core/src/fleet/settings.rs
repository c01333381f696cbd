//! The bounds and periods that the books of the fleet are kept by.

use super::super::time::Millis;
use serde::{Deserialize, Serialize};

/// How many missed heartbeats in a row an agent is lost after.
pub const HEARTBEATS_MISSED_MAX: u64 = 3;

/// The bounds and periods of the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetSettings {
    /// The most tasks that may be open at once.
    pub tasks_max: u64,
    /// The most bytes that the texts of open tasks may take: a task that takes more is refused, and an error that takes more is
    /// left out of its attempt.
    pub task_bytes_max: u64,
    /// The most bytes that the texts of ended tasks may take; the oldest are forgotten first.
    pub ended_task_bytes_max: u64,
    /// How often an agent sends a heartbeat, in milliseconds; at least 1.
    pub heartbeat_ms: Millis,
    /// How long a task waits before it counts as one level more urgent, in milliseconds; 0 for never.
    pub priority_aging_ms: Millis,
    /// How long a task should take, in milliseconds; at least 1. An agent's health is measured against it.
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
