//! `renew_allocation`: restarts the time of a lease.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition, unknown_allocation};
use crate::arguments::{self, AnyParameter, Arguments, Parameter};
use crate::server::ServerOptions;
use cortex_core::command::Command;
use cortex_core::ids::{AllocationId, FencingToken};
use cortex_core::time::TtlSeconds;
use cortex_core::view::AllocationView;
use cortex_engine::EngineState;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

pub(super) struct RenewAllocation {
    allocation_id: Parameter<Result<AllocationId, arguments::UnknownAllocation>>,
    ttl_seconds: Parameter<u64>,
    fencing_token: Parameter<u64>,
}

impl RenewAllocation {
    pub(super) fn new(options: &ServerOptions) -> Self {
        let ttl = "Counted from now; unchanged if absent.";
        let token = "From request_resources. The renewal is refused if it is not this lease's.";
        Self {
            allocation_id: arguments::allocation_id(),
            ttl_seconds: arguments::integer("ttl_seconds", ttl, 1..=options.ttl_seconds_max),
            fencing_token: arguments::integer("fencing_token", token, 0..=u64::MAX),
        }
    }

    fn parameters(&self) -> [&dyn AnyParameter; 3] {
        [&self.allocation_id, &self.ttl_seconds, &self.fencing_token]
    }
}

impl ToolHandler for RenewAllocation {
    fn name(&self) -> &'static str {
        "renew_allocation"
    }

    fn describe(&self) -> Tool {
        definition::<RenewResult>(
            self.name(),
            "Renew allocation",
            "Renew an active lease before it expires: its time to live restarts now. An expired or ended lease \
             cannot be renewed: call request_resources again.",
            &self.parameters(),
            &Hints { is_read_only: false, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &self.parameters())?;
            let allocation = arguments.required(&self.allocation_id)?;
            let ttl_seconds = arguments.optional(&self.ttl_seconds)?.and_then(TtlSeconds::new);
            let fencing_token = arguments.optional(&self.fencing_token)?.map(FencingToken::new);
            let allocation = allocation.map_err(ToolError::NotFound)?;
            let command = Command::Renew { allocation, ttl_seconds, fencing_token };
            let read = move |_, state: &EngineState<'_>, now| state.cluster.allocation(now, allocation);
            let view = invocation.engine.execute(command, read).await?;
            let view = view.ok_or_else(|| unknown_allocation(allocation))?;
            ToolOutput::new(&RenewResult::from(&view))
        }
        .boxed()
    }
}

/// The result of renew_allocation.
#[derive(Serialize, JsonSchema)]
struct RenewResult {
    /// `active`.
    status: &'static str,
    allocation_id: String,
    job_id: String,
    /// The lease time from now on, in seconds.
    ttl_seconds: u64,
    renewed_at: String,
    /// The deadline unless it is renewed again.
    expires_at: Option<String>,
    /// Unchanged by a renewal.
    fencing_token: u64,
}

impl From<&AllocationView> for RenewResult {
    fn from(view: &AllocationView) -> Self {
        let reservation = &view.allocation.reservation;
        Self {
            status: view.allocation.state().as_str(),
            allocation_id: reservation.allocation.to_string(),
            job_id: reservation.job.to_string(),
            ttl_seconds: view.allocation.ttl_seconds.as_seconds(),
            renewed_at: view.at.to_string(),
            expires_at: view.expires_at.map(|at| at.to_string()),
            fencing_token: reservation.fencing_token.as_u64(),
        }
    }
}
