//! The result of submit_task.

use super::{deferred_reason, priority_of_task};
use cortex_engine::Submitted;
use schemars::JsonSchema;
use serde::Serialize;

/// The result of submit_task.
#[derive(Serialize, JsonSchema)]
pub(crate) struct TaskSubmitResult {
    /// `submitted`, or `already_submitted` if this repeats an earlier call with the same `task_id`.
    status: &'static str,
    task_id: String,
    /// The job that it belongs to.
    job_id: Option<String>,
    /// `queued`, or `deferred` if there are no tokens for it; for a repeat, the current state.
    state: &'static str,
    /// `insufficient_tokens`, or `insufficient_job_tokens` of its job's own budget; null if it is not deferred.
    deferred_reason: Option<String>,
    /// `CRITICAL`, `HIGH`, `MEDIUM` or `LOW`.
    priority: &'static str,
    /// Registered agents that may take it, now or later.
    able_agents: u64,
    /// Tokens that an attempt is expected to take, and reserves.
    estimated_tokens: u64,
    /// Whether the server estimated them.
    is_estimated: bool,
    /// The time by which it should be done.
    deadline: Option<String>,
    /// The time limit of an attempt, in seconds.
    lease_seconds: u64,
    /// The most attempts.
    max_attempts: u32,
    submitted_at: String,
}

impl From<&Submitted> for TaskSubmitResult {
    fn from(submitted: &Submitted) -> Self {
        let view = &submitted.detail.view;
        let spec = &view.task.spec;
        Self {
            status: if submitted.is_new { "submitted" } else { "already_submitted" },
            task_id: spec.task.to_string(),
            job_id: spec.request.job.as_ref().map(ToString::to_string),
            state: view.state.as_str(),
            deferred_reason: deferred_reason(view),
            priority: priority_of_task(view.task.priority),
            able_agents: submitted.detail.able_agents,
            estimated_tokens: spec.estimated_tokens,
            is_estimated: spec.request.tokens.given.is_none(),
            deadline: view.task.deadline.map(|at| at.to_string()),
            lease_seconds: spec.request.lease_seconds.as_seconds(),
            max_attempts: spec.request.attempts_max,
            submitted_at: view.task.submitted_at.to_string(),
        }
    }
}
