//! Views of the fleet: agents, tasks, and the usage of quotas, tokens and the queue.

use super::super::ids::{AgentId, AgentType, FencingToken, JobId, TaskId};
use super::super::priority::Priority;
use super::super::time::{Millis, Timestamp};
use super::agent::Registration;
use super::command::Deferral;
use super::health::Health;
use super::task::{Selector, Task, TaskState};
use super::task_stats::DurationStats;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// The state of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AgentState {
    /// It holds no tasks.
    Idle,
    /// It holds tasks, and can hold more.
    Busy,
    /// It holds as many tasks as it may.
    Full,
    /// Its heartbeats are late: it gets no tasks until the next heartbeat.
    Unresponsive,
}

impl AgentState {
    pub const ALL: [Self; 4] = [Self::Idle, Self::Busy, Self::Full, Self::Unresponsive];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Full => "full",
            Self::Unresponsive => "unresponsive",
        }
    }
}

/// A task that an agent holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldTask {
    pub task: TaskId,
    /// The token of the lease.
    pub fencing_token: FencingToken,
    /// When the lease expires, with grace after an outage.
    pub expires_at: Timestamp,
}

/// An agent at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentView {
    pub at: Timestamp,
    pub registration: Arc<Registration>,
    pub registered_at: Timestamp,
    /// When the last heartbeat, or another call of the agent, arrived.
    pub last_heartbeat_at: Timestamp,
    /// When the agent is lost unless a heartbeat arrives first.
    pub lost_at: Timestamp,
    pub state: AgentState,
    /// The tasks it holds, in the order of their leases.
    pub tasks: Vec<HeldTask>,
    pub health: Health,
}

/// A filter of agents. A field that is absent admits all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentFilter {
    pub state: Option<AgentState>,
    pub agent_type: Option<AgentType>,
}

/// A task at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskView {
    pub at: Timestamp,
    pub task: Task,
    pub state: TaskState,
    /// Why the task waits for tokens, if it does.
    pub deferral: Option<Deferral>,
    /// The priority to which waiting has raised the task; its own priority unless it waits.
    pub effective_priority: Priority,
    /// When the lease expires, if an agent holds the task.
    pub lease_expires_at: Option<Timestamp>,
}

/// A filter of tasks. A field that is absent admits all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskFilter {
    pub state: Option<TaskState>,
    pub job: Option<JobId>,
    /// The agent that holds the task.
    pub agent: Option<AgentId>,
}

/// The number of agents of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeUsage {
    pub agent_type: AgentType,
    /// The maximum, if the type has one.
    pub quota: Option<u64>,
    /// How many are registered.
    pub active: u64,
}

/// The number of agents and its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentUsage {
    /// The maximum, if one is set.
    pub quota: Option<u64>,
    /// The number of worker slots. Without a quota, it is the maximum number of agents.
    pub workers: u64,
    /// How many are registered.
    pub active: u64,
    /// How many workers are free or held by expired leases.
    pub free_workers: u64,
    /// Each type that has a quota or agents, by name.
    pub by_type: Vec<TypeUsage>,
}

impl AgentUsage {
    /// The maximum number of agents.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.quota.unwrap_or(self.workers)
    }

    /// How many more agents without an allocation can register.
    #[must_use]
    pub fn available(&self) -> u64 {
        self.total().saturating_sub(self.active).min(self.free_workers)
    }
}

/// The usage of a token budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BudgetUsage {
    /// The tokens in the budget.
    pub total: u64,
    /// The tokens that ended attempts used.
    pub settled: u64,
    /// The tokens that running attempts are estimated to use.
    pub reserved: u64,
    /// The tokens used beyond the estimates, summed over the attempts that exceeded theirs.
    pub overrun: u64,
}

impl BudgetUsage {
    /// Returns the usage after a refill, which clears settled tokens and overruns.
    pub(super) const fn refilled(self) -> Self {
        Self { settled: 0, overrun: 0, ..self }
    }

    /// The tokens that can still be reserved.
    #[must_use]
    pub const fn remaining(&self) -> u64 {
        self.total.saturating_sub(self.settled).saturating_sub(self.reserved)
    }

    /// The settled and reserved part: 1 for all, more after an overrun. It is 1 for a budget of 0.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people and thresholds; budgets are far below 2^53")]
    pub fn ratio(&self) -> f64 {
        if self.total == 0 { 1.0 } else { self.settled.saturating_add(self.reserved) as f64 / self.total as f64 }
    }
}

/// The usage of all token budgets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenUsage {
    /// The budget of all tasks together.
    pub all: BudgetUsage,
    /// The period after which settled tokens are cleared; zero for never.
    pub window: Millis,
    /// When settled tokens are cleared next, if ever.
    pub refills_at: Option<Timestamp>,
    /// The mean tokens of a reported attempt.
    pub mean_per_task: Option<u64>,
    /// The jobs that have a budget, by name.
    pub jobs: Vec<(JobId, BudgetUsage)>,
}

/// The waiting tasks of one priority, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitingTasks {
    pub tasks: u64,
    /// The mean waiting time.
    pub wait_mean: Millis,
    /// The waiting time of the oldest task.
    pub wait_max: Millis,
}

