//! The results of the tools about managed workers.

use super::{LIST_BYTES_MAX, count_fitting, last_lines, reason};
use cortex_managed::WorkerReport;
use schemars::JsonSchema;
use serde::Serialize;

/// The most bytes of a worker without its texts, once as data and once as text.
const WORKER_BYTES: usize = 1_000;

/// A managed worker.
#[derive(Serialize, JsonSchema)]
pub(crate) struct WorkerResult {
    worker_id: String,
    /// `starting`, `running`, `restarting`, `failed`, `stopping` or `stopped`.
    state: &'static str,
    /// Why it is restarting or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Its address.
    endpoint: String,
    /// The allocation that it belongs to; absent for one of the pool of agents.
    #[serde(skip_serializing_if = "Option::is_none")]
    allocation_id: Option<String>,
    /// The job of that allocation.
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<String>,
    /// Automatic restarts.
    restarts: u64,
    /// The time since which it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    running_since: Option<String>,
    /// Memory of its processes, in MB.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<u64>,
    /// The last lines of its output and standard error, oldest first; only from get_worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_lines: Option<Vec<String>>,
}

impl WorkerResult {
    /// Builds the result with at most `lines_max` last lines.
    pub(crate) fn with_lines(report: &WorkerReport, lines_max: usize) -> Self {
        let lines = last_lines(&report.last_lines, lines_max, LIST_BYTES_MAX);
        Self { last_lines: Some(lines), ..Self::from(report) }
    }
}

impl From<&WorkerReport> for WorkerResult {
    fn from(report: &WorkerReport) -> Self {
        Self {
            worker_id: report.worker.clone(),
            state: report.state.as_str(),
            reason: reason(&report.reason),
            endpoint: report.port.endpoint(),
            allocation_id: report.allocation.map(|id| id.to_string()),
            job_id: report.job.as_ref().map(ToString::to_string),
            restarts: report.restarts,
            running_since: report.running_since.map(|at| at.to_string()),
            memory: report.memory.map(|memory| memory.0),
            last_lines: None,
        }
    }
}

/// The result of list_workers.
#[derive(Serialize, JsonSchema)]
pub(crate) struct WorkersResult {
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
    pub(crate) fn new(
        mut reports: Vec<WorkerReport>,
        after: Option<&str>,
        limit: usize,
        cursor: impl Fn(&str) -> String,
    ) -> Self {
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

/// The result of drain_worker.
#[derive(Serialize, JsonSchema)]
pub(crate) struct DrainResult {
    /// `draining`.
    status: &'static str,
    worker: WorkerResult,
}

impl From<&WorkerReport> for DrainResult {
    fn from(report: &WorkerReport) -> Self {
        Self { status: "draining", worker: WorkerResult::from(report) }
    }
}
