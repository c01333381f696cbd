//! `get_allocation`: reads one allocation back.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition, unknown_allocation};
use crate::arguments::{self, Arguments, Parameter};
use crate::results::{McpConfig, RuntimeStatus, ServerStatus, omitted, raw, reason, workers_shown};
use cortex_core::allocation::{Allocation, EndReason, Phase, ServerHold, State};
use cortex_core::ids::AllocationId;
use cortex_core::ports::Port;
use cortex_core::time::Timestamp;
use cortex_core::view::AllocationView;
use cortex_engine::{Record, Refusal};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::{JsonObject, Tool};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;
use std::sync::Arc;

const DESCRIPTION: &str = "Read one allocation: state, workers, MCP servers with endpoints, timestamps, expiry and \
    metadata. Ended allocations and refused requests stay readable for a while.";

/// The description where MCP servers are managed.
const MANAGED_DESCRIPTION: &str = "Read one allocation: state, workers, MCP servers with endpoints and status \
    (starting, running, restarting, failed with the reason), timestamps, expiry and metadata; while active also \
    access_token, if its endpoints need one, and mcp_config for an MCP client. Ended allocations and refused \
    requests stay readable for a while.";

pub(super) struct GetAllocation {
    description: &'static str,
    allocation_id: Parameter<Result<AllocationId, arguments::UnknownAllocation>>,
}

impl GetAllocation {
    pub(super) fn new(is_managed: bool) -> Self {
        let description = if is_managed { MANAGED_DESCRIPTION } else { DESCRIPTION };
        Self { description, allocation_id: arguments::allocation_id() }
    }
}

impl ToolHandler for GetAllocation {
    fn name(&self) -> &'static str {
        "get_allocation"
    }

    fn describe(&self) -> Tool {
        definition::<AllocationResult>(
            self.name(),
            "Get allocation",
            self.description,
            &[&self.allocation_id],
            &Hints { is_read_only: true, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &[&self.allocation_id])?;
            let allocation = arguments.required(&self.allocation_id)?.map_err(ToolError::NotFound)?;
            let (now, record) = invocation.engine.read(move |state, now| (now, state.record(now, allocation))).await?;
            let record = record.ok_or_else(|| unknown_allocation(allocation))?;
            let runtime_status = match (&invocation.managed, &record) {
                (Some(managed), Record::Allocation(view)) => RuntimeStatus::with_credentials(managed, view).await?,
                _ => None,
            };
            ToolOutput::new(&AllocationResult::new(&record, now, runtime_status.as_ref()))
        }
        .boxed()
    }
}

/// Amounts of an allocation.
#[derive(Serialize, JsonSchema)]
struct AllocatedResources {
    /// CPU, in cores.
    cpu_allocated: f64,
    /// Memory, in MB.
    memory_allocated: u64,
    workers: u64,
}

/// An MCP server of an allocation.
#[derive(Serialize, JsonSchema)]
struct AllocatedServer {
    server_name: String,
    /// Its address.
    endpoint: String,
    /// `running` while the allocation is live, then `released`. A managed server is also `starting`, `restarting`,
    /// `failed` or `stopping`.
    status: &'static str,
    /// Why it is restarting or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    port: u16,
}

/// A worker of an allocation.
#[derive(Serialize, JsonSchema)]
struct AllocatedWorker {
    worker_id: String,
    /// `cortex-worker`.
    worker_type: &'static str,
    /// CPU, in cores.
    cpu: f64,
    /// Memory, in MB.
    memory: u64,
    /// The state of its allocation, or of a managed worker: `starting`, `running`, `restarting`, `failed` or
    /// `stopping`.
    status: &'static str,
    /// Why it is restarting or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Its address.
    endpoint: String,
}

/// Times of an allocation.
#[derive(Serialize, JsonSchema)]
struct Timestamps {
    /// The time of the request.
    created_at: String,
    /// Null if it did not become active.
    activated_at: Option<String>,
    /// Null while it has not ended.
    released_at: Option<String>,
    /// Seconds since the request.
    age_seconds: u64,
}

