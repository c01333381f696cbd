//! `set_agent_quota`: how many agents there may be at once, in all or of a type.

use super::{Answer, Hints, Invocation, Run, ToolError, definition};
use crate::arguments::{self, ArgumentError, Arguments, Described, Parameter};
use crate::results::QuotaSetResult;
use cortex_core::ids::AgentType;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use std::sync::Arc;

pub(super) struct SetAgentQuota {
    agent_type: Parameter<AgentType>,
    quota: Parameter<u64>,
    remove: Parameter<bool>,
}

impl SetAgentQuota {
    pub(super) fn new() -> Self {
        let quota = "How many there may be. Agents beyond it stay until they leave; none is taken on meanwhile.";
        Self {
            agent_type: arguments::name(
                "agent_type",
                "The type of agents; without it the quota is that of all agents together.",
                AgentType::new,
            ),
            quota: arguments::whole("quota", quota, 0..=u64::from(u32::MAX)),
            remove: arguments::flag("remove", "Take the quota away, instead of setting one."),
        }
    }

    fn parameters(&self) -> [&dyn Described; 3] {
        [&self.agent_type, &self.quota, &self.remove]
    }

    /// The quota; none to take it away.
    fn read_quota(&self, arguments: &Arguments) -> Result<Option<u64>, ArgumentError> {
        let together = |text: &str| Err(ArgumentError::Together(text.to_owned()));
        match (arguments.optional(&self.quota)?, arguments.or_default(&self.remove)?) {
            (Some(_), true) => together("remove is true and quota is given: give one of them"),
            (None, false) => {
                together("quota is missing: give how many agents there may be, or remove as true to take it away")
            }
            (quota, _) => Ok(quota),
        }
    }
}

impl Run for SetAgentQuota {
    fn name(&self) -> &'static str {
        "set_agent_quota"
    }

    fn describe(&self) -> Tool {
        definition::<QuotaSetResult>(
            self.name(),
            "Set agent quota",
            "Set how many agents may be registered at once, in all or of one type. Without a quota in all there may be as many as there \
             are worker slots. Nobody is sent away: beyond the quota the next registrations are refused.",
            &self.parameters(),
            &Hints { is_read_only: false, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<Answer, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &self.parameters())?;
            let agent_type = arguments.optional(&self.agent_type)?;
            let quota = self.read_quota(&arguments)?;
            let usage = invocation.engine.set_agent_quota(agent_type.clone(), quota).await?;
            Answer::new(&QuotaSetResult::new(&usage, quota.is_none(), agent_type.as_ref()))
        }
        .boxed()
    }
}
