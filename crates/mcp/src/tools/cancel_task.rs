//! `cancel_task`: cancels a task.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, change_task, definition};
use crate::arguments::{self, Arguments, Parameter};
use cortex_core::fleet::command::{FleetCommand, FleetOutcome};
use cortex_core::fleet::view::TaskView;
use cortex_core::ids::TaskId;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

pub(super) struct CancelTask {
    task_id: Parameter<TaskId>,
}

impl CancelTask {
    pub(super) fn new() -> Self {
        Self { task_id: arguments::task_id("From submit_task.").required() }
    }
}

impl ToolHandler for CancelTask {
    fn name(&self) -> &'static str {
        "cancel_task"
    }

    fn describe(&self) -> Tool {
        definition::<TaskCancelResult>(
            self.name(),
            "Cancel task",
            "Cancel a waiting or running task. A running agent is not interrupted: its agent_id is returned, and \
             its report will be refused. A task that has ended stays as it is: \"already_ended\".",
            &[&self.task_id],
            &Hints { is_read_only: false, is_destructive: true, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &[&self.task_id])?;
            let task = arguments.required(&self.task_id)?;
            let command = FleetCommand::Cancel { task: task.clone() };
            let (outcome, view) = change_task(&invocation.engine, task, command).await?;
            ToolOutput::new(&TaskCancelResult::new(&outcome, &view))
        }
        .boxed()
    }
}

/// The result of cancel_task.
#[derive(Serialize, JsonSchema)]
struct TaskCancelResult {
    /// `cancelled`, or `already_ended` if it had ended before.
    status: &'static str,
    task_id: String,
    /// `cancelled`, `completed` or `failed`.
    state: &'static str,
    /// The agent that held it and whose report will be refused: stop it. Null if no agent held it.
    agent_id: Option<String>,
    ended_at: String,
}

impl TaskCancelResult {
    fn new(outcome: &FleetOutcome, view: &TaskView) -> Self {
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
