//! The result of list_allocations.

use cortex_core::allocation::State;
use cortex_core::time::Timestamp;
use cortex_engine::{Page, Record};
use schemars::JsonSchema;
use serde::Serialize;

/// One entry of a list.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ListedAllocation {
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
pub(crate) struct ListResult {
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
    pub(crate) fn new(page: &Page, next_cursor: Option<String>) -> Self {
        let allocations: Vec<_> = page.entries.iter().map(|record| ListedAllocation::new(record, page.at)).collect();
        Self { count: allocations.len() as u64, allocations, total: page.total, next_cursor }
    }
}
