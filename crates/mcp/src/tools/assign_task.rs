//! `assign_task`: chooses an agent for a task and leases the task to it.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, Arguments, Parameter};
use crate::results::LeasedTask;
use cortex_core::ids::TaskId;
use cortex_engine::Assignment;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

pub(super) struct AssignTask {
    task_id: Parameter<TaskId>,
}

impl AssignTask {
    pub(super) fn new() -> Self {
        Self { task_id: arguments::task_id("From submit_task.").required() }
    }
}

impl ToolHandler for AssignTask {
    fn name(&self) -> &'static str {
        "assign_task"
    }

    fn describe(&self) -> Tool {
        definition::<AssignResult>(
            self.name(),
            "Assign task",
            "Choose an agent for a waiting task by health and load, and lease it the task with others of its \
             batch_key. The agent gets them from claim_task if it waits there, else from heartbeat_agent. Refused \
             with the reason if no agent can take it now: register one, retry, or leave it to claim_task.",
            &[&self.task_id],
            &Hints { is_read_only: false, is_destructive: false, is_idempotent: false },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &[&self.task_id])?;
            let task = arguments.required(&self.task_id)?;
            ToolOutput::new(&AssignResult::from(&invocation.engine.assign_task(task).await?))
        }
        .boxed()
    }
}

/// The result of assign_task.
#[derive(Serialize, JsonSchema)]
struct AssignResult {
    /// `assigned`.
    status: &'static str,
    agent_id: String,
    count: u64,
    /// The requested task first, then others of its `batch_key`. get_task has the payloads.
    tasks: Vec<LeasedTask>,
}

impl From<&Assignment> for AssignResult {
    fn from(assignment: &Assignment) -> Self {
        let tasks: Vec<LeasedTask> = assignment.tasks.iter().filter_map(LeasedTask::new).collect();
        Self { status: "assigned", agent_id: assignment.agent.to_string(), count: tasks.len() as u64, tasks }
    }
}
