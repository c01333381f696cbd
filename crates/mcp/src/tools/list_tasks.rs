//! `list_tasks`: returns the tasks on record, a page at a time.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, AnyParameter, Arguments, Parameter};
use crate::results::{deferred_reason, priority_of_task};
use cortex_core::fleet::task::TaskState;
use cortex_core::fleet::view::{TaskFilter, TaskView};
use cortex_core::ids::{AgentId, JobId, TaskNumber};
use cortex_engine::Page;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

/// The default of `limit`.
const PAGE_ENTRIES_DEFAULT: u64 = 100;

/// The most entries of a page. With the longest of the four names of each that is about 5 MiB, and some clients accept
/// at most 10 MiB.
const PAGE_ENTRIES_MAX: u64 = 500;

pub(super) struct ListTasks {
    state: Parameter<TaskState>,
    job_id: Parameter<JobId>,
    agent_id: Parameter<AgentId>,
    limit: Parameter<u64>,
    cursor: Parameter<TaskNumber>,
}

impl ListTasks {
    pub(super) fn new() -> Self {
        let states = TaskState::ALL.map(TaskState::as_str);
        let read_state =
            |text: &str| TaskState::ALL.into_iter().find(|state| text.eq_ignore_ascii_case(state.as_str()));
        Self {
            state: arguments::choice("state", "", &states, read_state),
            job_id: arguments::name("job_id", "", JobId::new),
            agent_id: arguments::name("agent_id", "Only tasks it holds.", AgentId::new),
            limit: arguments::page_limit(PAGE_ENTRIES_DEFAULT, PAGE_ENTRIES_MAX),
            cursor: arguments::cursor(read_cursor),
        }
    }

    fn parameters(&self) -> [&dyn AnyParameter; 5] {
        [&self.state, &self.job_id, &self.agent_id, &self.limit, &self.cursor]
    }
}

/// Writes a position in the list as an opaque text.
fn cursor(last: TaskNumber) -> String {
    format!("after-task-{}", last.as_u64())
}

fn read_cursor(text: &str) -> Option<TaskNumber> {
    let last = TaskNumber::new(text.strip_prefix("after-task-")?.parse().ok()?);
    // Only the spelling of `cursor` is accepted: no signs, no leading zeros. No entry follows the largest number.
    (cursor(last) == text && last.as_u64() < u64::MAX).then_some(last)
}

impl ToolHandler for ListTasks {
    fn name(&self) -> &'static str {
        "list_tasks"
    }

    fn describe(&self) -> Tool {
        definition::<TaskListResult>(
            self.name(),
            "List tasks",
            "List tasks in order of submission with state, priority, agent and attempts; get_task adds payload and \
             output.",
            &self.parameters(),
            &Hints { is_read_only: true, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &self.parameters())?;
            let limit = arguments.optional(&self.limit)?.unwrap_or(PAGE_ENTRIES_DEFAULT);
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let filter = TaskFilter {
                state: arguments.optional(&self.state)?,
                job: arguments.optional(&self.job_id)?,
                agent: arguments.optional(&self.agent_id)?,
            };
            let after = arguments.optional(&self.cursor)?.unwrap_or(TaskNumber::new(0));
            let page = invocation.engine.read(move |state, now| state.tasks(now, &filter, after, limit)).await?;
            ToolOutput::new(&TaskListResult::new(&page, page.next.map(cursor)))
        }
        .boxed()
    }
}

/// One entry of a list.
#[derive(Serialize, JsonSchema)]
struct ListedTask {
    task_id: String,
    /// The job that it belongs to.
    job_id: Option<String>,
    /// `queued`, `deferred`, `running`, `completed`, `failed` or `cancelled`.
    state: &'static str,
    /// Why it is deferred; null if it is not.
    deferred_reason: Option<String>,
    /// `CRITICAL`, `HIGH`, `MEDIUM` or `LOW`.
    priority: &'static str,
    /// The type of agent that may take it; null for any.
    agent_type: Option<String>,
    /// Null unless it is running.
    agent_id: Option<String>,
    /// Tokens that an attempt is expected to take.
    estimated_tokens: u64,
    /// Ended attempts.
    attempts: u64,
    /// The most attempts.
    max_attempts: u32,
    /// The time by which it should be done.
    deadline: Option<String>,
    submitted_at: String,
    /// Seconds since it was submitted.
    age_seconds: u64,
}

impl From<&TaskView> for ListedTask {
    fn from(view: &TaskView) -> Self {
        let task = &view.task;
        let request = &task.spec.request;
        Self {
            task_id: task.spec.task.to_string(),
            job_id: request.job.as_ref().map(ToString::to_string),
            state: view.state.as_str(),
            deferred_reason: deferred_reason(view),
            priority: priority_of_task(task.priority),
            agent_type: request.selector.agent_type.as_ref().map(ToString::to_string),
            agent_id: task.lease().map(|lease| lease.agent.to_string()),
            estimated_tokens: task.spec.estimated_tokens,
            attempts: task.attempts.len() as u64,
            max_attempts: request.attempts_max,
            deadline: task.deadline.map(|at| at.to_string()),
            submitted_at: task.submitted_at.to_string(),
            age_seconds: view.at.since(task.submitted_at).as_seconds(),
        }
    }
}

/// The result of list_tasks.
#[derive(Serialize, JsonSchema)]
struct TaskListResult {
    /// This page, in order of submission.
    tasks: Vec<ListedTask>,
    /// Entries on this page.
    count: u64,
    /// Entries on all pages.
    total: u64,
    /// The `cursor` of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

impl TaskListResult {
    fn new(page: &Page<TaskView, TaskNumber>, next_cursor: Option<String>) -> Self {
        let tasks: Vec<_> = page.entries.iter().map(ListedTask::from).collect();
        Self { count: tasks.len() as u64, tasks, total: page.total, next_cursor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_has_one_spelling() {
        let last = TaskNumber::new(12);
        assert_eq!(cursor(last), "after-task-12");
        assert_eq!(read_cursor("after-task-12"), Some(last));
        for bad in ["", "after-task-", "after-task-012", "after-task-+12", "after-task-12 ", "12", "after-12-3"] {
            assert_eq!(read_cursor(bad), None, "{bad:?}");
        }
        assert_eq!(read_cursor(&format!("after-task-{}", u64::MAX)), None);
    }
}
