//! `list_agents`: returns the registered agents, a page at a time.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, AnyParameter, Arguments, Parameter};
use crate::results::AgentsResult;
use cortex_core::fleet::view::{AgentFilter, AgentState};
use cortex_core::ids::{AgentId, AgentType};
use cortex_engine::EngineState;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use std::sync::Arc;

/// The default of `limit`.
const PAGE_ENTRIES_DEFAULT: u64 = 1_000;

/// The most entries of a page. A page has fewer if they take too many bytes.
const PAGE_ENTRIES_MAX: u64 = 2_000;

/// The start of each cursor.
const CURSOR: &str = "after-";

pub(super) struct ListAgents {
    agent_type: Parameter<AgentType>,
    state: Parameter<AgentState>,
    limit: Parameter<u64>,
    cursor: Parameter<AgentId>,
}

impl ListAgents {
    pub(super) fn new() -> Self {
        let states = AgentState::ALL.map(AgentState::as_str);
        let read_state =
            |text: &str| AgentState::ALL.into_iter().find(|state| text.eq_ignore_ascii_case(state.as_str()));
        Self {
            agent_type: arguments::name("agent_type", "", AgentType::new),
            state: arguments::choice("state", "", &states, read_state),
            limit: arguments::page_limit(PAGE_ENTRIES_DEFAULT, PAGE_ENTRIES_MAX),
            cursor: arguments::cursor(read_cursor),
        }
    }

    fn parameters(&self) -> [&dyn AnyParameter; 4] {
        [&self.agent_type, &self.state, &self.limit, &self.cursor]
    }
}

/// Writes a position in the list as an opaque text.
fn cursor(agent: &AgentId) -> String {
    format!("{CURSOR}{agent}")
}

fn read_cursor(text: &str) -> Option<AgentId> {
    AgentId::new(text.strip_prefix(CURSOR)?).ok()
}

impl ToolHandler for ListAgents {
    fn name(&self) -> &'static str {
        "list_agents"
    }

    fn describe(&self) -> Tool {
        definition::<AgentsResult>(
            self.name(),
            "List agents",
            "List registered agents by id with state, load and health: a score from 0 to 1 and its four parts.",
            &self.parameters(),
            &Hints { is_read_only: true, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &self.parameters())?;
            let filter = AgentFilter {
                state: arguments.optional(&self.state)?,
                agent_type: arguments.optional(&self.agent_type)?,
            };
            let after = arguments.optional(&self.cursor)?;
            let limit = usize::try_from(arguments.or_default(&self.limit)?).unwrap_or(usize::MAX);
            let read = move |state: &EngineState<'_>, now| state.agents(now, &filter, after.as_ref(), limit);
            let page = invocation.engine.read(read).await?;
            ToolOutput::new(&AgentsResult::new(&page, cursor))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_leads_back_to_its_agent() {
        for name in ["a", "after-", " after-x ", &"é".repeat(256)] {
            let agent = AgentId::new(name).expect("a name");
            assert_eq!(read_cursor(&cursor(&agent)), Some(agent));
        }
        for bad in ["", "after-", "a", "After-a", "after-a\n", &format!("after-{}", "a".repeat(257))] {
            assert_eq!(read_cursor(bad), None, "{bad:?}");
        }
    }
}
