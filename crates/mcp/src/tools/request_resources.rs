//! `request_resources`: requests a lease.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, Wait, definition};
use crate::arguments::{self, AnyParameter, ArgumentError, Arguments, Parameter};
use crate::results::{McpConfig, RuntimeStatus, ServerStatus, omitted, workers_shown};
use crate::server::ServerOptions;
use cortex_config::Toolset;
use cortex_core::allocation::{Metadata, ServerHold, State};
use cortex_core::command::{DistinctServers, Request};
use cortex_core::ids::{AllocationId, JobId, RequestId};
use cortex_core::priority::Priority;
use cortex_core::time::TtlSeconds;
use cortex_core::view::AllocationView;
use cortex_engine::{CancelHandle, EngineError, Grant, Refusal};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

const DESCRIPTION: &str = "Lease workers and MCP servers for a job, all or nothing. Returns status \"active\" with \
    allocation_id, endpoints and expires_at, or \"failed\" with the reason: ask for less, or retry after \
    retry_after_seconds. Endpoints are reserved addresses; nothing is started there. Always call release_resources \
    afterwards.";

/// The description where MCP servers are managed.
const MANAGED_DESCRIPTION: &str = "Lease workers and MCP servers for a job, all or nothing. Starts the servers and \
    returns when all respond, which may take half a minute: status \"active\" with allocation_id, endpoints and \
    expires_at, or \"failed\" with the reason (a server did not start: its last output; no capacity: ask for less, \
    or retry after retry_after_seconds). While the lease lasts, send access_token, if there is one, to the \
    endpoints as a bearer token; give mcp_config unchanged to an MCP client as its server list. Always call \
    release_resources afterwards.";

pub(super) struct RequestResources {
    description: &'static str,
    default_ttl: TtlSeconds,
    job_id: Parameter<JobId>,
    mcp_servers: Parameter<DistinctServers>,
    workers: Parameter<u64>,
    priority: Parameter<Priority>,
    ttl_seconds: Parameter<u64>,
    request_id: Parameter<RequestId>,
    metadata: Parameter<Metadata>,
}

impl RequestResources {
    pub(super) fn new(options: &ServerOptions, is_managed: bool) -> Self {
        let servers = match (is_managed, options.toolsets.contains(&Toolset::Servers)) {
            (false, _) => "Names, e.g. [\"filesystem\"]; [] for none.",
            (true, true) => "Names from list_mcp_servers; [] for none.",
            (true, false) => "Names; [] for none. The error for an unknown name lists the known ones.",
        };
        let ttl = "Lease duration; an expired lease can be reclaimed.";
        let request_id = "Idempotency key: a repeat returns the first grant. Set it if you may retry.";
        Self {
            description: if is_managed { MANAGED_DESCRIPTION } else { DESCRIPTION },
            default_ttl: options.default_ttl,
            job_id: arguments::name("job_id", "Job that holds the lease.", JobId::new).required(),
            mcp_servers: arguments::servers("mcp_servers", servers).required(),
            workers: arguments::integer("workers", "", 0..=u64::from(u32::MAX)).with_default(0),
            priority: arguments::priority(),
            ttl_seconds: arguments::integer("ttl_seconds", ttl, 1..=options.ttl_seconds_max)
                .with_default(options.default_ttl.as_seconds()),
            request_id: arguments::name("request_id", request_id, RequestId::new),
            metadata: arguments::metadata("Your own notes, for get_allocation."),
        }
    }

    fn parameters(&self) -> [&dyn AnyParameter; 7] {
        [
            &self.job_id,
            &self.mcp_servers,
            &self.workers,
            &self.priority,
            &self.ttl_seconds,
            &self.request_id,
            &self.metadata,
        ]
    }

    fn read(&self, given: Option<rmcp::model::JsonObject>) -> Result<Request, ArgumentError> {
        let arguments = Arguments::new(given, &self.parameters())?;
        let request = Request {
            job: arguments.required(&self.job_id)?,
            servers: arguments.required(&self.mcp_servers)?,
            workers: arguments.optional(&self.workers)?.unwrap_or(0),
            priority: arguments.optional(&self.priority)?.unwrap_or_default(),
            ttl_seconds: arguments.optional(&self.ttl_seconds)?.and_then(TtlSeconds::new).unwrap_or(self.default_ttl),
            request_id: arguments.optional(&self.request_id)?,
            metadata: arguments.optional(&self.metadata)?.unwrap_or_else(Metadata::empty),
        };
        if request.workers == 0 && request.servers.as_slice().is_empty() {
            let text = "mcp_servers is [] and workers is 0: request at least one MCP server or one worker";
            return Err(ArgumentError::Combination(text.to_owned()));
        }
        Ok(request)
    }
}

