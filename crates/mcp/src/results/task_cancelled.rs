//! The result of cancel_task.

use cortex_core::fleet::command::FleetOutcome;
use cortex_engine::TaskAfter;
use schemars::JsonSchema;
use serde::Serialize;

/// The result of cancel_task.
#[derive(Serialize, JsonSchema)]
pub(crate) struct TaskCancelResult {
    /// `cancelled`, or `already_ended` if it had ended before.
    status: &'static str,
    task_id: String,
    /// `cancelled`, `completed` or `failed`.
    state: &'static str,
    /// The agent that held it and whose report will be refused: stop it. Null if no agent held it.
    agent_id: Option<String>,
    ended_at: String,
}

impl From<&TaskAfter> for TaskCancelResult {
    fn from(after: &TaskAfter) -> Self {
        let TaskAfter { outcome, view } = after;
        let agent = match outcome {
            FleetOutcome::Cancelled { agent } => agent.as_ref(),
            _ => None,
        };
        Self {
            status: if matches!(outcome, FleetOutcome::AlreadyEnded { .. }) { "already_ended" } else { "cancelled" },
            task_id: view.task.spec.task.to_string(),
            state: view.state.as_str(),
            agent_id: agent.map(ToString::to_string),
            ended_at: view.task.end().map_or(view.at, |end| end.at).to_string(),
        }
    }
}
