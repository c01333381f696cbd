//! `unregister_agent`: removes an agent.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, Arguments, Parameter};
use crate::results::UnregisterResult;
use cortex_core::command::{Command, Outcome};
use cortex_core::fleet::command::{FleetCommand, FleetOutcome};
use cortex_core::ids::AgentId;
use cortex_engine::EngineError;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use std::sync::Arc;

pub(super) struct UnregisterAgent {
    agent_id: Parameter<AgentId>,
}

impl UnregisterAgent {
    pub(super) fn new() -> Self {
        Self { agent_id: arguments::agent_id() }
    }
}

impl ToolHandler for UnregisterAgent {
    fn name(&self) -> &'static str {
        "unregister_agent"
    }

    fn describe(&self) -> Tool {
        definition::<UnregisterResult>(
            self.name(),
            "Unregister agent",
            "Remove an agent, best when it holds no task: a task it holds returns to the queue, with this attempt \
             counted. Frees its worker slot immediately.",
            &[&self.agent_id],
            &Hints { is_read_only: false, is_destructive: true, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &[&self.agent_id])?;
            let agent = arguments.required(&self.agent_id)?;
            let command = Command::Fleet(FleetCommand::Unregister { agent });
            match invocation.engine.execute(command, |outcome, _, now| (outcome, now)).await? {
                (Outcome::Fleet(FleetOutcome::Unregistered(left)), now) => {
                    ToolOutput::new(&UnregisterResult::new(&left, now))
                }
                _ => Err(EngineError::Fault.into()),
            }
        }
        .boxed()
    }
}
