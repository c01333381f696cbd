//! Commands to the fleet, their outcomes and the reasons for refusals.

use super::super::command::{Release, Shortage};
use super::super::ids::{AgentId, AgentType, AllocationId, FencingToken, JobId, TaskId};
use super::super::priority::Priority;
use super::super::time::{Millis, Timestamp};
use super::super::units::WorkerSize;
use super::agent::{AgentEndReason, AgentRequest};
use super::settings::FleetSettings;
use super::task::{AttemptOutcome, JsonText, TaskRequest, TaskState};
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// An agent's report on a task that it held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskReport {
    pub result: ReportedResult,
    /// The tokens used; without a figure, the estimate is booked.
    pub tokens_used: Option<u64>,
    /// How long the task took; without a figure, the time since the lease began.
    pub duration: Option<Millis>,
    /// The task's result.
    pub output: Option<JsonText>,
    /// The error of a failed attempt.
    pub error: Option<Arc<str>>,
}

/// The result that an agent reports for a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportedResult {
    Success,
    Failure,
    /// The task took too long.
    Timeout,
}

impl From<ReportedResult> for AttemptOutcome {
    fn from(result: ReportedResult) -> Self {
        match result {
            ReportedResult::Success => Self::Success,
            ReportedResult::Failure => Self::Failure,
            ReportedResult::Timeout => Self::Timeout,
        }
    }
}

/// A command to the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FleetCommand {
    /// Sets the limits and periods of the fleet.
    SetSettings(FleetSettings),
    /// Registers an agent.
    Register {
        request: Box<AgentRequest>,
        /// The size of a worker, which an agent without an allocation takes.
        worker_size: WorkerSize,
    },
    /// Removes an agent. The tasks it holds return to the queue.
    Unregister { agent: AgentId },
    /// Adds a task to the queue.
    Submit {
        request: Box<TaskRequest>,
        /// A random number; the task's id is derived from it if the request has none.
        random: u64,
    },
    /// Leases the best matching task to an agent, and further tasks of its batch.
    Claim { agent: AgentId },
    /// Picks an agent for a task and leases the task to it, and further tasks of its batch.
    Assign {
        task: TaskId,
        /// A random number that decides which agent is picked.
        random: u64,
    },
    /// Returns a task to the queue whose lease never reached its agent. It does not count as an attempt.
    Return {
        task: TaskId,
        /// The token of the lease.
        fencing_token: FencingToken,
    },
    /// Ends an attempt with the agent's report.
    Complete {
        task: TaskId,
        agent: AgentId,
        /// The token of the lease.
        fencing_token: FencingToken,
        report: Box<TaskReport>,
    },
    /// Cancels a task.
    Cancel { task: TaskId },
    /// Changes the priority or the deadline of a task.
    Update {
        task: TaskId,
        /// The new priority; unchanged if absent.
        priority: Option<Priority>,
        /// The new deadline; unchanged if absent.
        deadline: Option<Timestamp>,
    },
    /// Sets a token budget.
    SetTokenBudget {
        /// The job whose budget is set; if absent, the budget of all tasks together.
        job: Option<JobId>,
        /// The new total. If absent, a job's own budget is removed; the budget of all tasks stays unchanged.
        tokens: Option<u64>,
        /// The period after which settled tokens are cleared; zero for never, unchanged if absent. Only for the budget
        /// of all tasks.
        window: Option<Millis>,
    },
    /// Sets the maximum number of agents.
    SetAgentQuota {
        /// The type that the quota is for; if absent, all agents together.
        agent_type: Option<AgentType>,
        /// The quota; if absent, it is removed.
        agents: Option<u64>,
    },
    /// Records what is due: budget refills, expired task leases, lost agents.
    AdvanceTime {
        /// The maximum number of tasks and agents to process.
        steps_max: usize,
    },
}

/// How an attempt at a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedAttempt {
    pub task: TaskId,
    /// The agent that held the task.
    pub agent: AgentId,
    pub outcome: AttemptOutcome,
    /// The state of the task after the attempt.
    pub state: TaskState,
}

/// An agent that was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovedAgent {
    pub agent: AgentId,
    pub reason: AgentEndReason,
    /// The tasks that the agent held.
    pub tasks: Vec<EndedAttempt>,
}

/// Why no task was leased to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoTaskReason {
    /// The agent is draining: it gets no further tasks.
    Draining,
    /// The agent holds `tasks_max` tasks.
    AgentFull,
    /// No waiting task matches the agent.
    NoTask,
    /// Tasks match the agent, but there are no tokens for them.
    NoTokens,
}

impl fmt::Display for NoTaskReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Draining => "the agent is draining: report the tasks it holds, then stop",
            Self::AgentFull => "the agent already holds as many tasks as max_concurrent allows",
            Self::NoTask => "no waiting task matches the type and capabilities of this agent",
            Self::NoTokens => "waiting tasks match this agent, but too few tokens are left for them",
        })
    }
}

