//! `get_mcp_server`: returns the status of one MCP server.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, AnyParameter, Arguments, Parameter};
use crate::results::servers::{RUN_BYTES, endpoint, sharing, text_bytes};
use crate::results::{LIST_BYTES_MAX, count_fitting, last_lines, left_out, reason};
use cortex_core::ids::{AllocationId, ServerName};
use cortex_managed::{CallStats, MemoryLimit, RuntimeError, RuntimeRequest, ServerReport};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) struct GetMcpServer {
    name: Parameter<ServerName>,
    allocation_id: Parameter<Result<AllocationId, arguments::UnknownAllocation>>,
    last_lines: Parameter<u64>,
}

impl GetMcpServer {
    pub(super) fn new() -> Self {
        let allocation = "Only the run this allocation holds; all if absent.";
        Self {
            name: arguments::server_name(),
            allocation_id: arguments::allocation_id_for(allocation),
            last_lines: arguments::last_lines(),
        }
    }

    fn parameters(&self) -> [&dyn AnyParameter; 3] {
        [&self.name, &self.allocation_id, &self.last_lines]
    }
}

impl ToolHandler for GetMcpServer {
    fn name(&self) -> &'static str {
        "get_mcp_server"
    }

    fn describe(&self) -> Tool {
        definition::<McpServerResult>(
            self.name(),
            "Get MCP server",
            "Show each run of an MCP server: state and why it failed, holders, calls of each and in total, \
             restarts, memory, processes and last lines of standard error. Check it when calls to a leased \
             endpoint fail. A server that is not shared has one run per allocation: give allocation_id to select \
             yours.",
            &self.parameters(),
            &Hints { is_read_only: true, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &self.parameters())?;
            let name = arguments.required(&self.name)?;
            let allocation = arguments.optional(&self.allocation_id)?;
            let lines_max = usize::try_from(arguments.or_default(&self.last_lines)?).unwrap_or(usize::MAX);
            let managed = invocation.managed.ok_or(ToolError::NoCatalog)?;
            let allocation = allocation.transpose().map_err(ToolError::NotFound)?;
            let reports = managed.request(|reply| RuntimeRequest::Server(name.clone(), allocation, reply)).await?;
            let none = || match (name.to_string(), allocation) {
                (name, Some(allocation)) => RuntimeError::NotHeld { name, allocation },
                (name, None) => RuntimeError::UnknownServer { name },
            };
            ToolOutput::new(&McpServerResult::new(&reports, lines_max).ok_or_else(none)?)
        }
        .boxed()
    }
}

/// The most bytes of a holder, once as data and once as text.
const HOLDER_BYTES: usize = 600;

/// The most holders of a run that a result shows.
const HOLDERS_SHOWN_MAX: usize = 1_000;

/// The most bytes of a result without last lines.
const RUNS_BYTES_MAX: usize = LIST_BYTES_MAX / 2;

/// The requests to an endpoint.
#[derive(Serialize, JsonSchema)]
struct CallsResult {
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
struct HolderResult {
    allocation_id: String,
    calls: CallsResult,
}

/// A bound on the memory of a run.
#[derive(Serialize, JsonSchema)]
struct MemoryLimitResult {
    /// In MB.
    memory: u64,
    /// `cgroup` for all its processes together, `rlimit` for each, or `none` where the system cannot enforce it.
    held_by: &'static str,
}

/// A run of a server, or the stopped server.
#[derive(Serialize, JsonSchema)]
struct ServerRun {
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
struct McpServerResult {
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
    fn new(reports: &[ServerReport], lines_max: usize) -> Option<Self> {
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
