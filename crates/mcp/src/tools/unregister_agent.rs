//! `unregister_agent`: removes an agent.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, Arguments, Parameter};
use cortex_core::command::{Command, Outcome};
use cortex_core::fleet::command::{EndedAttempt, FleetCommand, FleetOutcome, RemovedAgent};
use cortex_core::ids::AgentId;
use cortex_core::time::Timestamp;
use cortex_engine::EngineError;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
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
            "Remove an agent, best when it holds no task: a task it holds returns to the queue, and the attempt \
             counts. Frees its worker slot immediately.",
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

/// A task that an agent held when it left.
#[derive(Serialize, JsonSchema)]
struct LeftTaskResult {
    task_id: String,
    /// `queued` again, or `failed` if that was its last attempt.
    state: &'static str,
}

impl From<&EndedAttempt> for LeftTaskResult {
    fn from(left: &EndedAttempt) -> Self {
        Self { task_id: left.task.to_string(), state: left.state.as_str() }
    }
}

/// The result of unregister_agent.
#[derive(Serialize, JsonSchema)]
struct UnregisterResult {
    /// `unregistered`.
    status: &'static str,
    agent_id: String,
    unregistered_at: String,
    /// The tasks that it held.
    tasks: Vec<LeftTaskResult>,
}

impl UnregisterResult {
    fn new(left: &RemovedAgent, now: Timestamp) -> Self {
        Self {
            status: "unregistered",
            agent_id: left.agent.to_string(),
            unregistered_at: now.to_string(),
            tasks: left.tasks.iter().map(LeftTaskResult::from).collect(),
        }
    }
}
