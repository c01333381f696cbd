//! `update_task`: changes the priority or deadline of a task.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, change_task, definition};
use crate::arguments::{self, AnyParameter, ArgumentError, Arguments, Parameter};
use crate::results::{deferred_reason, priority_of_task};
use cortex_core::fleet::command::FleetCommand;
use cortex_core::fleet::view::TaskView;
use cortex_core::ids::TaskId;
use cortex_core::priority::Priority;
use cortex_core::time::Timestamp;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

pub(super) struct UpdateTask {
    task_id: Parameter<TaskId>,
    priority: Parameter<Priority>,
    deadline: Parameter<Timestamp>,
}

impl UpdateTask {
    pub(super) fn new() -> Self {
        Self {
            task_id: arguments::task_id("From submit_task.").required(),
            priority: arguments::task_priority("New priority; unchanged if absent."),
            deadline: arguments::timestamp("deadline", "New deadline, RFC 3339 with offset; unchanged if absent."),
        }
    }

    fn parameters(&self) -> [&dyn AnyParameter; 3] {
        [&self.task_id, &self.priority, &self.deadline]
    }
}

impl ToolHandler for UpdateTask {
    fn name(&self) -> &'static str {
        "update_task"
    }

    fn describe(&self) -> Tool {
        definition::<TaskUpdateResult>(
            self.name(),
            "Update task",
            "Change the priority or deadline of a task that has not ended; give at least one. It keeps its \
             position within its priority. To change anything else, cancel it and submit another.",
            &self.parameters(),
            &Hints { is_read_only: false, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &self.parameters())?;
            let task = arguments.required(&self.task_id)?;
            let priority = arguments.optional(&self.priority)?;
            let deadline = arguments.optional(&self.deadline)?;
            if priority.is_none() && deadline.is_none() {
                let text = "priority and deadline are missing: give at least one of them";
                return Err(ArgumentError::Combination(text.to_owned()).into());
            }
            let command = FleetCommand::Update { task: task.clone(), priority, deadline };
            let (_, view) = change_task(&invocation.engine, task, command).await?;
            ToolOutput::new(&TaskUpdateResult::from(&view))
        }
        .boxed()
    }
}

/// The result of update_task.
#[derive(Serialize, JsonSchema)]
struct TaskUpdateResult {
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
