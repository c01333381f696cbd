//! `request_resources`: asks for a lease.

use super::{Answer, Hints, Invocation, Run, ToolError, definition};
use crate::core::{DistinctServers, JobId, Metadata, Priority, Request, RequestId, TtlSeconds};
use crate::engine::{EngineError, Ticket};
use crate::mcp::arguments::{self, ArgumentError, Arguments, Described, Parameter};
use crate::mcp::results::RequestResult;
use crate::mcp::server::ServerOptions;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use std::sync::Arc;

pub(super) struct RequestResources {
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
    pub(super) fn new(options: &ServerOptions) -> Self {
        let servers = "MCP servers that the job uses, such as [\"filesystem\", \"github\"]; [] if none. A server is shared by \
            all leases that name it.";
        let ttl = "How long the lease lasts, in seconds. Pick what the job needs; an expired lease can be taken back.";
        let request_id = "Your own key for this request. Repeating a request with the same key answers with the first grant \
            instead of granting twice: use it if you may have to retry.";
        Self {
            default_ttl: options.default_ttl,
            job_id: arguments::name("job_id", "The job that will hold the lease.", JobId::new).required(),
            mcp_servers: arguments::servers("mcp_servers", servers).required(),
            workers: arguments::whole("workers", "How many workers.", 0..=u64::from(u32::MAX)).with_default(0),
            priority: arguments::priority(),
            ttl_seconds: arguments::whole("ttl_seconds", ttl, 1..=options.ttl_seconds_max)
                .with_default(options.default_ttl.as_seconds()),
            request_id: arguments::name("request_id", request_id, RequestId::new),
            metadata: arguments::metadata("Anything you want to read back with the allocation."),
        }
    }

    fn parameters(&self) -> [&dyn Described; 7] {
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
            let text = "mcp_servers is [] and workers is 0: ask for at least one MCP server or one worker";
            return Err(ArgumentError::Together(text.to_owned()));
        }
        Ok(request)
    }
}

impl Run for RequestResources {
    fn name(&self) -> &'static str {
        "request_resources"
    }

    fn describe(&self) -> Tool {
        definition::<RequestResult>(
            self.name(),
            "Request resources",
            "Lease workers and MCP servers for a job. Answers at once: status \"active\" with endpoints, expires_at and an \
             allocation_id to release with, or status \"failed\" with the reason (then ask for less, or come again after \
             retry_after_seconds). All or nothing. Endpoints are \
             addresses that are yours for the lease; nothing is started there. Always release with release_resources when the job is done.",
            &self.parameters(),
            &Hints { is_read_only: false, is_destructive: false, is_idempotent: false },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<Answer, ToolError>> {
        async move {
            let request = self.read(invocation.arguments)?;
            let ticket = Ticket::default();
            // A grant that the caller never hears of would be held until it expires. This comes before the request, so that
            // the cancelling takes effect before any call that the client sends behind it.
            if let Some(call) = &invocation.call {
                let (engine, ticket) = (invocation.engine.clone(), ticket.clone());
                call.undo_if_cancelled(move || engine.call_off(ticket));
            }
            match invocation.engine.request(request, ticket).await {
                Ok(grant) => Answer::new(&RequestResult::granted(&grant)),
                Err(EngineError::Refused(refusal)) => Answer::new(&RequestResult::failed(&refusal)),
                Err(error) => Err(error.into()),
            }
        }
        .boxed()
    }
}
