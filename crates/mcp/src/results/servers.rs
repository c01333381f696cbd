//! The results of the tools about managed MCP servers.

use super::access::public_url;
use super::{LIST_BYTES_MAX, count_fitting, last_lines, reason};
use cortex_core::ids::{AllocationId, ServerName};
use cortex_core::provisioning::Sharing;
use cortex_managed::{CallStats, MemoryLimit, ServerReport};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;

/// The most bytes of a run without its texts and holders, once as data and once as text.
const RUN_BYTES: usize = 2_000;

/// The most bytes of a holder, once as data and once as text.
const HOLDER_BYTES: usize = 600;

/// The most holders of a run that a result shows.
const HOLDERS_SHOWN_MAX: usize = 1_000;

/// The most bytes of a result without last lines.
const RUNS_BYTES_MAX: usize = LIST_BYTES_MAX / 2;

/// A run of a server, or a stopped server.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ListedServer {
    /// The name that request_resources takes.
    name: String,
    /// `stopped` if no allocation holds it, `starting`, `running`, `restarting`, `failed` or `stopping`.
    state: &'static str,
    /// Why it is restarting or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// `shared` by the allocations that lease it, or `per_allocation`.
    sharing: &'static str,
    /// The allocation that it belongs to; absent if it is shared or stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    allocation_id: Option<String>,
    /// The job of that allocation.
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<String>,
    /// Whether it runs elsewhere and only its address is leased.
    is_remote: bool,
    /// Where it is; absent if it is stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    /// Allocations that hold it.
    holders_count: u64,
    /// Automatic restarts.
    restarts: u64,
    /// The time since which it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    running_since: Option<String>,
}

impl From<&ServerReport> for ListedServer {
    fn from(report: &ServerReport) -> Self {
        Self {
            name: report.name.to_string(),
            state: report.state.as_str(),
            reason: reason(&report.reason),
            sharing: sharing(report.sharing),
            allocation_id: report.owner.as_ref().map(|(allocation, _)| allocation.to_string()),
            job_id: report.owner.as_ref().map(|(_, job)| job.to_string()),
            is_remote: report.is_remote,
            endpoint: endpoint(report),
            holders_count: report.holders.len() as u64,
            restarts: report.restarts,
            running_since: report.running_since.map(|at| at.to_string()),
        }
    }
}

/// The result of list_mcp_servers.
#[derive(Serialize, JsonSchema)]
pub(crate) struct McpServersResult {
    /// The servers of the catalog by name, and those that were removed from it but still run. A server that is run per
    /// allocation has an entry for each run.
    servers: Vec<ListedServer>,
    count: u64,
    /// Entries left out because the list would be too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    omitted: Option<u64>,
}

impl McpServersResult {
    pub(crate) fn new(mut reports: Vec<ServerReport>) -> Self {
        reports.sort_by(|one, other| one.name.cmp(&other.name));
        let (servers, omitted) = listed(&reports);
        Self { count: servers.len() as u64, servers, omitted }
    }
}

/// The result of restart_mcp_server.
#[derive(Serialize, JsonSchema)]
pub(crate) struct RestartResult {
    /// `restarted`.
    status: &'static str,
    name: String,
    /// The restarted runs.
    runs: Vec<ListedServer>,
    count: u64,
    /// Entries left out because the list would be too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    omitted: Option<u64>,
}

impl RestartResult {
    pub(crate) fn new(name: &ServerName, reports: &[ServerReport]) -> Self {
        let (runs, omitted) = listed(reports);
        Self { status: "restarted", name: name.to_string(), count: runs.len() as u64, runs, omitted }
    }
}

/// The requests to an endpoint.
#[derive(Serialize, JsonSchema)]
pub(crate) struct CallsResult {
    count: u64,
    /// Requests with an error or without a response.
    errors: u64,
    bytes_in: u64,
    bytes_out: u64,
    /// Total duration of the requests, in milliseconds.
    busy_ms: u64,
}

impl From<CallStats> for CallsResult {
    fn from(CallStats { calls, errors, bytes_in, bytes_out, busy_ms }: CallStats) -> Self {
        Self { count: calls, errors, bytes_in, bytes_out, busy_ms }
    }
}

/// An allocation that holds a run.
#[derive(Serialize, JsonSchema)]
pub(crate) struct HolderResult {
    allocation_id: String,
    calls: CallsResult,
}

/// A bound on the memory of a run.
#[derive(Serialize, JsonSchema)]
pub(crate) struct MemoryLimitResult {
    /// In MB.
    memory: u64,
    /// `cgroup` for all its processes together, `rlimit` for each, or `none` where the system cannot enforce it.
    held_by: &'static str,
}

