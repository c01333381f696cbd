//! What get_allocation answers.

use super::{omitted, raw, server_status, workers_shown};
use crate::core::{Allocation, AllocationView, EndReason, Phase, ServerHold, State, Timestamp};
use crate::engine::{Reading, Record, Refusal};
use rmcp::model::JsonObject;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;

/// Amounts of an allocation.
#[derive(Serialize, JsonSchema)]
pub(in crate::mcp) struct AllocatedResources {
    /// CPU in cores.
    cpu_allocated: f64,
    /// Memory in MB.
    memory_allocated: u64,
    /// Worker slots.
    workers: u64,
}

/// An MCP server of an allocation.
#[derive(Serialize, JsonSchema)]
pub(in crate::mcp) struct AllocatedServer {
    /// Its name.
    server_name: String,
    /// Where it is.
    endpoint: String,
    /// `running` while the allocation is live, then `released`.
    status: &'static str,
    /// Its port.
    port: u16,
}

/// A worker of an allocation.
#[derive(Serialize, JsonSchema)]
pub(in crate::mcp) struct AllocatedWorker {
    /// Its id.
    worker_id: String,
    /// `cortex-worker`.
    worker_type: &'static str,
    /// Its CPU in cores.
    cpu: f64,
    /// Its memory in MB.
    memory: u64,
    /// The state of its allocation.
    status: &'static str,
    /// Where it is.
    endpoint: String,
}

/// Moments in the life of an allocation.
#[derive(Serialize, JsonSchema)]
pub(in crate::mcp) struct Timestamps {
    /// When it was asked for.
    created_at: String,
    /// When it became active; null if it did not.
    activated_at: Option<String>,
    /// When it ended; null while it has not.
    released_at: Option<String>,
    /// Seconds since it was asked for.
    age_seconds: u64,
}

/// The answer to get_allocation, and the resource `cluster://allocations/{allocation_id}`.
#[derive(Serialize, JsonSchema)]
pub(in crate::mcp) struct AllocationResult {
    /// Its id.
    allocation_id: String,
    /// The job that holds it.
    job_id: String,
    /// `pending`, `active`, `releasing`, `released` or `failed`.
    state: &'static str,
    /// `low`, `normal`, `high` or `critical`.
    priority: &'static str,
    /// What the workers take together.
    resources: AllocatedResources,
    /// The MCP servers, in the order asked for.
    mcp_servers: Vec<AllocatedServer>,
    /// The workers.
    workers: Vec<AllocatedWorker>,
    /// How many workers are left out of the list because it would be too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    workers_omitted: Option<u64>,
    /// Moments in its life.
    timestamps: Timestamps,
    /// The time to live in seconds, from the activation or the last renewal.
    ttl_seconds: u64,
    /// When it ends unless it is renewed; null once it has ended.
    expires_at: Option<String>,
    /// Whether that moment has passed; false once it has ended.
    is_expired: bool,
    /// Larger than that of every earlier grant; absent if it was never granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    fencing_token: Option<u64>,
    /// How it ended: `released` by its holder, `expired`, or `cancelled` with the call that asked for it; absent while it
    /// has not.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_by: Option<&'static str>,
    /// Why it failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// What the client noted.
    #[schemars(with = "JsonObject")]
    metadata: Box<RawValue>,
}

impl From<&Reading<Record>> for AllocationResult {
    fn from(reading: &Reading<Record>) -> Self {
        match &reading.value {
            Record::Allocation(view) => Self::of_allocation(view),
            Record::Refusal(refusal) => Self::of_refusal(refusal, reading.at),
        }
    }
}

impl AllocationResult {
    fn of_allocation(view: &AllocationView) -> Self {
        let AllocationView { allocation, at, expires_at } = view;
        let reservation = &allocation.reservation;
        let state = allocation.state();
        let workers = &reservation.workers;
        let taken = workers.resources();
        let server = |hold: &ServerHold| AllocatedServer {
            server_name: hold.name.to_string(),
            endpoint: hold.port.endpoint(),
            status: server_status(state),
            port: hold.port.0,
        };
        Self {
            allocation_id: reservation.allocation.to_string(),
            job_id: reservation.job.to_string(),
            state: state.as_str(),
            priority: reservation.priority.as_str(),
            resources: AllocatedResources {
                cpu_allocated: taken.cpu_millis.as_cores(),
                memory_allocated: taken.memory_mb.0,
                workers: taken.workers,
            },
            mcp_servers: reservation.servers.iter().map(server).collect(),
            workers: workers
                .iter()
                .take(workers_shown(&reservation.job))
                .map(|(number, port)| AllocatedWorker {
                    worker_id: number.worker_id(&reservation.job),
                    worker_type: "cortex-worker",
                    cpu: workers.size.cpu_millis.as_cores(),
                    memory: workers.size.memory_mb.0,
                    status: state.as_str(),
                    endpoint: port.endpoint(),
                })
                .collect(),
            workers_omitted: omitted(&reservation.job, workers),
            timestamps: Timestamps {
                created_at: allocation.created_at.to_string(),
                activated_at: allocation.activated_at().map(|at| at.to_string()),
                released_at: allocation.ended_at().map(|at| at.to_string()),
                age_seconds: allocation.age(*at).as_seconds(),
            },
            ttl_seconds: allocation.ttl_seconds.as_seconds(),
            expires_at: expires_at.map(|at| at.to_string()),
            is_expired: view.is_expired(),
            fencing_token: Some(reservation.fencing_token.as_u64()),
            ended_by: ended_by(allocation),
            error: failure(allocation),
            metadata: raw(reservation.metadata.as_json()),
        }
    }

    fn of_refusal(refusal: &Refusal, now: Timestamp) -> Self {
        Self {
            allocation_id: refusal.allocation.to_string(),
            job_id: refusal.job.to_string(),
            state: State::Failed.as_str(),
            priority: refusal.priority.as_str(),
            resources: AllocatedResources { cpu_allocated: 0.0, memory_allocated: 0, workers: 0 },
            mcp_servers: Vec::new(),
            workers: Vec::new(),
            workers_omitted: None,
            timestamps: Timestamps {
                created_at: refusal.refused_at.to_string(),
                activated_at: None,
                released_at: None,
                age_seconds: now.since(refusal.refused_at).as_seconds(),
            },
            ttl_seconds: refusal.ttl_seconds.as_seconds(),
            expires_at: None,
            is_expired: false,
            fencing_token: None,
            ended_by: None,
            error: Some(refusal.error.clone()),
            metadata: raw(refusal.metadata.as_json()),
        }
    }
}

const fn ended_by(allocation: &Allocation) -> Option<&'static str> {
    match &allocation.phase {
        Phase::Released { reason, .. } => Some(match reason {
            EndReason::Requested => "released",
            EndReason::Expired => "expired",
            EndReason::Cancelled => "cancelled",
        }),
        _ => None,
    }
}

fn failure(allocation: &Allocation) -> Option<String> {
    match &allocation.phase {
        Phase::Failed { error, .. } => Some(error.to_string()),
        _ => None,
    }
}
