//! Results that several tools share, as clients see them. Keys, types and spellings are those of the resource
//! allocation API, with additions only.

mod access;
mod leased_task;
mod policy;
mod runtime_status;
mod schema;
pub(super) mod servers;
mod usage;
mod workers;

pub(super) use access::McpConfig;
pub(super) use leased_task::LeasedTask;
pub(super) use policy::PolicyResult;
pub(super) use runtime_status::{RuntimeStatus, ServerStatus};
pub(super) use schema::output_schema;
pub(super) use servers::{ListedServer, list_servers};
pub(super) use usage::{AgentsBlock, BudgetBlock, ConservationBlock, TokensBlock, change_status};
pub(super) use workers::WorkerResult;

use cortex_core::allocation::{State, Workers};
use cortex_core::fleet::task::{JsonText, Task};
use cortex_core::fleet::view::TaskView;
use cortex_core::ids::{Capability, JobId};
use cortex_core::priority::Priority;
use serde_json::value::RawValue;

/// The most workers of one allocation that a result shows.
const WORKERS_SHOWN_MAX: usize = 10_000;

/// The most bytes of a list in a result. Some clients drop the connection on a result of over 10 MiB.
pub(super) const LIST_BYTES_MAX: usize = 6 * 1024 * 1024;

/// The most bytes of a result for a byte of a name: two as data, escaped, and four in the text, escaped again.
const NAME_BYTE_BYTES: usize = 6;

/// The most bytes of a worker without its job's name, once as data and once as text.
const WORKER_BYTES: usize = 500;

/// Returns how many workers of a job a result shows: fewer if its name, which is part of each worker's id, is long.
pub(super) fn workers_shown(job: &JobId) -> usize {
    WORKERS_SHOWN_MAX.min(LIST_BYTES_MAX / (WORKER_BYTES + NAME_BYTE_BYTES * job.as_str().len()))
}

/// Returns how many entries of a list fit into `bytes_max`, given the lengths of their names and the other bytes of
/// each.
pub(super) fn count_fitting(names: impl IntoIterator<Item = usize>, entry_bytes: usize, bytes_max: usize) -> usize {
    let mut taken = 0_usize;
    let fits = |name: &usize| {
        taken = taken.saturating_add(entry_bytes).saturating_add(name.saturating_mul(NAME_BYTE_BYTES));
        taken <= bytes_max
    };
    names.into_iter().take_while(fits).count()
}

/// Returns how many entries of a list a result leaves out, if any.
pub(super) fn left_out(all: usize, shown: usize) -> Option<u64> {
    Some((all - shown) as u64).filter(|rest| *rest > 0)
}

/// The most characters of the reason why a process does not run. A result may have many of them.
const REASON_CHARACTERS_MAX: usize = 2_000;

/// Returns the reason why a process does not run, cut to [`REASON_CHARACTERS_MAX`].
pub(super) fn reason(whole: &Option<String>) -> Option<String> {
    let whole = whole.as_ref()?;
    Some(match whole.char_indices().nth(REASON_CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &whole[..end]),
        None => whole.clone(),
    })
}

/// The bytes of a line without its text, once as data and once as text.
const LINE_BYTES: usize = 10;

/// Returns the newest lines, at most `lines_max` and as many as fit into `bytes_max` of a result; the oldest first.
pub(super) fn last_lines(lines: &[String], lines_max: usize, bytes_max: usize) -> Vec<String> {
    let newest = lines.iter().rev().take(lines_max).map(String::len);
    lines[lines.len() - count_fitting(newest, LINE_BYTES, bytes_max)..].to_vec()
}

/// Returns the names of capabilities.
pub(super) fn names(capabilities: &[Capability]) -> Vec<String> {
    capabilities.iter().map(ToString::to_string).collect()
}

/// Returns the JSON text of an object, for a result that contains it unchanged.
pub(super) fn raw(json: &str) -> Box<RawValue> {
    // It is stored as JSON text, so that this cannot fail; an empty object is the safe fallback.
    RawValue::from_string(json.to_owned())
        .unwrap_or_else(|_| RawValue::from_string("{}".to_owned()).unwrap_or_default())
}

const fn server_status(state: State) -> &'static str {
    if state.is_live() { "running" } else { "released" }
}

pub(super) fn omitted(job: &JobId, workers: &Workers) -> Option<u64> {
    workers.count().checked_sub(workers_shown(job) as u64).filter(|rest| *rest > 0)
}

/// Returns a priority in the spelling of tasks.
pub(super) const fn priority_of_task(priority: Priority) -> &'static str {
    match priority {
        Priority::Low => "LOW",
        Priority::Normal => "MEDIUM",
        Priority::High => "HIGH",
        Priority::Critical => "CRITICAL",
    }
}

/// Returns why a task waits for tokens, as one word.
pub(super) fn deferred_reason(view: &TaskView) -> Option<String> {
    view.deferral.map(|why| why.to_string())
}

/// Returns how many attempts remain, without the current one.
pub(super) fn attempts_left(task: &Task) -> u64 {
    let used = task.attempts.len() as u64 + u64::from(task.lease().is_some());
    if task.is_open() { u64::from(task.spec.request.attempts_max).saturating_sub(used) } else { 0 }
}

/// Returns the JSON text of a value, for a result that contains it unchanged.
pub(super) fn raw_json(value: &JsonText) -> Option<Box<RawValue>> {
    // It is stored as JSON text, so that this cannot fail; null is the safe fallback.
    RawValue::from_string(value.as_str().to_owned()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_the_newest_that_fit() {
        let lines: Vec<String> = (0..5).map(|number| format!("line {number}")).collect();
        let line_bytes = 6 * NAME_BYTE_BYTES + LINE_BYTES;
        assert_eq!(last_lines(&lines, 9, 5 * line_bytes), lines);
        assert_eq!(last_lines(&lines, 2, usize::MAX), lines[3..]);
        assert_eq!(last_lines(&lines, 9, 3 * line_bytes - 1), lines[3..]);
        assert_eq!(last_lines(&lines, 0, usize::MAX), lines[5..]);
        assert_eq!(last_lines(&[], 9, 0), lines[5..]);
    }

    #[test]
    fn fewer_workers_are_shown_of_a_job_with_a_long_name() {
        let shown = |name: &str| workers_shown(&JobId::new(name).expect("a name"));
        assert_eq!(shown("job-001"), WORKERS_SHOWN_MAX);
        assert!((900..1_000).contains(&shown(&"😀".repeat(256))), "{}", shown(&"😀".repeat(256)));
        assert!((3_000..4_000).contains(&shown(&"\"".repeat(256))), "{}", shown(&"\"".repeat(256)));
    }
}
