//! `heartbeat_agent`: records a heartbeat of an agent.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, Arguments, Parameter};
use crate::server::ServerOptions;
use cortex_core::fleet::view::{AgentView, HeldTask};
use cortex_core::ids::AgentId;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

pub(super) struct HeartbeatAgent {
    heartbeat_seconds: u64,
    agent_id: Parameter<AgentId>,
}

impl HeartbeatAgent {
    pub(super) fn new(options: &ServerOptions) -> Self {
        Self { heartbeat_seconds: options.heartbeat_seconds, agent_id: arguments::agent_id() }
    }
}

impl ToolHandler for HeartbeatAgent {
    fn name(&self) -> &'static str {
        "heartbeat_agent"
    }

    fn describe(&self) -> Tool {
        definition::<HeartbeatResult>(
            self.name(),
            "Heartbeat of an agent",
            "Report an agent alive, every next_heartbeat_seconds. Returns the tasks it holds with their \
             fencing_token, newly assigned ones too: drop the work on a task that is missing. An error means the agent \
             is no longer registered: drop its work and register again.",
            &[&self.agent_id],
            &Hints { is_read_only: false, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &[&self.agent_id])?;
            let view = invocation.engine.heartbeat(arguments.required(&self.agent_id)?).await?;
            ToolOutput::new(&HeartbeatResult::new(&view, self.heartbeat_seconds))
        }
        .boxed()
    }
}

/// A task that an agent holds.
#[derive(Serialize, JsonSchema)]
struct HeldTaskResult {
    task_id: String,
    /// The token of its lease, for complete_task.
    fencing_token: u64,
    /// The deadline of the lease.
    lease_expires_at: String,
}

impl From<&HeldTask> for HeldTaskResult {
    fn from(held: &HeldTask) -> Self {
        Self {
            task_id: held.task.to_string(),
            fencing_token: held.fencing_token.as_u64(),
            lease_expires_at: held.expires_at.to_string(),
        }
    }
}

/// The result of heartbeat_agent.
#[derive(Serialize, JsonSchema)]
struct HeartbeatResult {
    /// `ok`.
    status: &'static str,
    agent_id: String,
    /// `idle`, `busy` or `full`.
    state: &'static str,
    /// The time at which it is lost without a heartbeat until then.
    lost_at: String,
    /// Seconds until the next heartbeat is due.
    next_heartbeat_seconds: u64,
    /// The tasks that it holds, oldest lease first. Drop the work on a task that is missing: it was cancelled or
    /// reclaimed.
    tasks: Vec<HeldTaskResult>,
}

impl HeartbeatResult {
    fn new(view: &AgentView, heartbeat_seconds: u64) -> Self {
        Self {
            status: "ok",
            agent_id: view.registration.request.agent.to_string(),
            state: view.state.as_str(),
            lost_at: view.lost_at.to_string(),
            next_heartbeat_seconds: heartbeat_seconds,
            // At most a thousand, which fit even with the longest ids.
            tasks: view.tasks.iter().map(HeldTaskResult::from).collect(),
        }
    }
}
