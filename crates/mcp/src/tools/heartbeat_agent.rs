//! `heartbeat_agent`: records a heartbeat of an agent.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, Arguments, Parameter};
use crate::results::HeartbeatResult;
use crate::server::ServerOptions;
use cortex_core::ids::AgentId;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
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