/// The outcome of a fleet command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FleetOutcome {
    /// The command took effect and has no result.
    Done,
    /// The agent is registered.
    Registered {
        /// False if the same agent was registered before.
        is_new: bool,
        /// Expired leases that were reclaimed to free a worker.
        reclaimed: Vec<Release>,
    },
    /// The agent was removed.
    Unregistered(RemovedAgent),
    /// The task is in the queue or on record.
    Submitted {
        task: TaskId,
        /// False if the same task was submitted before.
        is_new: bool,
    },
    /// The agent now holds these tasks, the best one first.
    Leased { agent: AgentId, tasks: Vec<TaskId> },
    /// No task was leased.
    NoTask(NoTaskReason),
    /// The report was accepted.
    Reported(EndedAttempt),
    /// The same report was accepted before.
    AlreadyReported {
        /// The outcome of that report.
        outcome: AttemptOutcome,
        /// When that report was accepted.
        at: Timestamp,
    },
    /// The task was cancelled.
    Cancelled {
        /// The agent that held the task, if it was running.
        agent: Option<AgentId>,
    },
    /// The task had ended before.
    AlreadyEnded {
        /// The state in which the task ended.
        state: TaskState,
        /// When the task ended.
        at: Timestamp,
    },
    /// Due changes were recorded.
    TimeAdvanced(Box<TimeAdvance>),
}

/// The changes that were due at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimeAdvance {
    /// Whether the token budget was refilled.
    pub refilled: bool,
    /// The tasks whose leases expired.
    pub expired: Vec<EndedAttempt>,
    /// The agents that were lost.
    pub lost: Vec<RemovedAgent>,
    /// Whether further changes are due.
    pub more: bool,
}

/// Why no agent can take a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoAgentReason {
    /// No registered agent has the type and capabilities.
    #[error("no agent with its type and capabilities is registered: register one")]
    Unknown,
    /// Every eligible agent is full or unresponsive.
    #[error(
        "of {eligible} agents with its type and capabilities, {full} are full and {unresponsive} are unresponsive: \
         try again, or let an agent claim it with claim_task"
    )]
    Busy {
        /// How many agents have the type and capabilities.
        eligible: u64,
        full: u64,
        unresponsive: u64,
    },
}

/// Why a task waits for tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Deferral {
    /// Too few tokens remain in the overall budget, or the remaining ones are reserved for more efficient tasks.
    #[error("insufficient_tokens")]
    Tokens,
    /// Too few tokens remain in the budget of its job.
    #[error("insufficient_job_tokens")]
    JobTokens,
}

