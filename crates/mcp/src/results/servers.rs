//! MCP servers in a list, as list_mcp_servers and restart_mcp_server show them.

use super::access::public_url;
use super::{LIST_BYTES_MAX, count_fitting, left_out, reason};
use cortex_core::provisioning::Sharing;
use cortex_managed::ServerReport;
use schemars::JsonSchema;
use serde::Serialize;

/// The most bytes of a run without its texts and holders, once as data and once as text.
pub(crate) const RUN_BYTES: usize = 2_000;

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

/// Returns as many reports as fit, and the number of the others.
pub(crate) fn list_servers(reports: &[ServerReport]) -> (Vec<ListedServer>, Option<u64>) {
    let shown = count_fitting(reports.iter().map(text_bytes), RUN_BYTES, LIST_BYTES_MAX);
    (reports[..shown].iter().map(ListedServer::from).collect(), left_out(reports.len(), shown))
}

/// Returns the bytes of the texts of a run.
pub(crate) fn text_bytes(report: &ServerReport) -> usize {
    let of = |text: Option<String>| text.map_or(0, |text| text.len());
    let job = report.owner.as_ref().map_or(0, |(_, job)| job.as_str().len());
    job + report.name.as_str().len() + of(endpoint(report)) + of(reason(&report.reason))
}

/// Returns a server's address for a caller that may not hold it.
pub(crate) fn endpoint(report: &ServerReport) -> Option<String> {
    let endpoint = report.endpoint.as_deref()?;
    Some(if report.is_remote { public_url(endpoint) } else { endpoint.to_owned() })
}

pub(crate) const fn sharing(sharing: Sharing) -> &'static str {
    match sharing {
        Sharing::Shared => "shared",
        Sharing::PerAllocation => "per_allocation",
    }
}
