//! What submit_task answers.

use super::{deferred_reason, priority_of_task};
use cortex_engine::Submitted;
use schemars::JsonSchema;
use serde::Serialize;

/// The answer to submit_task.
#[derive(Serialize, JsonSchema)]
pub(crate) struct TaskSubmitResult {
    /// `submitted`, or `already_submitted` if this repeats an earlier call with the same `task_id`.
    status: &'static str,
    /// The handle of the task.
    task_id: String,
    /// The job it is part of.
    job_id: Option<String>,
    /// `queued`, or `deferred` if there are no tokens for it; on a repeat, where the task is now.
    state: &'static str,
    /// Why it is deferred: `insufficient_tokens`, or `insufficient_job_tokens` of its job's own budget; null if it is not.
    deferred_reason: Option<String>,
    /// `CRITICAL`, `HIGH`, `MEDIUM` or `LOW`.
    priority: &'static str,
    /// How many agents are registered that may take it, now or later.
    able_agents: u64,
    /// How many tokens an attempt is expected to take, and reserves.
    estimated_tokens: u64,
    /// Whether that was estimated here rather than given.
    is_estimated: bool,
    /// When it should be done.
    deadline: Option<String>,
    /// How long one attempt may take, in seconds.
    lease_seconds: u64,
    /// How often it is tried.
    max_attempts: u32,
    /// When it was submitted.
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
