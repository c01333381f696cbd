//! `set_agent_quota`: sets the most agents that may be registered, in total or of a type.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, AnyParameter, ArgumentError, Arguments, Parameter};
use crate::results::{AgentsBlock, change_status};
use cortex_core::command::Command;
use cortex_core::fleet::command::FleetCommand;
use cortex_core::fleet::view::UsageView;
use cortex_core::ids::AgentType;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

pub(super) struct SetAgentQuota {
    agent_type: Parameter<AgentType>,
    quota: Parameter<u64>,
    remove: Parameter<bool>,
}

impl SetAgentQuota {
    pub(super) fn new() -> Self {
        let quota = "";
        Self {
            agent_type: arguments::name("agent_type", "All agents together if absent.", AgentType::new),
            quota: arguments::integer("quota", quota, 0..=u64::from(u32::MAX)),
            remove: arguments::flag("remove", "Remove the quota instead."),
        }
    }

    fn parameters(&self) -> [&dyn AnyParameter; 3] {
        [&self.agent_type, &self.quota, &self.remove]
    }

    /// Returns the new quota; none to remove it.
    fn read_quota(&self, arguments: &Arguments) -> Result<Option<u64>, ArgumentError> {
        let together = |text: &str| Err(ArgumentError::Combination(text.to_owned()));
        match (arguments.optional(&self.quota)?, arguments.or_default(&self.remove)?) {
            (Some(_), true) => together("remove is true and quota is given: give one of them"),
            (None, false) => {
                together("quota is missing: give the most agents that may be registered, or remove as true")
            }
            (quota, _) => Ok(quota),
        }
    }
}

impl ToolHandler for SetAgentQuota {
    fn name(&self) -> &'static str {
        "set_agent_quota"
    }

    fn describe(&self) -> Tool {
        definition::<QuotaSetResult>(
            self.name(),
            "Set agent quota",
            "Limit how many agents may be registered, in total or of one type. Without a total quota the worker \
             slots are the limit. Agents over the quota stay; new registrations are refused.",
            &self.parameters(),
            &Hints { is_read_only: false, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &self.parameters())?;
            let agent_type = arguments.optional(&self.agent_type)?;
            let quota = self.read_quota(&arguments)?;
            let command = FleetCommand::SetAgentQuota { agent_type: agent_type.clone(), agents: quota };
            let command = Command::Fleet(command);
            let usage = invocation.engine.execute(command, |_, state, now| state.usage(now)).await?;
            ToolOutput::new(&QuotaSetResult::new(&usage, quota.is_none(), agent_type.as_ref()))
        }
        .boxed()
    }
}

/// The result of set_agent_quota.
#[derive(Serialize, JsonSchema)]
struct QuotaSetResult {
    /// `set` or `removed`.
    status: &'static str,
    /// The agents and their quotas from now on.
    agents: AgentsBlock,
}

impl QuotaSetResult {
    fn new(view: &UsageView, is_removed: bool, about: Option<&AgentType>) -> Self {
        Self { status: change_status(is_removed), agents: AgentsBlock::new(&view.agents, about) }
    }
}
