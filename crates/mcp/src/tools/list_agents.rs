//! `list_agents`: returns the registered agents, a page at a time.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, AnyParameter, Arguments, Parameter};
use crate::results::{LIST_BYTES_MAX, count_fitting, names, raw};
use cortex_core::fleet::health::Health;
use cortex_core::fleet::view::{AgentFilter, AgentState, AgentView};
use cortex_core::ids::{AgentId, AgentType};
use cortex_engine::{EngineState, Page};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::{JsonObject, Tool};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;
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

/// The most bytes of a list entry without the texts that its agent chose, once as data and once as text.
const AGENT_BYTES: usize = 1_500;

/// The load of an agent.
#[derive(Serialize, JsonSchema)]
struct LoadResult {
    /// Tasks that it holds.
    current_tasks: u64,
    /// The most tasks that it may hold.
    max_concurrent: u32,
}

/// The health of an agent over the last minute and its last 100 tasks; each figure is from 0 to 1.
#[derive(Serialize, JsonSchema)]
struct HealthResult {
    /// 40 % of the success rate, 30 % of the response time, 20 % of the load and 10 % of the regularity of heartbeats;
    /// 0.5 while no attempt of it has ended.
    score: f64,
    /// The part of its tasks that succeeded; null without tasks.
    success_rate: Option<f64>,
    /// How far their mean duration was below the target: 1 for no time, 0 for the target or more; null without tasks.
    response_time: Option<f64>,
    /// The part of its task limit that is free.
    load: f64,
    /// Heartbeats received per heartbeat due.
    heartbeat_regularity: f64,
}

impl From<&Health> for HealthResult {
    fn from(health: &Health) -> Self {
        Self {
            score: thousandths(health.score),
            success_rate: health.success.map(thousandths),
            response_time: health.response_time.map(thousandths),
            load: thousandths(health.load),
            heartbeat_regularity: thousandths(health.heartbeat),
        }
    }
}

/// Converts millionths to a fraction with three decimals.
fn thousandths(millionths: u32) -> f64 {
    f64::from(millionths.saturating_add(500) / 1_000) / 1_000.0
}

/// An agent, as list_agents shows it.
#[derive(Serialize, JsonSchema)]
struct ListedAgent {
    agent_id: String,
    agent_type: String,
    /// Sorted, without repetitions.
    capabilities: Vec<String>,
    /// The allocation whose worker it is; null if it has a worker slot of its own.
    allocation_id: Option<String>,
    /// `idle`, `busy`, `full`, or `unresponsive` after two missed heartbeats.
    state: &'static str,
    load: LoadResult,
    health: HealthResult,
    registered_at: String,
    /// The time of its last heartbeat, claim or report.
    heard_at: String,
    /// The time at which it is lost without a heartbeat until then.
    lost_at: String,
    /// The notes of its registration.
    #[schemars(with = "JsonObject")]
    metadata: Box<RawValue>,
}

impl From<&AgentView> for ListedAgent {
    fn from(view: &AgentView) -> Self {
        let request = &view.registration.request;
        Self {
            agent_id: request.agent.to_string(),
            agent_type: request.agent_type.to_string(),
            capabilities: names(request.capabilities.as_slice()),
            allocation_id: request.allocation.map(|id| id.to_string()),
            state: view.state.as_str(),
            load: LoadResult { current_tasks: view.tasks.len() as u64, max_concurrent: request.tasks_max },
            health: HealthResult::from(&view.health),
            registered_at: view.registered_at.to_string(),
            heard_at: view.last_heartbeat_at.to_string(),
            lost_at: view.lost_at.to_string(),
            metadata: raw(request.metadata.as_json()),
        }
    }
}

