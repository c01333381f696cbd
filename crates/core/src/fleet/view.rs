//! Reading the books of the fleet: agents, tasks, and what is used of quotas, tokens and the queue.

use super::super::ids::{AgentId, AgentType, FencingToken, JobId, TaskId};
use super::super::priority::Priority;
use super::super::time::{Millis, Timestamp};
use super::agent::Registration;
use super::command::Deferral;
use super::estimate::DurationsSeen;
use super::health::Health;
use super::task::{Selector, Task, TaskState};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// How an agent stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AgentState {
    /// It holds nothing.
    Idle,
    /// It holds tasks, and may hold more.
    Busy,
    /// It holds as many tasks as it may.
    Full,
    /// Its heartbeat is late: it is given nothing until it is heard again.
    Unresponsive,
}

impl AgentState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Idle, Self::Busy, Self::Full, Self::Unresponsive];

    /// Its name on the wire.
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
    /// Which.
    pub task: TaskId,
    /// The token of the lease.
    pub fencing_token: FencingToken,
    /// When the lease runs out.
    pub expires_at: Timestamp,
}

/// An agent at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentView {
    /// The moment.
    pub at: Timestamp,
    /// The agent as it was taken on.
    pub registration: Arc<Registration>,
    /// When it was taken on.
    pub registered_at: Timestamp,
    /// When it was last heard of.
    pub heard_at: Timestamp,
    /// When it is lost unless it is heard of before.
    pub lost_at: Timestamp,
    /// How it stands.
    pub state: AgentState,
    /// The tasks it holds, in the order in which it was given them.
    pub tasks: Vec<HeldTask>,
    /// How well it does.
    pub health: Health,
}

/// Which agents to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentFilter {
    /// Only those that stand like this.
    pub state: Option<AgentState>,
    /// Only those of this type.
    pub agent_type: Option<AgentType>,
}

/// A task at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskView {
    /// The moment.
    pub at: Timestamp,
    /// The task.
    pub task: Task,
    /// Where it stands.
    pub state: TaskState,
    /// Why it waits for tokens, if it does.
    pub deferral: Option<Deferral>,
    /// How urgent it counts after its waiting, while it waits.
    pub effective_priority: Priority,
    /// When the lease on it runs out, if an agent holds it.
    pub lease_expires_at: Option<Timestamp>,
}

/// Which tasks to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskFilter {
    /// Only those that stand here.
    pub state: Option<TaskState>,
    /// Only those of this job.
    pub job: Option<JobId>,
    /// Only those that this agent holds.
    pub agent: Option<AgentId>,
}

/// How many agents of a type there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeUsage {
    /// The type.
    pub agent_type: AgentType,
    /// How many there may be, if it has a quota.
    pub quota: Option<u64>,
    /// How many there are.
    pub active: u64,
}

/// How many agents there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentUsage {
    /// How many there may be, if that was set.
    pub quota: Option<u64>,
    /// How many worker slots there are in all: without a quota, there can be no more agents than that.
    pub workers: u64,
    /// How many there are.
    pub active: u64,
    /// How many workers are free for more, or held by leases past their deadline.
    pub free_workers: u64,
    /// Of each type that has a quota or agents, by name.
    pub by_type: Vec<TypeUsage>,
}

impl AgentUsage {
    /// How many there may be.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.quota.unwrap_or(self.workers)
    }

    /// How many more may come that belong to no allocation.
    #[must_use]
    pub fn available(&self) -> u64 {
        self.total().saturating_sub(self.active).min(self.free_workers)
    }
}

/// What is used of a budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BudgetUsage {
    /// How many tokens there are.
    pub total: u64,
    /// How many ended attempts took.
    pub settled: u64,
    /// How many running attempts are expected to take.
    pub reserved: u64,
    /// How many were taken beyond what was expected, in sum over the attempts that did.
    pub overrun: u64,
}

impl BudgetUsage {
    /// The same once what is settled is cleared.
    pub(super) const fn refilled(self) -> Self {
        Self { settled: 0, overrun: 0, ..self }
    }

    /// How many are left to be reserved.
    #[must_use]
    pub const fn remaining(&self) -> u64 {
        self.total.saturating_sub(self.settled).saturating_sub(self.reserved)
    }

    /// Which part of it is settled or reserved: 1 for all, more after an overrun. A budget of nothing is used up.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people and thresholds; budgets are far below 2^53")]
    pub fn ratio(&self) -> f64 {
        if self.total == 0 { 1.0 } else { self.settled.saturating_add(self.reserved) as f64 / self.total as f64 }
    }
}

/// What is used of the tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenUsage {
    /// Of all tasks together.
    pub all: BudgetUsage,
    /// After how long what is settled is cleared, again and again; zero for never.
    pub window: Millis,
    /// When that is next, if ever.
    pub refills_at: Option<Timestamp>,
    /// How many tokens a task took that was reported on, in the mean.
    pub mean_per_task: Option<u64>,
    /// Of each job with a budget of its own, by name.
    pub jobs: Vec<(JobId, BudgetUsage)>,
}