/// A run of a server, or the stopped server.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ServerRun {
    /// `stopped` if no allocation holds it, `starting`, `running`, `restarting`, `failed` or `stopping`.
    state: &'static str,
    /// Why it is restarting or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The allocation that it belongs to; absent if it is shared or stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    allocation_id: Option<String>,
    /// The job of that allocation.
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<String>,
    /// Its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    /// The allocations that hold it, at most a thousand.
    holders: Vec<HolderResult>,
    /// Allocations that hold it.
    holders_count: u64,
    /// Requests of all allocations.
    calls: CallsResult,
    /// Automatic restarts.
    restarts: u64,
    /// The time since which it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    running_since: Option<String>,
    /// Memory of its processes, in MB.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    processes: Option<u64>,
    /// The bound on its memory, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_limit: Option<MemoryLimitResult>,
    /// The last lines of its standard error, oldest first.
    last_lines: Vec<String>,
}

impl ServerRun {
    fn new(report: &ServerReport, holders_max: usize, last_lines: Vec<String>) -> Self {
        let figures: BTreeMap<AllocationId, CallStats> = report.calls_by_holder.iter().copied().collect();
        let holder = |allocation: &AllocationId| HolderResult {
            allocation_id: allocation.to_string(),
            calls: figures.get(allocation).copied().unwrap_or_default().into(),
        };
        let limit = |MemoryLimit { memory, held_by }: &MemoryLimit| MemoryLimitResult { memory: memory.0, held_by };
        Self {
            state: report.state.as_str(),
            reason: reason(&report.reason),
            allocation_id: report.owner.as_ref().map(|(allocation, _)| allocation.to_string()),
            job_id: report.owner.as_ref().map(|(_, job)| job.to_string()),
            endpoint: endpoint(report),
            holders: report.holders.iter().take(holders_max).map(holder).collect(),
            holders_count: report.holders.len() as u64,
            calls: report.calls.into(),
            restarts: report.restarts,
            running_since: report.running_since.map(|at| at.to_string()),
            memory: report.memory.map(|memory| memory.0),
            processes: report.processes,
            memory_limit: report.memory_limit.as_ref().map(limit),
            last_lines,
        }
    }
}

/// The result of get_mcp_server.
#[derive(Serialize, JsonSchema)]
pub(crate) struct McpServerResult {
    /// The name that request_resources takes.
    name: String,
    /// `shared` by the allocations that lease it, or `per_allocation`.
    sharing: &'static str,
    /// Whether it runs elsewhere and only its address is leased.
    is_remote: bool,
    /// Its runs; one with the state `stopped` if it does not run.
    runs: Vec<ServerRun>,
    count: u64,
    /// Runs left out because the result would be too long: select one by the allocation_id of its holder.
    #[serde(skip_serializing_if = "Option::is_none")]
    omitted: Option<u64>,
}

impl McpServerResult {
    /// Builds the result with at most `lines_max` last lines of each run; nothing without reports.
    pub(crate) fn new(reports: &[ServerReport], lines_max: usize) -> Option<Self> {
        let first = reports.first()?;
        let holders_max = HOLDERS_SHOWN_MAX.min(RUNS_BYTES_MAX / 2 / HOLDER_BYTES / reports.len());
        let shown = count_fitting(reports.iter().map(text_bytes), RUN_BYTES, RUNS_BYTES_MAX / 2).max(1);
        let bytes_max = (LIST_BYTES_MAX - RUNS_BYTES_MAX) / shown;
        let run = |report: &ServerReport| {
            ServerRun::new(report, holders_max, last_lines(&report.last_lines, lines_max, bytes_max))
        };
        let runs: Vec<_> = reports[..shown].iter().map(run).collect();
        Some(Self {
            name: first.name.to_string(),
            sharing: sharing(first.sharing),
            is_remote: first.is_remote,
            count: runs.len() as u64,
            runs,
            omitted: left_out(reports.len(), shown),
        })
    }
}

/// Returns as many reports as fit, and the number of the others.
fn listed(reports: &[ServerReport]) -> (Vec<ListedServer>, Option<u64>) {
    let shown = count_fitting(reports.iter().map(text_bytes), RUN_BYTES, LIST_BYTES_MAX);
    (reports[..shown].iter().map(ListedServer::from).collect(), left_out(reports.len(), shown))
}

fn left_out(all: usize, shown: usize) -> Option<u64> {
    Some((all - shown) as u64).filter(|rest| *rest > 0)
}

/// Returns the bytes of the texts of a run.
fn text_bytes(report: &ServerReport) -> usize {
    let of = |text: Option<String>| text.map_or(0, |text| text.len());
    let job = report.owner.as_ref().map_or(0, |(_, job)| job.as_str().len());
    job + report.name.as_str().len() + of(endpoint(report)) + of(reason(&report.reason))
}

/// Returns a server's address for a caller that may not hold it.
fn endpoint(report: &ServerReport) -> Option<String> {
    let endpoint = report.endpoint.as_deref()?;
    Some(if report.is_remote { public_url(endpoint) } else { endpoint.to_owned() })
}

const fn sharing(sharing: Sharing) -> &'static str {
    match sharing {
        Sharing::Shared => "shared",
        Sharing::PerAllocation => "per_allocation",
    }
}
