//! `get_resource_usage`: returns the use of quotas, tokens and the queue.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::Arguments;
use crate::results::{AgentsBlock, ConservationBlock, TokensBlock};
use cortex_core::fleet::view::{QueueUsage, UsageView, WaitingTasks};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

pub(super) struct GetResourceUsage;

impl ToolHandler for GetResourceUsage {
    fn name(&self) -> &'static str {
        "get_resource_usage"
    }

    fn describe(&self) -> Tool {
        definition::<UsageResult>(
            self.name(),
            "Get resource usage",
            "Show agents and quotas, in total and by type; tokens used, reserved and left, in total and per job \
             with a budget; waiting tasks and their wait; whether tokens are conserved (above 80 % use), and how \
             many tasks are deferred.",
            &[],
            &Hints { is_read_only: true, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            Arguments::new(invocation.arguments, &[])?;
            let usage = invocation.engine.read(|state, now| state.usage(now)).await?;
            ToolOutput::new(&UsageResult::from(&usage))
        }
        .boxed()
    }
}

/// The result of get_resource_usage.
#[derive(Serialize, JsonSchema)]
struct UsageResult {
    agents: AgentsBlock,
    tokens: TokensBlock,
    queue: QueueBlock,
    conservation: ConservationBlock,
}

impl From<&UsageView> for UsageResult {
    fn from(view: &UsageView) -> Self {
        Self {
            agents: AgentsBlock::new(&view.agents, None),
            tokens: TokensBlock::new(&view.tokens, None),
            queue: QueueBlock::from(&view.queue),
            conservation: ConservationBlock::from(&view.conservation),
        }
    }
}

/// The queue of tasks.
#[derive(Serialize, JsonSchema)]
struct QueueBlock {
    /// Waiting tasks, deferred ones included.
    pending_tasks: u64,
    /// Waiting tasks by submitted priority.
    by_priority: ByPriority<u64>,
    /// The mean wait; 0 if none waits.
    avg_wait_time_ms: u64,
    /// The wait of the oldest; 0 if none waits.
    oldest_task_age_ms: u64,
    /// Tasks that agents hold.
    running_tasks: u64,
    wait_by_priority: ByPriority<WaitBlock>,
    /// Bytes of the texts of waiting and running tasks.
    bytes: u64,
}

impl From<&QueueUsage> for QueueBlock {
    fn from(usage: &QueueUsage) -> Self {
        Self {
            pending_tasks: usage.all.tasks,
            by_priority: ByPriority::new(&usage.by_priority, |waiting| waiting.tasks),
            avg_wait_time_ms: usage.all.wait_mean.0,
            oldest_task_age_ms: usage.all.wait_max.0,
            running_tasks: usage.running,
            wait_by_priority: ByPriority::new(&usage.by_priority, |waiting| WaitBlock {
                avg_ms: waiting.wait_mean.0,
                oldest_ms: waiting.wait_max.0,
            }),
            bytes: usage.bytes,
        }
    }
}

/// A value for each priority.
#[derive(Serialize, JsonSchema)]
struct ByPriority<T> {
    #[serde(rename = "CRITICAL")]
    critical: T,
    #[serde(rename = "HIGH")]
    high: T,
    /// The default.
    #[serde(rename = "MEDIUM")]
    medium: T,
    #[serde(rename = "LOW")]
    low: T,
}

impl<T> ByPriority<T> {
    fn new(by_priority: &[WaitingTasks; 4], show: impl Fn(&WaitingTasks) -> T) -> Self {
        let [low, medium, high, critical] = by_priority;
        Self { critical: show(critical), high: show(high), medium: show(medium), low: show(low) }
    }
}

/// The waits of tasks.
#[derive(Serialize, JsonSchema)]
struct WaitBlock {
    /// The mean wait.
    avg_ms: u64,
    /// The wait of the oldest.
    oldest_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use cortex_core::fleet::view::{AgentUsage, BudgetUsage, ConservationView, TokenUsage, TypeUsage};
    use cortex_core::ids::{AgentType, JobId};
    use cortex_core::time::{Millis, Timestamp};
    use serde_json::{Value, json};

    fn view() -> UsageView {
        let waiting = |tasks, mean, max| WaitingTasks { tasks, wait_mean: Millis(mean), wait_max: Millis(max) };
        UsageView {
            at: Timestamp::from_millis(0),
            agents: AgentUsage { quota: None, workers: 10, active: 0, free_workers: 10, by_type: Vec::new() },
            tokens: TokenUsage {
                all: BudgetUsage { total: 200_000, settled: 140_000, reserved: 10_000, overrun: 7 },
                window: Millis(0),
                refills_at: None,
                mean_per_task: None,
                jobs: Vec::new(),
            },
            queue: QueueUsage {
                all: waiting(45, 2_000, 8_000),
                by_priority: [waiting(5, 1, 2), waiting(20, 3, 4), waiting(15, 5, 6), waiting(5, 7, 8)],
                running: 3,
                bytes: 99,
            },
            conservation: ConservationView { remaining_tokens: 50_000, ..ConservationView::default() },
        }
    }

    fn shown_of(view: &UsageView) -> Value {
        serde_json::to_value(UsageResult::from(view)).expect("JSON")
    }