/// The usage of the queue. Deferred tasks count as waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueUsage {
    pub all: WaitingTasks,
    /// By priority, in the order of [`Priority::ALL`]: the priority as set, not as raised by waiting.
    pub by_priority: [WaitingTasks; 4],
    /// How many tasks agents hold.
    pub running: u64,
    /// The bytes of text in open tasks.
    pub bytes: u64,
}

/// What the remaining tokens suffice for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConservationView {
    /// Whether tokens are conserved: tasks are ordered by priority per token.
    pub is_on: bool,
    /// How many waiting tasks the remaining tokens suffice for.
    pub active_tasks: u64,
    /// How many tasks wait for tokens.
    pub deferred_tasks: u64,
    /// The estimated tokens of the active tasks.
    pub estimated_tokens: u64,
    /// The tokens that can still be reserved.
    pub remaining_tokens: u64,
}

/// The usage of quotas, tokens and the queue at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageView {
    pub at: Timestamp,
    pub agents: AgentUsage,
    pub tokens: TokenUsage,
    pub queue: QueueUsage,
    pub conservation: ConservationView,
}

/// The fleet in figures, displayed as lines of `name: value`. A daemon sends it to programs of other versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetSummary {
    /// How many agents are registered.
    pub agents: u64,
    /// How many of them take a worker each, because they are not workers of an allocation.
    pub taking_workers: u64,
    /// How many are unresponsive; `None` where heartbeats are not tracked.
    pub unresponsive: Option<u64>,
    /// How many tasks wait for an agent.
    pub queued: u64,
    /// How many tasks wait for tokens.
    pub deferred: u64,
    /// How many tasks agents hold.
    pub running: u64,
    /// How many tasks on record completed.
    pub completed: u64,
    /// How many tasks on record failed in their last attempt.
    pub failed: u64,
    /// How many tasks on record were cancelled.
    pub cancelled: u64,
    /// The tokens in the budget of all tasks.
    pub tokens_total: u64,
    /// How many of them ended attempts used.
    pub tokens_settled: u64,
    /// How many of them running attempts are estimated to use.
    pub tokens_reserved: u64,
    /// When settled tokens are cleared next, if ever.
    pub refills_at: Option<Timestamp>,
}

impl fmt::Display for FleetSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { agents, taking_workers, queued, deferred, running, completed, failed, cancelled, .. } = self;
        let Self { tokens_total, tokens_settled, tokens_reserved, .. } = self;
        write!(f, "agents: {agents} registered, {taking_workers} taking a worker each")?;
        if let Some(unresponsive) = self.unresponsive {
            write!(f, ", {unresponsive} unresponsive")?;
        }
        writeln!(f)?;
        write!(f, "tasks: {queued} queued, {deferred} deferred, {running} running; ")?;
        writeln!(f, "{completed} completed, {failed} failed, {cancelled} cancelled on record")?;
        write!(f, "tokens: {tokens_settled} used and {tokens_reserved} reserved of {tokens_total}")?;
        if let Some(refills_at) = self.refills_at {
            write!(f, ", refill at {refills_at}")?;
        }
        writeln!(f)
    }
}

/// The tasks that ended under an agent over the last minute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentMetrics {
    pub agent: AgentId,
    /// How many tasks ended.
    pub tasks: u64,
    /// How many of them succeeded.
    pub successes: u64,
    /// Their mean duration.
    pub duration_mean: Millis,
}

/// The work in the fleet, and the agents for it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FleetLoad {
    /// How many agents are registered.
    pub agents: u64,
    /// How many of them hold a task.
    pub agents_at_work: u64,
    /// How many tasks the agents can hold together.
    pub task_slots: u64,
    /// How many tasks they hold.
    pub running: u64,
    /// How many tasks wait for an agent. Deferred tasks do not count, since more agents would not help them.
    pub waiting: u64,
    /// The mean waiting time of all waiting tasks, deferred ones included.
    pub wait_mean: Millis,
    /// The maximum number of agents, if one is set.
    pub quota: Option<u64>,
    /// Whether the token budget is used so far that tokens are conserved.
    pub is_conserving: bool,
    /// How many tasks wait for tokens.
    pub deferred: u64,
    /// How many tasks were ever submitted.
    pub submitted: u64,
    /// The durations of tasks that succeeded recently, if any did.
    pub durations: Option<DurationStats>,
}

impl FleetLoad {
    /// The maximum number of agents: the quota, but not below the number registered.
    #[must_use]
    pub fn agents_max(&self) -> u64 {
        self.quota.unwrap_or(u64::MAX).max(self.agents)
    }

    /// The mean number of tasks that an agent can hold; at least 1, and 1 without agents.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a mean")]
    pub fn task_slots_per_agent(&self) -> f64 {
        if self.agents == 0 { 1.0 } else { (self.task_slots as f64 / self.agents as f64).max(1.0) }
    }
}

/// Waiting tasks that no registered agent may take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnservedTasks {
    pub tasks: u64,
    /// The most frequent selectors with their counts, in descending order; at most [`Self::SELECTORS_MAX`].
    pub selectors: Vec<(Selector, u64)>,
}

impl UnservedTasks {
    /// The number of selectors kept: enough to find a misspelled name.
    pub const SELECTORS_MAX: usize = 3;
}

/// The input of the search for bottlenecks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetMetrics {
    pub usage: UsageView,
    /// Each agent under which a task ended over the last minute, by name.
    pub agents: Vec<AgentMetrics>,
    /// Waiting tasks that no registered agent may take.
    pub unserved: UnservedTasks,
}
