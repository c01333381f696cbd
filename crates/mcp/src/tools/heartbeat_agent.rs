//! `heartbeat_agent`: a sign of life of an agent.

use super::{Answer, Hints, Invocation, Run, ToolError, definition};
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

impl Run for HeartbeatAgent {
    fn name(&self) -> &'static str {
        "heartbeat_agent"
    }

    fn describe(&self) -> Tool {
        definition::<HeartbeatResult>(
            self.name(),
            "Heartbeat of an agent",
            "Say that an agent is alive, every next_heartbeat_seconds. Answers with the tasks that it holds: one that it was given \
             meanwhile is there with its fencing_token, one that was cancelled or taken back is not. An error means that it is \
             not registered any more: drop its work and register again.",
            &[&self.agent_id],
            &Hints { is_read_only: false, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<Answer, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &[&self.agent_id])?;
            let view = invocation.engine.heartbeat(arguments.required(&self.agent_id)?).await?;
            Answer::new(&HeartbeatResult::new(&view, self.heartbeat_seconds))
        }
        .boxed()
    }
}