    #[test]
    fn the_blocks_have_their_keys_and_figures() {
        let mut view = view();
        let of_type =
            |name: &str, quota, active| TypeUsage { agent_type: AgentType::new(name).expect("a name"), quota, active };
        view.agents.quota = Some(20);
        view.agents.active = 15;
        view.agents.by_type = vec![of_type("backend", Some(10), 7), of_type("frontend", None, 8)];
        view.tokens.mean_per_task = Some(1_500);
        view.tokens.window = Millis::from_seconds(60);
        view.tokens.refills_at = Some(Timestamp::from_millis(60_000));
        let usage = BudgetUsage { total: 0, ..BudgetUsage::default() };
        view.tokens.jobs = vec![(JobId::new("job").expect("a name"), usage)];
        let expected = json!({
            "agents": {
                "total_quotas": 20, "active_agents": 15, "available_slots": 5, "has_quota": true,
                "by_type": {
                    "backend": {"quota": 10, "active": 7, "has_own_quota": true},
                    "frontend": {"quota": 20, "active": 8, "has_own_quota": false},
                },
            },
            "tokens": {
                "total_budget": 200_000, "consumed": 140_000, "remaining": 50_000, "usage_ratio": 0.75,
                "avg_per_task": 1_500, "reserved": 10_000, "overrun": 7, "window_seconds": 60,
                "refills_at": "1970-01-01T00:01:00.000Z",
                "jobs": {
                    "job": {
                        "total_budget": 0, "consumed": 0, "remaining": 0, "usage_ratio": 1.0,
                        "reserved": 0, "overrun": 0
                    }
                },
            },
            "queue": {
                "pending_tasks": 45, "by_priority": {"CRITICAL": 5, "HIGH": 15, "MEDIUM": 20, "LOW": 5},
                "avg_wait_time_ms": 2_000, "oldest_task_age_ms": 8_000, "running_tasks": 3, "bytes": 99,
                "wait_by_priority": {
                    "CRITICAL": {"avg_ms": 7, "oldest_ms": 8}, "HIGH": {"avg_ms": 5, "oldest_ms": 6},
                    "MEDIUM": {"avg_ms": 3, "oldest_ms": 4}, "LOW": {"avg_ms": 1, "oldest_ms": 2},
                },
            },
            "conservation": {
                "is_on": false, "active_tasks": 0, "deferred_tasks": 0, "estimated_tokens": 0,
                "remaining_tokens": 50_000
            },
        });
        assert_eq!(shown_of(&view), expected);
    }

    #[test]
    fn what_is_unknown_is_null_and_no_figure_is_below_zero() {
        let mut view = view();
        view.agents.free_workers = 4;
        assert_eq!(shown_of(&view)["agents"]["available_slots"], 4, "others have workers, too");
        view.agents.quota = Some(2);
        view.agents.active = 5;
        view.tokens.all = BudgetUsage { total: 100, settled: 150, reserved: 10, overrun: 60 };
        let shown = shown_of(&view);
        assert_eq!((&shown["agents"]["total_quotas"], &shown["agents"]["available_slots"]), (&json!(2), &json!(0)));
        assert_eq!((&shown["tokens"]["remaining"], &shown["tokens"]["usage_ratio"]), (&json!(0), &json!(1.6)));
        assert_eq!((&shown["tokens"]["avg_per_task"], &shown["tokens"]["refills_at"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn long_lists_are_cut_and_say_so_and_the_one_asked_about_stays() {
        let check = |name_length: usize, entries: usize, expected: std::ops::RangeInclusive<usize>| {
            let mut view = view();
            let name = |number: usize| format!("{number:05}{}", "\"".repeat(name_length - 5));
            let job = |number| JobId::new(&name(number)).expect("a name");
            let agent_type = |number| AgentType::new(&name(number)).expect("a name");
            view.tokens.jobs = (0..entries).map(|number| (job(number), BudgetUsage::default())).collect();
            view.agents.by_type = (0..entries)
                .map(|number| TypeUsage { agent_type: agent_type(number), quota: None, active: 1 })
                .collect();
            let shown = shown_of(&view);
            let size = shown.to_string().len() + json!(shown.to_string()).to_string().len();
            assert!(size < 8 * 1024 * 1024, "{entries} entries take {size} bytes");
            for (list, omitted) in [
                (&shown["tokens"]["jobs"], "/tokens/jobs_omitted"),
                (&shown["agents"]["by_type"], "/agents/types_omitted"),
            ] {
                let length = list.as_object().expect("an object").len();
                assert!(expected.contains(&length), "{length} of {entries} are shown");
                let left_out = shown.pointer(omitted).and_then(Value::as_u64).unwrap_or(0);
                assert_eq!(left_out, (entries - length) as u64);
            }
            let last = entries - 1;
            let tokens = serde_json::to_value(TokensBlock::new(&view.tokens, Some(&job(last)))).expect("JSON");
            assert!(tokens["jobs"][name(last)].is_object());
            let agents = serde_json::to_value(AgentsBlock::new(&view.agents, Some(&agent_type(last)))).expect("JSON");
            assert!(agents["by_type"][name(last)].is_object());
        };
        check(5, 3, 3..=3);
        check(5, 1_000, 1_000..=1_000);
        check(5, 1_001, 1_000..=1_000);
        check(256, 57_436, 1_000..=1_000);
    }
}
