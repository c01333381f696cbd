//! Quotas and tokens, as the tools that show or set them do.

use super::{count_fitting, left_out};
use cortex_core::fleet::view::{AgentUsage, BudgetUsage, ConservationView, TokenUsage, TypeUsage};
use cortex_core::ids::{AgentType, JobId};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;

/// The most bytes of a result for the types of agents, and for the jobs.
const ENTRIES_BYTES_MAX: usize = 3 * 1024 * 1024;

/// The most bytes of a type or a job without its name, once as data and once as text.
const ENTRY_BYTES: usize = 600;

/// The most types, and the most jobs, that a result shows.
const ENTRIES_MAX: usize = 1_000;

/// The agents of a type.
#[derive(Serialize, JsonSchema)]
struct TypeBlock {
    /// Its own quota, or that of all agents.
    quota: u64,
    active: u64,
    /// Whether `quota` is its own.
    has_own_quota: bool,
}

/// The registered agents.
#[derive(Serialize, JsonSchema)]
pub(crate) struct AgentsBlock {
    /// The quota of all agents, or the number of worker slots if none was set.
    total_quotas: u64,
    active_agents: u64,
    /// Agents that can still register without an allocation, limited by quota and free workers.
    available_slots: u64,
    /// Each type that has a quota or agents.
    by_type: BTreeMap<String, TypeBlock>,
    /// Types left out because the result would be too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    types_omitted: Option<u64>,
    /// Whether a quota of all agents was set.
    has_quota: bool,
}

impl AgentsBlock {
    /// Builds the block. The type `about` is never left out.
    pub(crate) fn new(usage: &AgentUsage, about: Option<&AgentType>) -> Self {
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
            types_omitted: left_out(usage.by_type.len(), by_type.len()),
            by_type,
            has_quota: usage.quota.is_some(),
        }
    }
}

/// The use of a token budget.
#[derive(Serialize, JsonSchema)]
pub(crate) struct BudgetBlock {
    total_budget: u64,
    /// Tokens used by ended attempts.
    consumed: u64,
    /// Tokens neither used nor reserved.
    remaining: u64,
    /// The used or reserved part: above 1 is an overrun; 1 for a budget of 0.
    usage_ratio: f64,
    /// Tokens reserved for running tasks.
    reserved: u64,
    /// Total tokens that tasks took beyond their reservations.
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

/// The use of tokens.
#[derive(Serialize, JsonSchema)]
pub(crate) struct TokensBlock {
    /// The budget of all tasks.
    #[serde(flatten)]
    all: BudgetBlock,
    /// The mean of ended tasks; null without any.
    avg_per_task: Option<u64>,
    /// The period after which used tokens are cleared; 0 for never.
    window_seconds: u64,
    /// The next time they are cleared; null for never.
    refills_at: Option<String>,
    /// Each job with a budget of its own.
    jobs: BTreeMap<String, BudgetBlock>,
    /// Jobs left out because the result would be too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    jobs_omitted: Option<u64>,
}

impl TokensBlock {
    /// Builds the block. The job `about` is never left out.
    pub(crate) fn new(usage: &TokenUsage, about: Option<&JobId>) -> Self {
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
            jobs_omitted: left_out(usage.jobs.len(), jobs.len()),
            jobs,
        }
    }
}

/// How the remaining tokens serve the queue.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ConservationBlock {
    /// Whether tokens are conserved (above 80 % use): tasks are ordered by priority per token, and those over the
    /// budget are deferred.
    is_on: bool,
    /// Waiting tasks that the tokens suffice for.
    active_tasks: u64,
    /// Tasks deferred for lack of tokens.
    deferred_tasks: u64,
    /// Tokens that the active tasks are expected to take.
    estimated_tokens: u64,
    /// Tokens left to reserve.
    remaining_tokens: u64,
}

impl From<&ConservationView> for ConservationBlock {
    fn from(view: &ConservationView) -> Self {
        let ConservationView { is_on, active_tasks, deferred_tasks, estimated_tokens, remaining_tokens } = *view;
        Self { is_on, active_tasks, deferred_tasks, estimated_tokens, remaining_tokens }
    }
}

/// Returns the status of a quota or a budget that was changed.
pub(crate) const fn change_status(is_removed: bool) -> &'static str {
    if is_removed { "removed" } else { "set" }
}

/// Returns how many entries with names of these lengths a result shows.
fn shown(names: impl Iterator<Item = usize>) -> usize {
    count_fitting(names.take(ENTRIES_MAX), ENTRY_BYTES, ENTRIES_BYTES_MAX)
}
