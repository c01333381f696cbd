//! `request_resources`: requests a lease.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, Wait, definition};
use crate::arguments::{self, AnyParameter, ArgumentError, Arguments, Parameter};
use crate::results::{RequestResult, RuntimeStatus};
use crate::server::ServerOptions;
use cortex_config::Toolset;
use cortex_core::allocation::Metadata;
use cortex_core::command::{DistinctServers, Request};
use cortex_core::ids::{JobId, RequestId};
use cortex_core::priority::Priority;
use cortex_core::time::TtlSeconds;
use cortex_engine::{CancelHandle, EngineError};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
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
        let ttl = "An expired lease can be reclaimed.";
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
