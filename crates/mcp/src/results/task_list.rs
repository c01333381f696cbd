//! The result of list_tasks.

use super::{deferred_reason, priority_of_task};
use cortex_core::fleet::view::TaskView;
use cortex_engine::TaskPage;
use schemars::JsonSchema;
use serde::Serialize;

/// One entry of a list.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ListedTask {
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
pub(crate) struct TaskListResult {
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
    pub(crate) fn new(page: &TaskPage, next_cursor: Option<String>) -> Self {
        let tasks: Vec<_> = page.entries.iter().map(ListedTask::from).collect();
        Self { count: tasks.len() as u64, tasks, total: page.total, next_cursor }
    }
}
