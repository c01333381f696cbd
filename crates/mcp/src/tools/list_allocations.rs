//! `list_allocations`: returns the allocations on record, a page at a time.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, AnyParameter, Arguments, Parameter};
use cortex_core::allocation::State;
use cortex_core::ids::JobId;
use cortex_core::time::Timestamp;
use cortex_core::view::Filter;
use cortex_engine::{Page, Record, RecordPosition};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

/// The default of `limit`.
const PAGE_ENTRIES_DEFAULT: u64 = 1_000;

/// The most entries of a page. With the longest job ids that is about 5 MiB, and some clients accept at most 10 MiB.
const PAGE_ENTRIES_MAX: u64 = 2_000;

pub(super) struct ListAllocations {
    state: Parameter<State>,
    job_id: Parameter<JobId>,
    limit: Parameter<u64>,
    cursor: Parameter<RecordPosition>,
}

impl ListAllocations {
    pub(super) fn new() -> Self {
        let states = State::ALL.map(State::as_str);
        let read_state = |text: &str| State::ALL.into_iter().find(|state| text.eq_ignore_ascii_case(state.as_str()));
        Self {
            state: arguments::choice("state", "", &states, read_state),
            job_id: arguments::name("job_id", "", JobId::new),
            limit: arguments::page_limit(PAGE_ENTRIES_DEFAULT, PAGE_ENTRIES_MAX),
            cursor: arguments::cursor(read_cursor),
        }
    }

    fn parameters(&self) -> [&dyn AnyParameter; 4] {
        [&self.state, &self.job_id, &self.limit, &self.cursor]
    }
}

/// Writes a position in the list as an opaque text.
fn cursor(position: RecordPosition) -> String {
    format!("after-{}-{}", position.grant, position.refusal)
}

fn read_cursor(text: &str) -> Option<RecordPosition> {
    let (grant, refusal) = text.strip_prefix("after-")?.split_once('-')?;
    let position = RecordPosition { grant: grant.parse().ok()?, refusal: refusal.parse().ok()? };
    // Only the spelling of `cursor` is accepted: no signs, no leading zeros. No entry follows the largest number.
    (cursor(position) == text && position.grant < u64::MAX).then_some(position)
}

impl ToolHandler for ListAllocations {
    fn name(&self) -> &'static str {
        "list_allocations"
    }

    fn describe(&self) -> Tool {
        definition::<ListResult>(
            self.name(),
            "List allocations",
            "List allocations, oldest first, with state, job, workers, age and expiry.",
            &self.parameters(),
            &Hints { is_read_only: true, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &self.parameters())?;
            let limit = arguments.optional(&self.limit)?.unwrap_or(PAGE_ENTRIES_DEFAULT);
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let filter = Filter { state: arguments.optional(&self.state)?, job: arguments.optional(&self.job_id)? };
            let after = arguments.optional(&self.cursor)?.unwrap_or_default();
            let page = invocation.engine.read(move |state, now| state.records(now, &filter, after, limit)).await?;
            ToolOutput::new(&ListResult::new(&page, page.next.map(cursor)))
        }
        .boxed()
    }
}

/// One entry of a list.
#[derive(Serialize, JsonSchema)]
struct ListedAllocation {
    allocation_id: String,
    job_id: String,
    /// `pending`, `active`, `releasing`, `released` or `failed`.
    state: &'static str,
    /// `low`, `normal`, `high` or `critical`.
    priority: &'static str,
    workers: u64,
    /// Seconds since the request.
    age_seconds: u64,
    /// Whether its deadline has passed; false once it has ended.
    is_expired: bool,
}

impl ListedAllocation {
    fn new(record: &Record, now: Timestamp) -> Self {
        match record {
            Record::Allocation(view) => {
                let reservation = &view.allocation.reservation;
                Self {
                    allocation_id: reservation.allocation.to_string(),
                    job_id: reservation.job.to_string(),
                    state: view.allocation.state().as_str(),
                    priority: reservation.priority.as_str(),
                    workers: reservation.workers.count(),
                    age_seconds: view.allocation.age(now).as_seconds(),
                    is_expired: view.is_expired(),
                }
            }
            Record::Refusal(refusal) => Self {
                allocation_id: refusal.allocation.to_string(),
                job_id: refusal.job.to_string(),
                state: State::Failed.as_str(),
                priority: refusal.priority.as_str(),
                workers: 0,
                age_seconds: now.since(refusal.refused_at).as_seconds(),
                is_expired: false,
            },
        }
    }
}

/// The result of list_allocations.
#[derive(Serialize, JsonSchema)]
struct ListResult {
    /// This page, oldest first.
    allocations: Vec<ListedAllocation>,
    /// Entries on this page.
    count: u64,
    /// Entries on all pages.
    total: u64,
    /// The `cursor` of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

impl ListResult {
    fn new(page: &Page<Record, RecordPosition>, next_cursor: Option<String>) -> Self {
        let allocations: Vec<_> = page.entries.iter().map(|record| ListedAllocation::new(record, page.at)).collect();
        Self { count: allocations.len() as u64, allocations, total: page.total, next_cursor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_has_one_spelling() {
        let position = RecordPosition { grant: 12, refusal: 3 };
        assert_eq!(cursor(position), "after-12-3");
        assert_eq!(read_cursor("after-12-3"), Some(position));
        for bad in
            ["", "after-", "after-12", "after-12-", "after-012-3", "after-+12-3", "after-12-3 ", "12-3", "after--1-3"]
        {
            assert_eq!(read_cursor(bad), None, "{bad:?}");
        }
        assert_eq!(read_cursor(&format!("after-{}-0", u64::MAX)), None);
    }
}
