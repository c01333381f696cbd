//! The result of update_task.

use super::{deferred_reason, priority_of_task};
use cortex_core::fleet::view::TaskView;
use schemars::JsonSchema;
use serde::Serialize;

/// The result of update_task.
#[derive(Serialize, JsonSchema)]
pub(crate) struct TaskUpdateResult {
    /// `updated`.
    status: &'static str,
    task_id: String,
    state: &'static str,
    /// Why it is deferred; null if it is not.
    deferred_reason: Option<String>,
    /// `CRITICAL`, `HIGH`, `MEDIUM` or `LOW`.
    priority: &'static str,
    deadline: Option<String>,
}

impl From<&TaskView> for TaskUpdateResult {
    fn from(view: &TaskView) -> Self {
        Self {
            status: "updated",
            task_id: view.task.spec.task.to_string(),
            state: view.state.as_str(),
            deferred_reason: deferred_reason(view),
            priority: priority_of_task(view.task.priority),
            deadline: view.task.deadline.map(|at| at.to_string()),
        }
    }
}
