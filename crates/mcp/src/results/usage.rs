//! What the tools about quotas, tokens and the queue answer.

use super::count_fitting;
use cortex_core::fleet::view::{
    AgentUsage, BudgetUsage, ConservationView, QueueUsage, TokenUsage, TypeUsage, UsageView, WaitingTasks,
};
use cortex_core::ids::{AgentType, JobId};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;

/// How many bytes of an answer the types of agents may take, and how many the jobs.
const ENTRIES_BYTES_MAX: usize = 3 * 1024 * 1024;

/// How many bytes a type or a job takes at most, its name left out, once as data and once as text.
const ENTRY_BYTES: usize = 600;

/// How many types, and how many jobs, an answer shows at most.
const ENTRIES_MAX: usize = 1_000;

/// How many agents of a type there are.
#[derive(Serialize, JsonSchema)]
pub(crate) struct TypeBlock {
    /// How many there may be: its own quota, or that of all types.
    quota: u64,
    /// How many there are.
    active: u64,
    /// Whether that is its own quota.
    has_own_quota: bool,
}

/// How many agents there are.
#[derive(Serialize, JsonSchema)]
pub(crate) struct AgentsBlock {
    /// How many there may be: the quota, or as many as there are worker slots if none was set.
    total_quotas: u64,
    /// How many there are.
    active_agents: u64,
    /// How many more may register without an allocation: what the quota leaves, and no more than there are free workers.
    available_slots: u64,
    /// Of each type that has a quota or agents.
    by_type: BTreeMap<String, TypeBlock>,
    /// How many types are left out because the answer would be too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    types_omitted: Option<u64>,
    /// Whether a quota in all was set.
    has_quota: bool,
}

impl AgentsBlock {
    /// The agents. The type that `about` names is not left out.
    fn new(usage: &AgentUsage, about: Option<&AgentType>) -> Self {
        let total = usage.total();
        let show = |of_type: &TypeUsage| {
            let TypeUsage { agent_type, quota, active } = of_type;
            let block = TypeBlock { quota: quota.unwrap_or(total), active: *active, has_own_quota: quota.is_some() };
            (agent_type.to_string(), block)
        };
        let fits = shown(usage.by_type.iter().map(|of_type| of_type.agent_type.as_str().len()));
        let named = usage.by_type.iter().skip(fits).filter(|of_type| Some(&of_type.agent_type) == about);
        let by_type: BTreeMap<String, TypeBlock> = usage.by_type.iter().take(fits).chain(named).map(show).collect();
        Self {
            total_quotas: total,
            active_agents: usage.active,
            available_slots: usage.available(),
            types_omitted: omitted(usage.by_type.len(), by_type.len()),
            by_type,
            has_quota: usage.quota.is_some(),
        }
    }
}

/// What is used of a token budget.
#[derive(Serialize, JsonSchema)]
pub(crate) struct BudgetBlock {
    /// How many tokens there are.
    total_budget: u64,
    /// How many were used, by tasks that ended.
    consumed: u64,
    /// How many are left for tasks that do not run yet: neither used nor reserved.
    remaining: u64,
    /// Which part is used or reserved: 1 is all of it, more is an overrun. A budget of 0 is used up, which is 1.
    usage_ratio: f64,
    /// How many are reserved, for tasks that run.
    reserved: u64,
    /// How many tokens tasks took beyond what was reserved for them, in sum.
    overrun: u64,
}

impl From<&BudgetUsage> for BudgetBlock {
    fn from(usage: &BudgetUsage) -> Self {
        Self {
            total_budget: usage.total,
            consumed: usage.settled,
            remaining: usage.remaining(),
            usage_ratio: usage.ratio(),
            reserved: usage.reserved,
            overrun: usage.overrun,
        }
    }
}

/// What is used of the tokens.
#[derive(Serialize, JsonSchema)]
pub(crate) struct TokensBlock {
    /// Of the budget of all tasks together.
    #[serde(flatten)]
    all: BudgetBlock,
    /// How many tokens a task took, in the mean; null before one ended.
    avg_per_task: Option<u64>,
    /// After how many seconds what was used is cleared, each time; 0 for never.
    window_seconds: u64,
    /// When that is next; null for never.
    refills_at: Option<String>,
    /// Of each job with a budget of its own.
    jobs: BTreeMap<String, BudgetBlock>,
    /// How many jobs are left out because the answer would be too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    jobs_omitted: Option<u64>,
}

impl TokensBlock {
    /// The tokens. The job that `about` names is not left out.
    fn new(usage: &TokenUsage, about: Option<&JobId>) -> Self {
        let fits = shown(usage.jobs.iter().map(|(job, _)| job.as_str().len()));
        let named = usage.jobs.iter().skip(fits).filter(|(job, _)| Some(job) == about);
        let entries = usage.jobs.iter().take(fits).chain(named);
        let jobs: BTreeMap<String, BudgetBlock> =
            entries.map(|(job, usage)| (job.to_string(), BudgetBlock::from(usage))).collect();
        Self {
            all: BudgetBlock::from(&usage.all),
            avg_per_task: usage.mean_per_task,
            window_seconds: usage.window.as_seconds(),
            refills_at: usage.refills_at.map(|at| at.to_string()),
            jobs_omitted: omitted(usage.jobs.len(), jobs.len()),
            jobs,
        }
    }
}

