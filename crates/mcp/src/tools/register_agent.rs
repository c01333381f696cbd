//! `register_agent`: registers an agent.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, AnyParameter, Arguments, Parameter};
use crate::results::names;
use crate::server::ServerOptions;
use cortex_core::allocation::Metadata;
use cortex_core::fleet::agent::{AgentRequest, Capabilities};
use cortex_core::ids::{AgentId, AgentType, AllocationId};
use cortex_engine::RegisteredAgent;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

/// The default of `agent_type`.
const AGENT_TYPE_DEFAULT: &str = "general";

/// The default of `max_concurrent`: the one in the health score of the Resource Allocation Module.
const CONCURRENT_DEFAULT: u64 = 3;

/// The most tasks that an agent may hold concurrently.
const CONCURRENT_MAX: u64 = 1_000;

pub(super) struct RegisterAgent {
    heartbeat_seconds: u64,
    agent_id: Parameter<AgentId>,
    agent_type: Parameter<AgentType>,
    capabilities: Parameter<Capabilities>,
    max_concurrent: Parameter<u64>,
    allocation_id: Parameter<Result<AllocationId, arguments::UnknownAllocation>>,
    metadata: Parameter<Metadata>,
}

impl RegisterAgent {
    pub(super) fn new(options: &ServerOptions) -> Self {
        let agent_id = "Your own id, unique among registered agents.";
        let agent_type = "Kind of agent, e.g. backend; quotas and tasks select by it.";
        let capabilities = "What the agent can do, e.g. [\"rust\"]; it gets only tasks that need no more than these.";
        let allocation = "Allocation whose worker it is; the agent ends with it. If absent, it takes a \
             worker slot of its own.";
        Self {
            heartbeat_seconds: options.heartbeat_seconds,
            agent_id: arguments::name("agent_id", agent_id, AgentId::new).required(),
            agent_type: arguments::name("agent_type", agent_type, AgentType::new).with_default(AGENT_TYPE_DEFAULT),
            capabilities: arguments::capabilities(capabilities),
            max_concurrent: arguments::integer("max_concurrent", "Tasks it may hold at a time.", 1..=CONCURRENT_MAX)
                .with_default(CONCURRENT_DEFAULT),
            allocation_id: arguments::allocation_id_for(allocation),
            metadata: arguments::metadata("Your own notes, for list_agents."),
        }
    }

    fn parameters(&self) -> [&dyn AnyParameter; 6] {
        [
            &self.agent_id,
            &self.agent_type,
            &self.capabilities,
            &self.max_concurrent,
            &self.allocation_id,
            &self.metadata,
        ]
    }

    fn read(&self, arguments: &Arguments) -> Result<AgentRequest, ToolError> {
        let request = AgentRequest {
            agent: arguments.required(&self.agent_id)?,
            agent_type: arguments.or_default(&self.agent_type)?,
            capabilities: arguments.optional(&self.capabilities)?.unwrap_or_default(),
            // The argument's bounds are within those of `u32`.
            tasks_max: u32::try_from(arguments.or_default(&self.max_concurrent)?).unwrap_or(u32::MAX),
            allocation: None,
            metadata: arguments.optional(&self.metadata)?.unwrap_or_else(Metadata::empty),
        };
        let allocation = arguments.optional(&self.allocation_id)?.transpose().map_err(ToolError::NotFound)?;
        Ok(AgentRequest { allocation, ..request })
    }
}

impl ToolHandler for RegisterAgent {
    fn name(&self) -> &'static str {
        "register_agent"
    }

    fn describe(&self) -> Tool {
        definition::<RegisterResult>(
            self.name(),
            "Register agent",
            "Register an agent so that it can get tasks. From then on it must call heartbeat_agent, claim_task or \
             complete_task every heartbeat_seconds: after three missed heartbeats it is lost and its tasks return \
             to the queue. Repeating it unchanged is safe. Refused if a quota (set_agent_quota) is \
             reached or no worker slot is free.",
            &self.parameters(),
            &Hints { is_read_only: false, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &self.parameters())?;
            let taken_on = invocation.engine.register_agent(self.read(&arguments)?).await?;
            ToolOutput::new(&RegisterResult::new(&taken_on, self.heartbeat_seconds))
        }
        .boxed()
    }
}

/// The result of register_agent.
#[derive(Serialize, JsonSchema)]
struct RegisterResult {
    /// `registered` by this call, or `already_registered` by one like it.
    status: &'static str,
    agent_id: String,
    agent_type: String,
    /// Sorted, without repetitions.
    capabilities: Vec<String>,
    /// The most tasks that it may hold concurrently.
    max_concurrent: u32,
    /// The allocation whose worker it is; null if it has a worker slot of its own.
    allocation_id: Option<String>,
    /// `idle`, `busy`, `full` or `unresponsive`.
    state: &'static str,
    /// Tasks that it holds.
    current_tasks: u64,
    /// The interval of its heartbeats, in seconds.
    heartbeat_seconds: u64,
    registered_at: String,
    /// The time at which it is lost without a heartbeat until then.
    lost_at: String,
}

impl RegisterResult {
    fn new(taken_on: &RegisteredAgent, heartbeat_seconds: u64) -> Self {
        let view = &taken_on.view;
        let request = &view.registration.request;
        Self {
            status: if taken_on.is_new { "registered" } else { "already_registered" },
            agent_id: request.agent.to_string(),
            agent_type: request.agent_type.to_string(),
            capabilities: names(request.capabilities.as_slice()),
            max_concurrent: request.tasks_max,
            allocation_id: request.allocation.map(|id| id.to_string()),
            state: view.state.as_str(),
            current_tasks: view.tasks.len() as u64,
            heartbeat_seconds,
            registered_at: view.registered_at.to_string(),
            lost_at: view.lost_at.to_string(),
        }
    }
}
