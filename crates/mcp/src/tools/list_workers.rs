//! `list_workers`: returns the managed workers, a page at a time.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, AnyParameter, Arguments, Parameter};
use crate::results::{LIST_BYTES_MAX, WorkerResult, count_fitting, reason};
use cortex_managed::{RuntimeRequest, WorkerReport};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

/// The default of `limit`.
const PAGE_ENTRIES_DEFAULT: u64 = 100;

/// The most entries of a page. A page has fewer if they take too many bytes.
const PAGE_ENTRIES_MAX: u64 = 1_000;

/// The start of each cursor.
const CURSOR: &str = "after-";

pub(super) struct ListWorkers {
    limit: Parameter<u64>,
    cursor: Parameter<String>,
}

impl ListWorkers {
    pub(super) fn new() -> Self {
        Self {
            limit: arguments::page_limit(PAGE_ENTRIES_DEFAULT, PAGE_ENTRIES_MAX),
            cursor: arguments::cursor(read_cursor),
        }
    }

    fn parameters(&self) -> [&dyn AnyParameter; 2] {
        [&self.limit, &self.cursor]
    }
}

/// Writes a position in the list as an opaque text.
fn cursor(worker: &str) -> String {
    format!("{CURSOR}{worker}")
}

fn read_cursor(text: &str) -> Option<String> {
    text.strip_prefix(CURSOR).filter(|worker| arguments::is_worker_id(worker)).map(str::to_owned)
}

impl ToolHandler for ListWorkers {
    fn name(&self) -> &'static str {
        "list_workers"
    }

    fn describe(&self) -> Tool {
        definition::<WorkersResult>(
            self.name(),
            "List workers",
            "List the workers that run as processes here, of allocations and of the agent pool, by id with state, \
             endpoint and restarts; get_worker shows more.",
            &self.parameters(),
            &Hints { is_read_only: true, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &self.parameters())?;
            let limit = usize::try_from(arguments.or_default(&self.limit)?).unwrap_or(usize::MAX);
            let after = arguments.optional(&self.cursor)?;
            let managed = invocation.managed.ok_or(ToolError::NoCatalog)?;
            let reports = managed.request(RuntimeRequest::Workers).await?;
            ToolOutput::new(&WorkersResult::new(reports, after.as_deref(), limit, cursor))
        }
        .boxed()
    }
}

/// The most bytes of a worker without its texts, once as data and once as text.
const WORKER_BYTES: usize = 1_000;

/// The result of list_workers.
#[derive(Serialize, JsonSchema)]
struct WorkersResult {
    /// This page, by id.
    workers: Vec<WorkerResult>,
    /// Entries on this page.
    count: u64,
    /// Entries on all pages.
    total: u64,
    /// The `cursor` of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

impl WorkersResult {
    /// Builds the page of at most `limit` workers after the id `after`.
    fn new(mut reports: Vec<WorkerReport>, after: Option<&str>, limit: usize, cursor: impl Fn(&str) -> String) -> Self {
        reports.sort_by(|one, other| one.worker.cmp(&other.worker));
        let begin = after.map_or(0, |after| reports.partition_point(|report| report.worker.as_str() <= after));
        let rest = &reports[begin..];
        let bytes = rest.iter().take(limit).map(|report| {
            let of_job = report.job.as_ref().map_or(0, |job| job.as_str().len());
            report.worker.len() + of_job + reason(&report.reason).map_or(0, |reason| reason.len())
        });
        // At least one: the cursor of an empty page would not advance.
        let shown = count_fitting(bytes, WORKER_BYTES, LIST_BYTES_MAX).max(1).min(rest.len());
        let last = rest[..shown].last().filter(|_| shown < rest.len());
        Self {
            workers: rest[..shown].iter().map(WorkerResult::from).collect(),
            count: shown as u64,
            total: reports.len() as u64,
            next_cursor: last.map(|last| cursor(&last.worker)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_leads_back_to_its_worker() {
        for worker in ["worker-job-001-000", "after-", &format!("worker-{}-57435", "é".repeat(256))] {
            assert_eq!(read_cursor(&cursor(worker)).as_deref(), Some(worker));
        }
        for bad in ["", "after-", "a", "After-a", "after-a\n", &format!("after-{}", "a".repeat(289))] {
            assert_eq!(read_cursor(bad), None, "{bad:?}");
        }
    }
}