/// The result of list_agents.
#[derive(Serialize, JsonSchema)]
struct AgentsResult {
    /// This page, by id.
    agents: Vec<ListedAgent>,
    /// Entries on this page: fewer than `limit` if they take too many bytes.
    count: u64,
    /// Entries on all pages.
    total: u64,
    /// The `cursor` of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

impl AgentsResult {
    /// Builds a page. `cursor` writes the position after an agent.
    fn new(page: &Page<AgentView, AgentId>, cursor: impl Fn(&AgentId) -> String) -> Self {
        // At least one: the cursor of an empty page would not advance.
        let fits = count_fitting(page.entries.iter().map(text_bytes), AGENT_BYTES, LIST_BYTES_MAX).max(1);
        let shown = &page.entries[..fits.min(page.entries.len())];
        let next = if shown.len() < page.entries.len() {
            shown.last().map(|view| &view.registration.request.agent)
        } else {
            page.next.as_ref()
        };
        Self {
            agents: shown.iter().map(ListedAgent::from).collect(),
            count: shown.len() as u64,
            total: page.total,
            next_cursor: next.map(cursor),
        }
    }
}

/// Returns the bytes of the texts that an agent chose.
fn text_bytes(view: &AgentView) -> usize {
    let request = &view.registration.request;
    let capabilities: usize = request.capabilities.as_slice().iter().map(|one| one.as_str().len() + 1).sum();
    request.agent.as_str().len() + request.agent_type.as_str().len() + request.metadata.as_json().len() + capabilities
}

#[cfg(test)]
mod tests {
    use super::*;
    use cortex_core::allocation::Metadata;
    use cortex_core::fleet::agent::{AgentRequest, Capabilities, Registration};
    use cortex_core::fleet::view::AgentState;
    use cortex_core::ids::NodeId;
    use cortex_core::time::Timestamp;

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

    fn view(agent: &str, metadata_bytes: usize) -> AgentView {
        let at = Timestamp::from_millis(0);
        let note = serde_json::json!({"note": "\"".repeat(metadata_bytes / 2)});
        AgentView {
            at,
            registration: Arc::new(Registration {
                request: AgentRequest {
                    agent: AgentId::new(agent).expect("a name"),
                    agent_type: AgentType::new("general").expect("a name"),
                    capabilities: Capabilities::default(),
                    tasks_max: 3,
                    allocation: None,
                    metadata: Metadata::new(note.as_object().expect("an object")),
                },
                node: NodeId::local(),
                takes: None,
            }),
            registered_at: at,
            last_heartbeat_at: at,
            lost_at: at,
            state: AgentState::Idle,
            tasks: Vec::new(),
            health: Health { score: 500_000, success: None, response_time: None, load: 666_666, heartbeat: 833_333 },
        }
    }

    #[test]
    fn a_page_that_takes_too_much_room_ends_early_and_says_where_to_go_on() {
        let check = |agents: usize, metadata_bytes: usize, next: Option<&str>, expected: (usize, Option<&str>)| {
            let entries = (0..agents).map(|number| view(&format!("a{number:04}"), metadata_bytes)).collect();
            let next = next.map(|agent| AgentId::new(agent).expect("a name"));
            let page = Page { at: Timestamp::from_millis(0), entries, total: 5_000, next };
            let result = AgentsResult::new(&page, ToString::to_string);
            let size = serde_json::to_string(&serde_json::to_string(&result).expect("JSON")).expect("JSON").len();
            assert!(size < LIST_BYTES_MAX, "{agents} agents take {size} bytes as a text");
            assert_eq!((result.agents.len(), result.next_cursor.as_deref()), expected);
            assert_eq!((result.count, result.total), (result.agents.len() as u64, 5_000));
        };
        check(0, 0, None, (0, None));
        check(2_000, 0, None, (2_000, None));
        check(2_000, 0, Some("a1999"), (2_000, Some("a1999")));
        check(100, 16_000, None, (64, Some("a0063")));
        check(60, 16_000, Some("b"), (60, Some("b")));
    }

    #[test]
    fn parts_have_three_decimals() {
        let check = |millionths, shown: &str| assert_eq!(thousandths(millionths).to_string(), shown);
        check(0, "0");
        check(1_000_000, "1");
        check(500_000, "0.5");
        check(833_333, "0.833");
        check(666_666, "0.667");
        check(499, "0");
        check(500, "0.001");
        check(999_600, "1");
    }
}