impl ToolHandler for RequestResources {
    fn name(&self) -> &'static str {
        "request_resources"
    }

    fn describe(&self) -> Tool {
        definition::<RequestResult>(
            self.name(),
            "Request resources",
            self.description,
            &self.parameters(),
            &Hints { is_read_only: false, is_destructive: false, is_idempotent: false },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let Invocation { engine, managed, arguments, call, progress, closing, .. } = invocation;
            let request = self.read(arguments)?;
            let cancel_handle = CancelHandle::default();
            // If the call is cancelled, the caller does not receive the grant: it would be held until it expires. This
            // is registered before the request, so that the cancellation takes effect before any later call of the
            // client.
            if let Some(call) = &call {
                let (engine, cancel_handle) = (engine.clone(), cancel_handle.clone());
                call.undo_if_cancelled(move || engine.cancel(cancel_handle));
            }
            let granted = match &managed {
                None => engine.request(request, cancel_handle.clone()).await,
                Some(_) => {
                    let message = starting(&request);
                    let wait = Wait { engine: engine.clone(), progress, closing };
                    let asked = std::pin::pin!(engine.request(request, cancel_handle.clone()));
                    match wait.for_reply(&message, asked).await {
                        Some(granted) => granted,
                        None => {
                            engine.cancel(cancel_handle);
                            return Err(ToolError::Closing("the request was cancelled, and nothing was granted"));
                        }
                    }
                }
            };
            match granted {
                Ok(grant) => {
                    let runtime_status = match &managed {
                        Some(managed) => {
                            RuntimeStatus::with_credentials(managed, &grant.view).await.inspect_err(|_| {
                                // The endpoints and the token are unknown, so that the grant is of no use to the
                                // caller.
                                engine.cancel(cancel_handle);
                            })?
                        }
                        None => None,
                    };
                    ToolOutput::new(&RequestResult::granted(&grant, runtime_status.as_ref()))
                }
                Err(EngineError::Refused(refusal)) => ToolOutput::new(&RequestResult::failed(&refusal)),
                Err(EngineError::NotStarted { allocation, error }) => {
                    ToolOutput::new(&RequestResult::not_started(allocation, &error))
                }
                Err(error) => Err(error.into()),
            }
        }
        .boxed()
    }
}

/// Returns the progress message of a request that waits for its servers and workers to start.
fn starting(request: &Request) -> String {
    let servers = request.servers.as_slice().iter().map(ToString::to_string);
    let workers = match request.workers {
        0 => None,
        1 => Some("a worker".to_owned()),
        count => Some(format!("{count} workers")),
    };
    format!("starting {}", servers.chain(workers).collect::<Vec<_>>().join(", "))
}

/// Amounts of a lease.
#[derive(Serialize, JsonSchema)]
struct GrantedResources {
    /// CPU, in cores.
    cpu: f64,
    /// Memory, in MB.
    memory: u64,
    workers: u64,
}

/// An MCP server of a new lease.
#[derive(Serialize, JsonSchema)]
struct GrantedServer {
    name: String,
    /// Its address.
    endpoint: String,
    /// `running` while the lease is held. A managed server is also `starting`, `restarting`, `failed` or `stopping`.
    status: &'static str,
}

/// A worker of a new lease.
#[derive(Serialize, JsonSchema)]
struct GrantedWorker {
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
enum RequestResult {
    /// A lease.
    Granted(Box<GrantedResult>),
    /// There was not enough capacity, or a server or worker did not start.
    Failed(FailedResult),
}

/// A lease, as request_resources returns it.
#[derive(Serialize, JsonSchema)]
struct GrantedResult {
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
struct FailedResult {
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
    fn granted(grant: &Grant, runtime_status: Option<&RuntimeStatus>) -> Self {
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

    fn failed(refusal: &Refusal) -> Self {
        Self::Failed(FailedResult {
            allocation_id: refusal.allocation.to_string(),
            status: State::Failed.as_str(),
            error: refusal.error.clone(),
            retry_after_seconds: refusal.retry_at.map(|at| at.since(refusal.refused_at).as_seconds_ceil()),
        })
    }

    /// Builds the result of a grant that was undone because a server or worker did not start.
    fn not_started(allocation: AllocationId, error: &str) -> Self {
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
