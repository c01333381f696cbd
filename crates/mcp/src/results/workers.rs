//! A managed worker, as the tools about workers show it.

use super::{LIST_BYTES_MAX, last_lines, reason};
use cortex_managed::WorkerReport;
use schemars::JsonSchema;
use serde::Serialize;

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
