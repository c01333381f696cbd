//! `register_agent`: registers an agent.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, AnyParameter, Arguments, Parameter};
use crate::results::RegisterResult;
use crate::server::ServerOptions;
use cortex_core::allocation::Metadata;
use cortex_core::fleet::agent::{AgentRequest, Capabilities};
use cortex_core::ids::{AgentId, AgentType, AllocationId};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
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
        let capabilities = "What the agent can do, e.g. [\"rust\"]; it gets tasks that need nothing else.";
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
             to the queue. Repeating it unchanged is safe. Refused beyond the quotas (set_agent_quota) and the \
             free worker slots.",
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
