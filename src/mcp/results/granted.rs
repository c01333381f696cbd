//! What request_resources answers.

use super::{omitted, server_status, workers_shown};
use crate::core::{AllocationView, ServerHold, State};
use crate::engine::{Grant, Refusal};
use schemars::JsonSchema;
use serde::Serialize;

/// Amounts of a lease.
#[derive(Serialize, JsonSchema)]
pub(in crate::mcp) struct GrantedResources {
    /// CPU in cores.
    cpu: f64,
    /// Memory in MB.
    memory: u64,
    /// Worker slots.
    workers: u64,
}

/// An MCP server of a new lease.
#[derive(Serialize, JsonSchema)]
pub(in crate::mcp) struct GrantedServer {
    /// Its name.
    name: String,
    /// Where it is.
    endpoint: String,
    /// `running` while the lease is held.
    status: &'static str,
}

/// A worker of a new lease.
#[derive(Serialize, JsonSchema)]
pub(in crate::mcp) struct GrantedWorker {
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
pub(in crate::mcp) enum RequestResult {
    /// A lease.
    Granted(Box<GrantedResult>),
    /// There was no room.
    Failed(FailedResult),
}

/// A lease, as request_resources answers it.
#[derive(Serialize, JsonSchema)]
pub(in crate::mcp) struct GrantedResult {
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
}

/// A request that there was no room for.
#[derive(Serialize, JsonSchema)]
pub(in crate::mcp) struct FailedResult {
    /// The id under which the refusal can be read back for a while.
    allocation_id: String,
    /// `failed`.
    status: &'static str,
    /// What there was too little of.
    error: String,
    /// After how many seconds enough leases will have run out, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u64>,
}

impl RequestResult {
    pub(in crate::mcp) fn granted(grant: &Grant) -> Self {
        let AllocationView { allocation, expires_at, .. } = &grant.view;
        let reservation = &allocation.reservation;
        let workers = &reservation.workers;
        let taken = workers.resources();
        Self::Granted(Box::new(GrantedResult {
            allocation_id: reservation.allocation.to_string(),
            status: allocation.state().as_str(),
            job_id: reservation.job.to_string(),
            mcp_servers: reservation.servers.iter().map(|hold| granted_server(hold, allocation.state())).collect(),
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
        }))
    }

    pub(in crate::mcp) fn failed(refusal: &Refusal) -> Self {
        Self::Failed(FailedResult {
            allocation_id: refusal.allocation.to_string(),
            status: State::Failed.as_str(),
            error: refusal.error.clone(),
            retry_after_seconds: refusal.retry_at.map(|at| at.since(refusal.refused_at).as_seconds_ceil()),
        })
    }
}

fn granted_server(hold: &ServerHold, state: State) -> GrantedServer {
    GrantedServer { name: hold.name.to_string(), endpoint: hold.port.endpoint(), status: server_status(state) }
}