/// Why a fleet command is refused. A refusal changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FleetDenied {
    /// The agent is not registered.
    #[error(
        "Agent {0} not found: it never registered, has left, or was lost after three missed heartbeats; \
         call register_agent"
    )]
    UnknownAgent(AgentId),
    /// The id is in use by an agent that registered with different arguments.
    #[error(
        "agent_id {agent} is registered with different arguments ({}): repeat the registered values, \
         call unregister_agent first, or choose another agent_id",
        .differs.join(", ")
    )]
    AgentExists {
        agent: AgentId,
        /// The names of the arguments that differ.
        differs: Vec<&'static str>,
    },
    /// The agent is being ended by its supervisor.
    #[error("Agent {0} is draining: stop, and do not register again")]
    Draining(AgentId),
    /// The agent quota is used up.
    #[error(
        "Agent quota exceeded: {active} of {quota} agents{} are registered; \
         unregister one, or raise the quota with set_agent_quota",
        of_type(.agent_type.as_ref())
    )]
    QuotaReached {
        /// The type whose quota is used up; if absent, the quota of all agents.
        agent_type: Option<AgentType>,
        /// How many agents are registered.
        active: u64,
        quota: u64,
    },
    /// No worker is free for the agent.
    #[error(
        "an agent needs a worker, and there is not enough capacity for one ({0}): unregister an agent, \
         release an allocation, raise the totals of the server, or register with an allocation_id"
    )]
    NoWorker(Shortage),
    /// Every worker of the allocation already has an agent.
    #[error(
        "Allocation {allocation} has {workers} workers, and each has an agent: \
         unregister one, or register without allocation_id"
    )]
    AllocationFull { allocation: AllocationId, workers: u64 },
    /// The allocation named by the agent is not active.
    #[error(
        "Allocation {0} is not active, so an agent cannot join it: \
         request resources again, or register without allocation_id"
    )]
    AllocationNotActive(AllocationId),
    /// The task does not exist, or its record was removed.
    #[error("Task {0} not found: it was never submitted, or its record was removed; list_tasks shows the known tasks")]
    UnknownTask(TaskId),
    /// The id belongs to a different task.
    #[error(
        "task_id {task} belongs to another task, which differs in {}: \
         submit that task unchanged, or choose a new task_id",
        .differs.join(", ")
    )]
    TaskExists {
        task: TaskId,
        /// The names of the arguments that differ.
        differs: Vec<&'static str>,
    },
    /// The queue has reached `max_tasks`.
    #[error("Too many tasks: {limit} of {limit} are open (limit: max_tasks): wait until some end, or cancel some")]
    TooManyTasks { limit: u64 },
    /// The texts of open tasks have reached `max_task_bytes`.
    #[error(
        "Too many bytes of tasks: {held} of {limit} are in use and this task needs {given} more \
         (limit: max_task_bytes): wait until some tasks end, or store the payload elsewhere"
    )]
    TooManyTaskBytes {
        /// The bytes in use.
        held: u64,
        /// The bytes of the task.
        given: u64,
        limit: u64,
    },
    /// The deadline has passed.
    #[error("deadline is {deadline}, which has passed (now: {now}): give a later time")]
    DeadlinePassed { deadline: Timestamp, now: Timestamp },
    /// Another agent holds the task.
    #[error("Task {task} is held by agent {holder}, not by agent {given}: only the holder can report on it")]
    WrongOwner {
        task: TaskId,
        /// The agent named in the command.
        given: AgentId,
        holder: AgentId,
    },
    /// The fencing token does not match the lease.
    #[error(
        "fencing_token {given} does not match the lease on task {task}: {}; drop the work on it",
        held_under(*.own)
    )]
    StaleTaskToken {
        task: TaskId,
        /// The token named in the command.
        given: FencingToken,
        /// The token of the current lease, if there is one.
        own: Option<FencingToken>,
    },
    /// The attempt with this fencing token has ended.
    #[error(
        "the attempt with fencing_token {given} at task {task} has ended: {} at {at}; drop the work on it",
        how_it_ended(.agent, *.outcome)
    )]
    AttemptOver {
        task: TaskId,
        /// The token named in the command.
        given: FencingToken,
        /// The agent of that attempt.
        agent: AgentId,
        /// How the attempt ended.
        outcome: AttemptOutcome,
        /// When the attempt ended.
        at: Timestamp,
    },
    /// The lease on the task has expired.
    #[error("the lease on task {task} expired at {expired_at}: drop the work on it, and claim another task")]
    TaskLeaseExpired { task: TaskId, expired_at: Timestamp },
    /// The task has ended.
    #[error("Task {task} is {state} since {at}: only queued, deferred and running tasks can be changed or assigned")]
    TaskEnded {
        task: TaskId,
        /// The state in which the task ended.
        state: TaskState,
        /// When the task ended.
        at: Timestamp,
    },
    /// The task is running and cannot be assigned.
    #[error("Task {task} is held by agent {holder}: cancel it, or wait for its report")]
    TaskRunning { task: TaskId, holder: AgentId },
    /// No agent can take the task now.
    #[error("Task {task} cannot be assigned: {reason}")]
    NoAgent { task: TaskId, reason: NoAgentReason },
    /// Too few tokens remain for the task.
    #[error(
        "Task {task} is deferred ({reason}): it needs {estimated_tokens} tokens and {remaining} remain for it; \
         raise the budget with set_token_budget"
    )]
    NoTokens {
        task: TaskId,
        reason: Deferral,
        /// What an attempt reserves.
        estimated_tokens: u64,
        /// What remains of the budgets that the task counts towards.
        remaining: u64,
    },
    /// The new budget is below what is already used.
    #[error(
        "the token budget cannot be lowered to {given}: {settled} are settled and {reserved} reserved; \
         give at least {}, or cancel running tasks",
        settled.saturating_add(*reserved)
    )]
    BudgetBelowUse { given: u64, settled: u64, reserved: u64 },
    /// The maximum number of jobs with a budget, or of agent types with a quota, is reached.
    #[error("{limit} {what} exist already, which is the maximum: remove one first")]
    TooMany {
        /// What there are too many of, in words.
        what: &'static str,
        limit: usize,
    },
}

fn of_type(agent_type: Option<&AgentType>) -> String {
    agent_type.map_or_else(String::new, |agent_type| format!(" of type {agent_type}"))
}

fn how_it_ended(agent: &AgentId, outcome: AttemptOutcome) -> String {
    let reported = |result: &str| format!("agent {agent} reported a {result}");
    match outcome {
        AttemptOutcome::Success | AttemptOutcome::Failure | AttemptOutcome::Timeout => reported(outcome.as_str()),
        AttemptOutcome::LeaseExpired => format!("the lease of agent {agent} expired"),
        AttemptOutcome::AgentLost => format!("agent {agent} was lost"),
        AttemptOutcome::AgentUnregistered => format!("agent {agent} left"),
        AttemptOutcome::AllocationEnded => format!("the allocation of agent {agent} ended"),
        AttemptOutcome::Cancelled => "the task was cancelled".to_owned(),
    }
}

fn held_under(own: Option<FencingToken>) -> String {
    own.map_or_else(|| "no agent holds it".to_owned(), |own| format!("its lease has fencing_token {own}"))
}
