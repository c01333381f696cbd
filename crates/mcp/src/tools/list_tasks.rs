//! `list_tasks`: returns the tasks on record, a page at a time.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, AnyParameter, Arguments, Parameter};
use crate::results::TaskListResult;
use cortex_core::fleet::task::TaskState;
use cortex_core::fleet::view::TaskFilter;
use cortex_core::ids::{AgentId, JobId, TaskNumber};
use cortex_engine::TaskListing;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
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
            let listing = TaskListing {
                filter: TaskFilter {
                    state: arguments.optional(&self.state)?,
                    job: arguments.optional(&self.job_id)?,
                    agent: arguments.optional(&self.agent_id)?,
                },
                after: arguments.optional(&self.cursor)?.unwrap_or(TaskNumber::new(0)),
                limit: usize::try_from(limit).unwrap_or(usize::MAX),
            };
            let page = invocation.engine.tasks(listing).await?;
            ToolOutput::new(&TaskListResult::new(&page, page.next.map(cursor)))
        }
        .boxed()
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
