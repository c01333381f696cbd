//! A scaling policy, as set_scaling_policy and get_scaling_history show it.

use cortex_core::policy::Policy;
use schemars::JsonSchema;
use serde::Serialize;

/// A scaling policy with its figures.
#[derive(Serialize, JsonSchema)]
pub(crate) struct PolicyResult {
    /// `aggressive`, `balanced`, `conservative` or `custom`.
    name: &'static str,
    /// More agents above this many waiting tasks.
    scale_up_threshold: u64,
    /// Keep agents while this many tasks wait.
    scale_down_threshold: u64,
    /// One agent per this many tasks above scale_up_threshold.
    agents_per_threshold: u64,
    /// Pause after a change.
    cooldown_ms: u64,
    /// More agents above this mean wait.
    wait_up_ms: u64,
    /// Keep agents while the mean wait is this long.
    wait_down_ms: u64,
    /// More agents or workers above this use.
    utilization_up_percent: u8,
    /// Fewer agents or workers below this use.
    utilization_down_percent: u8,
    /// The use to aim for.
    utilization_target_percent: u8,
    /// The accepted difference from the wanted number.
    tolerance_percent: u8,
    /// Never scale in below the highest number wanted in this time.
    scale_in_window_seconds: u64,
}

impl From<&Policy> for PolicyResult {
    fn from(policy: &Policy) -> Self {
        Self {
            name: policy.name.as_str(),
            scale_up_threshold: policy.queue_depth_up,
            scale_down_threshold: policy.queue_depth_down,
            agents_per_threshold: policy.tasks_per_agent,
            cooldown_ms: policy.cooldown_ms.0,
            wait_up_ms: policy.wait_up_ms.0,
            wait_down_ms: policy.wait_down_ms.0,
            utilization_up_percent: policy.utilization_up.as_hundredths(),
            utilization_down_percent: policy.utilization_down.as_hundredths(),
            utilization_target_percent: policy.utilization_target.as_hundredths(),
            tolerance_percent: policy.tolerance.as_hundredths(),
            scale_in_window_seconds: policy.scale_in_window_ms.as_seconds(),
        }
    }
}
