//! `claim_task`: leases the best task to the agent that calls.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, AnyParameter, Arguments, Parameter};
use crate::progress::Progress;
use crate::results::ClaimResult;
use crate::server::ServerOptions;
use cortex_core::ids::AgentId;
use cortex_engine::{CancelHandle, Claim, EngineError, EngineHandle};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// The longest wait of a claim, in seconds: well under the minute after which some clients time out.
const WAIT_SECONDS_MAX: u64 = 30;

pub(super) struct ClaimTask {
    agent_id: Parameter<AgentId>,
    wait_seconds: Parameter<u64>,
    /// Permits for claims of this connection that wait.
    wait_permits: Arc<Semaphore>,
}

impl ClaimTask {
    pub(super) fn new(options: &ServerOptions) -> Self {
        let wait = "How long to wait if there is no task.";
        Self {
            agent_id: arguments::agent_id(),
            wait_seconds: arguments::integer("wait_seconds", wait, 0..=WAIT_SECONDS_MAX).with_default(0),
            wait_permits: Arc::new(Semaphore::new(options.claims_waiting_max)),
        }
    }

    fn parameters(&self) -> [&dyn AnyParameter; 2] {
        [&self.agent_id, &self.wait_seconds]
    }
}

impl ToolHandler for ClaimTask {
    fn name(&self) -> &'static str {
        "claim_task"
    }

    fn describe(&self) -> Tool {
        definition::<ClaimResult>(
            self.name(),
            "Claim task",
            "Take the best waiting task for this agent, with others of its batch_key. Do each and call \
             complete_task with its fencing_token before lease_expires_at: after that the task goes to another \
             agent and the report is refused. Status \"none\" has a reason: no_task (repeat with wait_seconds), \
             agent_is_full (complete a task first), no_tokens (wait, or raise the budget with set_token_budget), \
             draining (report what you hold, then stop). Waiting counts as a heartbeat. Call register_agent first.",
            &self.parameters(),
            &Hints { is_read_only: false, is_destructive: false, is_idempotent: false },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let Invocation { engine, arguments, call, progress, closing, .. } = invocation;
            let arguments = Arguments::new(arguments, &self.parameters())?;
            let agent = arguments.required(&self.agent_id)?;
            let wait = Duration::from_secs(arguments.optional(&self.wait_seconds)?.unwrap_or(0));
            // If the call is cancelled, the agent does not receive the tasks: they would be held until their leases
            // expire. This is registered before the claim, as with request_resources.
            let cancel_handle = || {
                let cancel_handle = CancelHandle::default();
                if let Some(call) = &call {
                    let (engine, cancel_handle) = (engine.clone(), cancel_handle.clone());
                    call.undo_if_cancelled(move || engine.cancel(cancel_handle));
                }
                cancel_handle
            };
            // At the end of the input, or without a permit, a claim does not wait.
            let permit = if wait.is_zero() { None } else { self.wait_permits.try_acquire().ok() };
            let wait = if closing.is_cancelled() || permit.is_none() { Duration::ZERO } else { wait };
            let waiting = cancel_handle();
            let claim = tokio::select! {
                biased;
                claim = claim_within(&engine, agent.clone(), wait, waiting.clone(), progress) => claim?,
                // rmcp waits for calls in flight, so that the wait ends here. A task that is available is still leased,
                // as to any other call before the end of the input.
                () = closing.cancelled(), if !wait.is_zero() => {
                    engine.cancel(waiting);
                    engine.claim_task(agent, Duration::ZERO, cancel_handle()).await?
                }
            };
            ToolOutput::new(&ClaimResult::from(&claim))
        }
        .boxed()
    }
}

async fn claim_within(
    engine: &EngineHandle,
    agent: AgentId,
    wait: Duration,
    cancel_handle: CancelHandle,
    progress: Option<Progress>,
) -> Result<Claim, EngineError> {
    let claim = engine.claim_task(agent, wait, cancel_handle);
    match progress.filter(|_| !wait.is_zero()) {
        Some(progress) => progress.while_waiting("no task yet: waiting for one", Some(wait), claim).await,
        None => claim.await,
    }
}
