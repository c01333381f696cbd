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

use crate::core::{JobId, State, Workers};

/// How many workers of one allocation an answer shows at most.
const WORKERS_SHOWN_MAX: usize = 10_000;

/// How many bytes of an answer the workers may take. Some clients drop the connection on an answer of over 10 MiB.
const WORKERS_BYTES_MAX: usize = 6 * 1024 * 1024;

/// How many bytes one worker takes at most, its job's name left out, once as data and once as text.
const WORKER_BYTES: usize = 500;

/// How many workers of this job an answer shows: fewer if its name, which is part of each worker's id, is long.
fn workers_shown(job: &JobId) -> usize {
    // In the text of an answer each letter of a name can take four times the bytes: escaped, and escaped again.
    WORKERS_SHOWN_MAX.min(WORKERS_BYTES_MAX / (WORKER_BYTES + 5 * job.as_str().len()))
}

const fn server_status(state: State) -> &'static str {
    if state.is_live() { "running" } else { "released" }
}

fn omitted(job: &JobId, workers: &Workers) -> Option<u64> {
    workers.count().checked_sub(workers_shown(job) as u64).filter(|rest| *rest > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_workers_are_shown_of_a_job_with_a_long_name() {
        let shown = |name: &str| workers_shown(&JobId::new(name).expect("a name"));
        assert_eq!(shown("job-001"), WORKERS_SHOWN_MAX);
        assert!((1_000..1_200).contains(&shown(&"😀".repeat(256))), "{}", shown(&"😀".repeat(256)));
        assert!((3_000..4_000).contains(&shown(&"\"".repeat(256))), "{}", shown(&"\"".repeat(256)));
    }
}
