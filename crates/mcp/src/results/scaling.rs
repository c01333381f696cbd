//! What set_scaling_policy and get_scaling_history answer.

use cortex_core::policy::Policy;
use cortex_core::scaling_state::PastScaling;
use schemars::JsonSchema;
use serde::Serialize;

/// A scaling policy with its figures.
#[derive(Serialize, JsonSchema)]
struct PolicyResult {
    /// `aggressive`, `balanced`, `conservative` or `custom`.
    name: &'static str,
    /// With more waiting tasks than this there are too few agents.
    scale_up_threshold: u64,
    /// With at least so many there are not too many.
    scale_down_threshold: u64,
    /// For so many tasks above scale_up_threshold there is to be one agent more.
    agents_per_threshold: u64,
    /// How long after a change nothing is changed.
    cooldown_ms: u64,
    /// If tasks have waited longer than this in the mean there are too few agents.
    wait_up_ms: u64,
    /// If they have waited at least so long there are not too many.
    wait_down_ms: u64,
    /// With more than this part in use there are too few agents or workers.
    utilization_up_percent: u8,
    /// With less than this part in use there are too many.
    utilization_down_percent: u8,
    /// The part that should be in use.
    utilization_target_percent: u8,
    /// By how much a number may differ from the wanted one.
    tolerance_percent: u8,
    /// The number goes down no further than to the highest that was wanted over this time.
    scale_in_window_seconds: u64,
}

/// The answer to set_scaling_policy.
#[derive(Serialize, JsonSchema)]
pub(crate) struct PolicySetResult {
    /// `set`.
    status: &'static str,
    /// The policy from now on.
    policy: PolicyResult,
    /// The policy before.
    previous_policy: PolicyResult,
}

/// A change of how many there should be.
#[derive(Serialize, JsonSchema)]
struct ScalingResult {
    /// When.
    scaled_at: String,
    /// By which policy.
    policy: &'static str,
    /// Workers there were.
    from_workers: u64,
    /// Workers there are since.
    to_workers: u64,
    /// Agents there were.
    from_agents: u64,
    /// Agents there should be since: whoever runs agents starts and stops them.
    to_agents: u64,
    /// Why.
    reason: String,
}

/// The answer to get_scaling_history.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ScalingHistoryResult {
    /// The policy in force.
    policy: PolicyResult,
    /// The changes, the newest first.
    scalings: Vec<ScalingResult>,
    /// How many are shown.
    count: usize,
    /// How many are on record.
    total: usize,
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

impl PolicySetResult {
    pub(crate) fn new(policy: &Policy, before: &Policy) -> Self {
        Self { status: "set", policy: policy.into(), previous_policy: before.into() }
    }
}

impl ScalingHistoryResult {
    pub(crate) fn new(policy: &Policy, scalings: &[PastScaling], total: usize) -> Self {
        let scalings: Vec<ScalingResult> = scalings.iter().map(ScalingResult::from).collect();
        Self { policy: policy.into(), count: scalings.len(), scalings, total }
    }
}

impl From<&PastScaling> for ScalingResult {
    fn from(past: &PastScaling) -> Self {
        let scaling = &past.scaling;
        Self {
            scaled_at: past.at.to_string(),
            policy: scaling.policy.as_str(),
            from_workers: scaling.workers_from,
            to_workers: scaling.workers_to,
            from_agents: scaling.agents_from,
            to_agents: scaling.agents_to,
            reason: scaling.reason.to_string(),
        }
    }
}
