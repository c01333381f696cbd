//! The result of request_resources.

use super::access::McpConfig;
use super::runtime_status::{RuntimeStatus, ServerStatus};
use super::{omitted, workers_shown};
use cortex_core::allocation::{ServerHold, State};
use cortex_core::ids::AllocationId;
use cortex_core::view::AllocationView;
use cortex_engine::{Grant, Refusal};
use schemars::JsonSchema;
use serde::Serialize;

/// Amounts of a lease.
#[derive(Serialize, JsonSchema)]
pub(crate) struct GrantedResources {
    /// CPU, in cores.
    cpu: f64,
    /// Memory, in MB.
    memory: u64,
    workers: u64,
}

/// An MCP server of a new lease.
#[derive(Serialize, JsonSchema)]
pub(crate) struct GrantedServer {
    name: String,
    /// Its address.
    endpoint: String,
    /// `running` while the lease is held. A managed server is also `starting`, `restarting`, `failed` or `stopping`.
    status: &'static str,
}

/// A worker of a new lease.
#[derive(Serialize, JsonSchema)]
pub(crate) struct GrantedWorker {
    worker_id: String,
    /// Its address.
    endpoint: String,
    /// CPU, in cores.
    cpu: f64,
    /// Memory, in MB.
    memory: u64,
}

/// The result of request_resources.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum RequestResult {
    /// A lease.
    Granted(Box<GrantedResult>),
    /// There was not enough capacity, or a server or worker did not start.
    Failed(FailedResult),
}

/// A lease, as request_resources returns it.
#[derive(Serialize, JsonSchema)]
pub(crate) struct GrantedResult {
    /// The handle of the lease.
    allocation_id: String,
    /// `active`; for a repeated `request_id`, the current state of its lease.
    status: &'static str,
    job_id: String,
    /// In the order of the request.
    mcp_servers: Vec<GrantedServer>,
    workers_allocated: Vec<GrantedWorker>,
    /// Workers left out of the list because it would be too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    workers_omitted: Option<u64>,
    /// Total of the workers.
    resources: GrantedResources,
    /// The lease time in seconds.
    ttl_seconds: u64,
    /// The time of the grant.
    created_at: String,
    /// The deadline unless it is renewed; null once it has ended.
    expires_at: Option<String>,
    /// Larger than that of every earlier grant. Pass it to what the lease protects, so that it can refuse stale
    /// writers.
    fencing_token: u64,
    /// The bearer token for the endpoints of managed MCP servers, valid while the lease lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token: Option<String>,
    /// The configuration of an MCP client for managed MCP servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    mcp_config: Option<McpConfig>,
}

/// A request that exceeded the capacity, or whose servers or workers did not start.
#[derive(Serialize, JsonSchema)]
pub(crate) struct FailedResult {
    /// Readable with get_allocation for a while.
    allocation_id: String,
    /// `failed`.
    status: &'static str,
    /// What was insufficient, or why an MCP server or worker did not start.
    error: String,
    /// Seconds until enough leases expire, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u64>,
}

impl RequestResult {
    /// Builds the result of a grant, with the runtime status where servers or workers are managed.
    pub(crate) fn granted(grant: &Grant, runtime_status: Option<&RuntimeStatus>) -> Self {
        let AllocationView { allocation, expires_at, .. } = &grant.view;
        let reservation = &allocation.reservation;
        let (servers, workers) = (&reservation.servers, &reservation.workers);
        let taken = workers.resources();
        Self::Granted(Box::new(GrantedResult {
            allocation_id: reservation.allocation.to_string(),
            status: allocation.state().as_str(),
            job_id: reservation.job.to_string(),
            mcp_servers: servers.iter().map(|hold| granted_server(hold, allocation.state(), runtime_status)).collect(),
            workers_allocated: workers
                .iter()
                .take(workers_shown(&reservation.job))
                .map(|(number, port)| GrantedWorker {
                    worker_id: number.worker_id(&reservation.job),
                    endpoint: port.endpoint(),
                    cpu: workers.size.cpu_millis.as_cores(),
                    memory: workers.size.memory_mb.0,
                })
                .collect(),
            workers_omitted: omitted(&reservation.job, workers),
            resources: GrantedResources {
                cpu: taken.cpu_millis.as_cores(),
                memory: taken.memory_mb.0,
                workers: taken.workers,
            },
            ttl_seconds: allocation.ttl_seconds.as_seconds(),
            created_at: allocation.created_at.to_string(),
            expires_at: expires_at.map(|at| at.to_string()),
            fencing_token: reservation.fencing_token.as_u64(),
            access_token: runtime_status.and_then(RuntimeStatus::access_token).map(str::to_owned),
            mcp_config: runtime_status.and_then(|runtime_status| runtime_status.mcp_config(servers)),
        }))
    }

    pub(crate) fn failed(refusal: &Refusal) -> Self {
        Self::Failed(FailedResult {
            allocation_id: refusal.allocation.to_string(),
            status: State::Failed.as_str(),
            error: refusal.error.clone(),
            retry_after_seconds: refusal.retry_at.map(|at| at.since(refusal.refused_at).as_seconds_ceil()),
        })
    }

    /// Builds the result of a grant that was undone because a server or worker did not start.
    pub(crate) fn not_started(allocation: AllocationId, error: &str) -> Self {
        Self::Failed(FailedResult {
            allocation_id: allocation.to_string(),
            status: State::Failed.as_str(),
            error: error.to_owned(),
            retry_after_seconds: None,
        })
    }
}

fn granted_server(hold: &ServerHold, state: State, runtime_status: Option<&RuntimeStatus>) -> GrantedServer {
    let ServerStatus { endpoint, status, .. } = ServerStatus::new(hold, state, runtime_status);
    GrantedServer { name: hold.name.to_string(), endpoint, status }
}
