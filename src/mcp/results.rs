//! Results as clients see them. Keys, types and spellings are those of the resource allocation API; what is new here is
//! only added to them.

mod allocation;
mod capacity;
mod cleanup;
mod granted;
mod list;
mod released;
mod renewed;
mod schema;

pub(super) use allocation::AllocationResult;
pub(super) use capacity::CapacityResult;
pub(super) use cleanup::CleanupResult;
pub(super) use granted::RequestResult;
pub(super) use list::ListResult;
pub(super) use released::ReleaseResult;
pub(super) use renewed::RenewResult;
pub(super) use schema::output_schema;

use crate::core::{State, Workers};

/// How many workers of one allocation an answer shows. An answer of over 10 MiB makes some clients drop the connection;
/// this many take about 3.
const WORKERS_SHOWN_MAX: usize = 10_000;

const fn server_status(state: State) -> &'static str {
    if state.is_live() { "running" } else { "released" }
}

fn omitted(workers: &Workers) -> Option<u64> {
    workers.count().checked_sub(WORKERS_SHOWN_MAX as u64).filter(|rest| *rest > 0)
}