/// Something for each priority.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ByPriority<T> {
    /// Of emergencies.
    #[serde(rename = "CRITICAL")]
    critical: T,
    /// Of what is important or time-sensitive.
    #[serde(rename = "HIGH")]
    high: T,
    /// Of tasks that do not say.
    #[serde(rename = "MEDIUM")]
    medium: T,
    /// Of best effort.
    #[serde(rename = "LOW")]
    low: T,
}

impl<T> ByPriority<T> {
    fn new(by_priority: &[WaitingTasks; 4], show: impl Fn(&WaitingTasks) -> T) -> Self {
        let [low, medium, high, critical] = by_priority;
        Self { critical: show(critical), high: show(high), medium: show(medium), low: show(low) }
    }
}

/// How long tasks have waited.
#[derive(Serialize, JsonSchema)]
pub(crate) struct WaitBlock {
    /// In the mean.
    avg_ms: u64,
    /// The oldest.
    oldest_ms: u64,
}

/// What waits.
#[derive(Serialize, JsonSchema)]
pub(crate) struct QueueBlock {
    /// How many tasks wait, those deferred for want of tokens included.
    pending_tasks: u64,
    /// How many were submitted with each priority.
    by_priority: ByPriority<u64>,
    /// How long they have waited, in the mean; 0 if none waits.
    avg_wait_time_ms: u64,
    /// How long the oldest has waited; 0 if none waits.
    oldest_task_age_ms: u64,
    /// How many tasks agents hold.
    running_tasks: u64,
    /// How long those of each priority have waited.
    wait_by_priority: ByPriority<WaitBlock>,
    /// How many bytes the texts of waiting and running tasks take.
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

/// What the tokens that remain do for the queue.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ConservationBlock {
    /// Whether tokens are saved, above 80 % use: tasks go by priority for a token, and what does not fit any more is deferred.
    is_on: bool,
    /// How many waiting tasks the tokens are there for.
    active_tasks: u64,
    /// How many are deferred for want of tokens.
    deferred_tasks: u64,
    /// How many tokens the active ones are expected to take.
    estimated_tokens: u64,
    /// How many tokens are left to be reserved.
    remaining_tokens: u64,
}

impl From<&ConservationView> for ConservationBlock {
    fn from(view: &ConservationView) -> Self {
        let ConservationView { is_on, active_tasks, deferred_tasks, estimated_tokens, remaining_tokens } = *view;
        Self { is_on, active_tasks, deferred_tasks, estimated_tokens, remaining_tokens }
    }
}

/// The answer to get_resource_usage.
#[derive(Serialize, JsonSchema)]
pub(crate) struct UsageResult {
    /// How many agents there are.
    agents: AgentsBlock,
    /// What is used of the tokens.
    tokens: TokensBlock,
    /// What waits.
    queue: QueueBlock,
    /// What the tokens that remain do for the queue.
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

/// The answer to set_agent_quota.
#[derive(Serialize, JsonSchema)]
pub(crate) struct QuotaSetResult {
    /// `set` or `removed`.
    status: &'static str,
    /// How many agents there are, and may be from now on.
    agents: AgentsBlock,
}

impl QuotaSetResult {
    pub(crate) fn new(view: &UsageView, is_removed: bool, about: Option<&AgentType>) -> Self {
        Self { status: status(is_removed), agents: AgentsBlock::new(&view.agents, about) }
    }
}

/// The answer to set_token_budget.
#[derive(Serialize, JsonSchema)]
pub(crate) struct BudgetSetResult {
    /// `set` or `removed`.
    status: &'static str,
    /// What is used of the tokens, and what there is from now on.
    tokens: TokensBlock,
    /// What the tokens that remain do for the queue.
    conservation: ConservationBlock,
}

impl BudgetSetResult {
    pub(crate) fn new(view: &UsageView, is_removed: bool, about: Option<&JobId>) -> Self {
        Self {
            status: status(is_removed),
            tokens: TokensBlock::new(&view.tokens, about),
            conservation: ConservationBlock::from(&view.conservation),
        }
    }
}

const fn status(is_removed: bool) -> &'static str {
    if is_removed { "removed" } else { "set" }
}

/// How many entries with names of these lengths an answer shows.
fn shown(names: impl Iterator<Item = usize>) -> usize {
    count_fitting(names.take(ENTRIES_MAX), ENTRY_BYTES, ENTRIES_BYTES_MAX)
}

fn omitted(all: usize, shown: usize) -> Option<u64> {
    all.checked_sub(shown).filter(|rest| *rest > 0).map(|rest| rest as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
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
                        "total_budget": 0, "consumed": 0, "remaining": 0, "usage_ratio": 1.0, "reserved": 0, "overrun": 0
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
                "is_on": false, "active_tasks": 0, "deferred_tasks": 0, "estimated_tokens": 0, "remaining_tokens": 50_000
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
            let budget = serde_json::to_value(BudgetSetResult::new(&view, false, Some(&job(last)))).expect("JSON");
            assert!(budget["tokens"]["jobs"][name(last)].is_object());
            let quota = serde_json::to_value(QuotaSetResult::new(&view, true, Some(&agent_type(last)))).expect("JSON");
            assert!(quota["agents"]["by_type"][name(last)].is_object());
            assert_eq!((&budget["status"], &quota["status"]), (&json!("set"), &json!("removed")));
        };
        check(5, 3, 3..=3);
        check(5, 1_000, 1_000..=1_000);
        check(5, 1_001, 1_000..=1_000);
        check(256, 57_436, 1_000..=1_000);
    }
}
