//! What request_resources answers.

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
    /// CPU in cores.
    cpu: f64,
    /// Memory in MB.
    memory: u64,
    /// Worker slots.
    workers: u64,
}

/// An MCP server of a new lease.
#[derive(Serialize, JsonSchema)]
pub(crate) struct GrantedServer {
    /// Its name.
    name: String,
    /// Where it is.
    endpoint: String,
    /// `running` while the lease is held. Where servers are really run, how it stands: also `starting`, `restarting`,
    /// `failed` or `stopping`.
    status: &'static str,
}

/// A worker of a new lease.
#[derive(Serialize, JsonSchema)]
pub(crate) struct GrantedWorker {
    /// Its id.
    worker_id: String,
    /// Where it is.
    endpoint: String,
    /// Its CPU in cores.
    cpu: f64,
    /// Its memory in MB.
    memory: u64,
}

/// The answer to request_resources.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum RequestResult {
    /// A lease.
    Granted(Box<GrantedResult>),
    /// There was no room, or what it was for could not be started.
    Failed(FailedResult),
}

/// A lease, as request_resources answers it.
#[derive(Serialize, JsonSchema)]
pub(crate) struct GrantedResult {
    /// The handle of the lease.
    allocation_id: String,
    /// `active`; when a request is repeated with its `request_id`, the state in which its lease is now.
    status: &'static str,
    /// The job that holds it.
    job_id: String,
    /// The MCP servers, in the order asked for.
    mcp_servers: Vec<GrantedServer>,
    /// The workers.
    workers_allocated: Vec<GrantedWorker>,
    /// How many workers are left out of the list because it would be too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    workers_omitted: Option<u64>,
    /// What the workers take together.
    resources: GrantedResources,
    /// The time to live in seconds.
    ttl_seconds: u64,
    /// When it was granted.
    created_at: String,
    /// When it ends unless it is renewed; null once it has ended.
    expires_at: Option<String>,
    /// Larger than that of every earlier grant. Show it to what the lease protects, so that a late writer is refused.
    fencing_token: u64,
    /// What the endpoints of MCP servers that are really run ask for as a bearer token. It is good for as long as the lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token: Option<String>,
    /// Where MCP servers are really run: what an MCP client takes as its list of servers, as it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    mcp_config: Option<McpConfig>,
}

/// A request that there was no room for, or that could not be made ready.
#[derive(Serialize, JsonSchema)]
pub(crate) struct FailedResult {
    /// The id under which it can be read back for a while.
    allocation_id: String,
    /// `failed`.
    status: &'static str,
    /// What there was too little of, or why an MCP server or a worker could not be started.
    error: String,
    /// After how many seconds enough leases will have run out, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u64>,
}

impl RequestResult {
    /// A grant, with how what really stands behind it stands.
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

    /// A grant that failed whole, since something of it could not be started.
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
