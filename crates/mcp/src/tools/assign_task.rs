//! `assign_task`: chooses an agent for a task and gives it to that one.

use super::{Answer, Hints, Invocation, Run, ToolError, definition};
use crate::arguments::{self, Arguments, Parameter};
use crate::results::AssignResult;
use cortex_core::ids::TaskId;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use std::sync::Arc;

pub(super) struct AssignTask {
    task_id: Parameter<TaskId>,
}

impl AssignTask {
    pub(super) fn new() -> Self {
        Self { task_id: arguments::task_id("The task, as submit_task answered with it.").required() }
    }
}

impl Run for AssignTask {
    fn name(&self) -> &'static str {
        "assign_task"
    }

    fn describe(&self) -> Tool {
        definition::<AssignResult>(
            self.name(),
            "Assign task",
            "Let the balancer choose an agent for a waiting task, by health and load, and lease the task to it, and with it \
             others of its batch_key. An agent that waits in claim_task is answered with them; another one sees them with \
             heartbeat_agent. Refused with the reason if no agent can take it now: then register one, try again, or leave the \
             task in the queue, from which agents take it with claim_task.",
            &[&self.task_id],
            &Hints { is_read_only: false, is_destructive: false, is_idempotent: false },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<Answer, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &[&self.task_id])?;
            let task = arguments.required(&self.task_id)?;
            let (agent, tasks) = invocation.engine.assign_task(task).await?;
            Answer::new(&AssignResult::new(&agent, &tasks))
        }
        .boxed()
    }
}
