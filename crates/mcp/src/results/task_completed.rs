//! What complete_task answers.

use super::{attempts_left, deferred_reason};
use cortex_core::fleet::command::FleetOutcome;
use cortex_core::fleet::task::TaskState;
use cortex_core::ids::FencingToken;
use cortex_engine::TaskAfter;
use schemars::JsonSchema;
use serde::Serialize;

/// The answer to complete_task.
#[derive(Serialize, JsonSchema)]
pub(crate) struct TaskCompleteResult {
    /// `completed`; `requeued` if it failed and is tried again; `failed` if that was its last attempt; `already_reported` if
    /// this attempt was reported on before.
    status: &'static str,
    /// Which task.
    task_id: String,
    /// Where it stands now.
    state: &'static str,
    /// Why it is deferred, if it is.
    deferred_reason: Option<String>,
    /// How this attempt was reported: `success`, `failure` or `timeout`.
    result: Option<&'static str>,
    /// The tokens that are booked for this attempt.
    tokens_used: u64,
    /// How long it took, in milliseconds.
    duration_ms: u64,
    /// How often it was tried, this attempt included.
    attempts: u64,
    /// How often it is tried at most.
    max_attempts: u32,
    /// How often it can still be tried; 0 once it has ended.
    attempts_left: u64,
    /// When this attempt was reported on.
    reported_at: String,
}

impl TaskCompleteResult {
    /// What came of the report on the attempt with this token.
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