/// The result of get_allocation, and the resource `cluster://allocations/{allocation_id}`.
#[derive(Serialize, JsonSchema)]
pub(crate) struct AllocationResult {
    allocation_id: String,
    job_id: String,
    /// `pending`, `active`, `releasing`, `released` or `failed`.
    state: &'static str,
    /// `low`, `normal`, `high` or `critical`.
    priority: &'static str,
    /// Total of the workers.
    resources: AllocatedResources,
    /// In the order of the request.
    mcp_servers: Vec<AllocatedServer>,
    workers: Vec<AllocatedWorker>,
    /// Workers left out of the list because it would be too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    workers_omitted: Option<u64>,
    timestamps: Timestamps,
    /// The time to live in seconds, from the activation or the last renewal.
    ttl_seconds: u64,
    /// The deadline unless it is renewed; null once it has ended.
    expires_at: Option<String>,
    /// Whether it is past its deadline; false once it has ended.
    is_expired: bool,
    /// Larger than that of every earlier grant; absent if it was never granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    fencing_token: Option<u64>,
    /// The bearer token for the endpoints of managed MCP servers; only from get_allocation, while the allocation is
    /// active.
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token: Option<String>,
    /// The configuration of an MCP client for managed MCP servers; present when the token is.
    #[serde(skip_serializing_if = "Option::is_none")]
    mcp_config: Option<McpConfig>,
    /// How it ended: `released` by its holder, `expired`, or `cancelled` with the call that requested it; absent while
    /// it has not.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_by: Option<&'static str>,
    /// Why it failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The notes of the request.
    #[schemars(with = "JsonObject")]
    metadata: Box<RawValue>,
}

impl AllocationResult {
    /// Builds the result from the record, with the runtime status where servers or workers are managed.
    pub(crate) fn new(record: &Record, now: Timestamp, runtime_status: Option<&RuntimeStatus>) -> Self {
        match record {
            Record::Allocation(view) => Self::of_allocation(view, runtime_status),
            Record::Refusal(refusal) => Self::of_refusal(refusal, now),
        }
    }

    fn of_allocation(view: &AllocationView, runtime_status: Option<&RuntimeStatus>) -> Self {
        let AllocationView { allocation, at, expires_at } = view;
        let reservation = &allocation.reservation;
        let state = allocation.state();
        let workers = &reservation.workers;
        let taken = workers.resources();
        let server = |hold: &ServerHold| {
            let ServerStatus { endpoint, status, reason } = ServerStatus::new(hold, state, runtime_status);
            AllocatedServer { server_name: hold.name.to_string(), endpoint, status, reason, port: hold.port.0 }
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
                .map(|(number, port)| allocated_worker(number.worker_id(&reservation.job), port, view, runtime_status))
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
            access_token: runtime_status.and_then(RuntimeStatus::access_token).map(str::to_owned),
            mcp_config: runtime_status.and_then(|runtime_status| runtime_status.mcp_config(&reservation.servers)),
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
            access_token: None,
            mcp_config: None,
            ended_by: None,
            error: Some(refusal.error.clone()),
            metadata: raw(refusal.metadata.as_json()),
        }
    }
}

fn allocated_worker(
    worker_id: String,
    port: Port,
    view: &AllocationView,
    runtime_status: Option<&RuntimeStatus>,
) -> AllocatedWorker {
    let (state, size) = (view.allocation.state(), view.allocation.reservation.workers.size);
    let report = runtime_status.and_then(|runtime_status| runtime_status.worker(&worker_id));
    AllocatedWorker {
        worker_type: "cortex-worker",
        cpu: size.cpu_millis.as_cores(),
        memory: size.memory_mb.0,
        status: report.map_or(state.as_str(), |report| report.state.as_str()),
        reason: report.and_then(|report| reason(&report.reason)),
        endpoint: port.endpoint(),
        worker_id,
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
