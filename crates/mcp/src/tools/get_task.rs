//! `get_task`: reads one task back.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition, unknown_task};
use crate::arguments::{self, Arguments, Parameter};
use crate::results::TaskResult;
use cortex_core::ids::TaskId;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use std::sync::Arc;

pub(super) struct GetTask {
    task_id: Parameter<TaskId>,
}

impl GetTask {
    pub(super) fn new() -> Self {
        Self { task_id: arguments::task_id("From submit_task.").required() }
    }
}

impl ToolHandler for GetTask {
    fn name(&self) -> &'static str {
        "get_task"
    }

    fn describe(&self) -> Tool {
        definition::<TaskResult>(
            self.name(),
            "Get task",
            "Read one task: state, holder, past attempts with errors, payload and output. Ended tasks stay \
             readable for a while.",
            &[&self.task_id],
            &Hints { is_read_only: true, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &[&self.task_id])?;
            let task = arguments.required(&self.task_id)?;
            let detail = invocation.engine.task(task.clone()).await?.ok_or_else(|| unknown_task(task))?;
            ToolOutput::new(&TaskResult::from(&detail))
        }
        .boxed()
    }
}