/// What waits in one priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// How many tasks.
    pub tasks: u64,
    /// How long they have waited, in the mean.
    pub wait_mean: Millis,
    /// How long the oldest has waited.
    pub wait_max: Millis,
}

/// What waits in the queue, tasks that wait for tokens included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueUsage {
    /// All of it.
    pub all: Waiting,
    /// By priority, in the order of [`Priority::ALL`]: as the tasks were submitted, not as waiting raised them.
    pub by_priority: [Waiting; 4],
    /// How many tasks agents hold.
    pub running: u64,
    /// How many bytes the texts of open tasks take.
    pub bytes: u64,
}

/// What the tokens that remain do for the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConservationView {
    /// Whether tokens are saved: tasks go by what they are worth for a token.
    pub is_on: bool,
    /// How many waiting tasks the tokens are there for.
    pub active_tasks: u64,
    /// How many wait for tokens.
    pub deferred_tasks: u64,
    /// How many tokens the active ones are expected to take.
    pub estimated_tokens: u64,
    /// How many tokens are left to be reserved.
    pub remaining_tokens: u64,
}

/// What is used of quotas, tokens and the queue at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageView {
    /// The moment.
    pub at: Timestamp,
    /// The agents.
    pub agents: AgentUsage,
    /// The tokens.
    pub tokens: TokenUsage,
    /// The queue.
    pub queue: QueueUsage,
    /// What the tokens are there for.
    pub conservation: ConservationView,
}

/// The fleet in figures at a moment, and as lines of `name: value`. A daemon tells it to programs of other versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetSummary {
    /// How many agents there are.
    pub agents: u64,
    /// How many of them take a worker each, since they are no workers of an allocation.
    pub taking_workers: u64,
    /// How many of them are unresponsive; nothing where nobody listens for them.
    pub unresponsive: Option<u64>,
    /// How many tasks wait for an agent.
    pub queued: u64,
    /// How many wait for tokens.
    pub deferred: u64,
    /// How many agents hold.
    pub running: u64,
    /// How many are on record that went well.
    pub completed: u64,
    /// How many are on record of which the last attempt failed.
    pub failed: u64,
    /// How many are on record that were taken back.
    pub cancelled: u64,
    /// How many tokens there are for all tasks together.
    pub tokens_total: u64,
    /// How many of them ended attempts took.
    pub tokens_settled: u64,
    /// How many of them running attempts are expected to take.
    pub tokens_reserved: u64,
    /// When those that were taken are cleared next, if ever.
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

/// How the tasks of an agent went over the last minute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentFigures {
    /// Which agent.
    pub agent: AgentId,
    /// How many tasks ended in its hands.
    pub tasks: u64,
    /// How many of them well.
    pub successes: u64,
    /// How long they took, in the mean.
    pub duration_mean: Millis,
}

/// How much there is to do, and who is there to do it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FleetLoad {
    /// How many agents there are.
    pub agents: u64,
    /// How many of them hold a task.
    pub agents_at_work: u64,
    /// How many tasks they may hold together.
    pub room: u64,
    /// How many they hold.
    pub running: u64,
    /// How many tasks wait for an agent; those that wait for tokens are left out, since more agents would not help them.
    pub waiting: u64,
    /// How long all that waits has waited, in the mean.
    pub wait_mean: Millis,
    /// How many agents there may be, if that was set.
    pub quota: Option<u64>,
    /// Whether so many tokens are used that the rest is saved.
    pub saves_tokens: bool,
    /// How many tasks wait for tokens.
    pub deferred: u64,
    /// How many tasks were ever submitted.
    pub submitted: u64,
    /// How long tasks took that went well lately, if any did.
    pub durations: Option<DurationsSeen>,
}

impl FleetLoad {
    /// How many agents there may be: those that are there, or as many as the quota admits if that is more.
    #[must_use]
    pub fn agents_max(&self) -> u64 {
        self.quota.unwrap_or(u64::MAX).max(self.agents)
    }

    /// How many tasks an agent may hold, as they are now, in the mean; at least 1, and 1 if there are none.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a mean")]
    pub fn room_each(&self) -> f64 {
        if self.agents == 0 { 1.0 } else { (self.room as f64 / self.agents as f64).max(1.0) }
    }
}

/// What waits that no registered agent may take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unserved {
    /// How many tasks.
    pub tasks: u64,
    /// What the most of them are for, the most first; at most [`Self::SELECTORS_MAX`].
    pub selectors: Vec<(Selector, u64)>,
}

impl Unserved {
    /// How many selectors are told apart: enough to see a misspelt name.
    pub const SELECTORS_MAX: usize = 3;
}

/// What a look for bottlenecks goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetFigures {
    /// What is used.
    pub usage: UsageView,
    /// Each agent in whose hands a task ended over the last minute, by name.
    pub agents: Vec<AgentFigures>,
    /// What waits that no registered agent may take.
    pub unserved: Unserved,
}
