//! `cancel_task`: cancels a task.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, Arguments, Parameter};
use crate::results::TaskCancelResult;
use cortex_core::ids::TaskId;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
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
            let after = invocation.engine.cancel_task(arguments.required(&self.task_id)?).await?;
            ToolOutput::new(&TaskCancelResult::from(&after))
        }
        .boxed()
    }
}
