//! The result of complete_task.

use super::{attempts_left, deferred_reason};
use cortex_core::fleet::command::FleetOutcome;
use cortex_core::fleet::task::TaskState;
use cortex_core::ids::FencingToken;
use cortex_engine::TaskAfter;
use schemars::JsonSchema;
use serde::Serialize;

/// The result of complete_task.
#[derive(Serialize, JsonSchema)]
pub(crate) struct TaskCompleteResult {
    /// `completed`; `requeued` if it failed and will be retried; `failed` if that was its last attempt;
    /// `already_reported` if this attempt was reported before.
    status: &'static str,
    task_id: String,
    /// The current state of the task.
    state: &'static str,
    /// Why it is deferred; null if it is not.
    deferred_reason: Option<String>,
    /// The reported result of this attempt: `success`, `failure` or `timeout`.
    result: Option<&'static str>,
    /// The tokens counted for this attempt.
    tokens_used: u64,
    duration_ms: u64,
    /// Ended attempts, this one included.
    attempts: u64,
    /// The most attempts.
    max_attempts: u32,
    /// Attempts that remain; 0 once it has ended.
    attempts_left: u64,
    /// The time of the report on this attempt.
    reported_at: String,
}

impl TaskCompleteResult {
    /// Builds the result of a report on the attempt with this token.
    pub(crate) fn new(after: &TaskAfter, fencing_token: FencingToken) -> Self {
        let TaskAfter { outcome, view } = after;
        let task = &view.task;
        let attempt = task.attempts.iter().rfind(|attempt| attempt.fencing_token == fencing_token);
        let state = match outcome {
            FleetOutcome::Reported(left) => left.state,
            _ => view.state,
        };
        let status = match (outcome, state) {
            (FleetOutcome::AlreadyReported { .. }, _) => "already_reported",
            (_, TaskState::Completed) => "completed",
            (_, TaskState::Failed) => "failed",
            _ => "requeued",
        };
        Self {
            status,
            task_id: task.spec.task.to_string(),
            state: view.state.as_str(),
            deferred_reason: deferred_reason(view),
            result: attempt.map(|attempt| attempt.outcome.as_str()),
            tokens_used: attempt.map_or(0, |attempt| attempt.tokens_used),
            duration_ms: attempt.map_or(0, |attempt| attempt.duration_ms.0),
            attempts: task.attempts.len() as u64,
            max_attempts: task.spec.request.attempts_max,
            attempts_left: attempts_left(task),
            reported_at: attempt.map_or(view.at, |attempt| attempt.ended_at).to_string(),
        }
    }
}
