//! What may be asked of the fleet, and what it answers.

use super::super::command::{Release, Shortage};
use super::super::ids::{AgentId, AgentType, AllocationId, FencingToken, JobId, TaskId};
use super::super::priority::Priority;
use super::super::time::{Millis, Timestamp};
use super::super::units::WorkerSize;
use super::agent::{AgentEnd, AgentRequest};
use super::settings::FleetSettings;
use super::task::{AttemptOutcome, JsonText, TaskRequest, TaskState};
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// What an agent reports of a task that it held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How it went: success, failure or timeout.
    pub result: ReportedResult,
    /// The tokens it took; the estimate is booked if absent.
    pub tokens_used: Option<u64>,
    /// How long it took; as it was measured if absent.
    pub duration: Option<Millis>,
    /// What came of it.
    pub output: Option<JsonText>,
    /// What went wrong.
    pub error: Option<Arc<str>>,
}

/// How an agent says that a task went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportedResult {
    /// It is done.
    Success,
    /// It failed.
    Failure,
    /// It took too long.
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

/// Something asked of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FleetCommand {
    /// Keep the fleet within these settings.
    SetSettings(FleetSettings),
    /// Take an agent on.
    Register {
        /// What it says of itself.
        request: Box<AgentRequest>,
        /// What a worker takes.
        worker_size: WorkerSize,
    },
    /// Let an agent go. What it holds goes back to the queue.
    Unregister {
        /// Which.
        agent: AgentId,
    },
    /// Take a task into the queue.
    Submit {
        /// What is asked for.
        request: Box<TaskRequest>,
        /// A random number, of which the task's id is made if it has none.
        draw: u64,
    },
    /// Give an agent the best task for it, and with it others of its batch.
    Claim {
        /// Which agent.
        agent: AgentId,
    },
    /// Choose an agent for a task, and give it to that one, and with it others of its batch.
    Assign {
        /// Which task.
        task: TaskId,
        /// A random number, by which the agent is chosen.
        draw: u64,
    },
    /// Put a task back that an agent was given and never heard of. It counts as no attempt.
    Return {
        /// Which.
        task: TaskId,
        /// The token of the lease.
        fencing_token: FencingToken,
    },
    /// Take an agent's report on a task that it holds.
    Complete {
        /// Which task.
        task: TaskId,
        /// Which agent.
        agent: AgentId,
        /// The token of its lease.
        fencing_token: FencingToken,
        /// What it reports.
        report: Box<Report>,
    },
    /// Take a task back.
    Cancel {
        /// Which.
        task: TaskId,
    },
    /// Change how urgent a task is.
    Update {
        /// Which.
        task: TaskId,
        /// Its priority; as it is if absent.
        priority: Option<Priority>,
        /// Its deadline; as it is if absent.
        deadline: Option<Timestamp>,
    },
    /// Set a budget of tokens.
    SetTokenBudget {
        /// Of this job; of all tasks together if absent.
        job: Option<JobId>,
        /// How many tokens. A job without a number has no budget of its own any more; for all tasks it is as it is.
        tokens: Option<u64>,
        /// After how long what is settled is cleared, again and again; zero for never, as it is if absent. Only for all tasks.
        window: Option<Millis>,
    },
    /// Set how many agents there may be at once.
    SetAgentQuota {
        /// Of this type; in all if absent.
        agent_type: Option<AgentType>,
        /// How many; no quota if absent.
        agents: Option<u64>,
    },
    /// Record what time has done: budgets refilled, leases of tasks run out, agents lost.
    PassTime {
        /// At most so many tasks and agents.
        steps_max: usize,
    },
}

/// How a task left an agent's hands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskLeft {
    /// Which task.
    pub task: TaskId,
    /// The agent that held it.
    pub agent: AgentId,
    /// How the attempt ended.
    pub outcome: AttemptOutcome,
    /// Where the task stands now.
    pub state: TaskState,
}

/// An agent that is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentLeft {
    /// Which.
    pub agent: AgentId,
    /// Why.
    pub reason: AgentEnd,
    /// The tasks it held.
    pub tasks: Vec<TaskLeft>,
}

/// Why an agent was given nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NothingClaimed {
    /// It is to be given nothing more.
    Draining,
    /// It holds as many tasks as it may.
    AgentIsFull,
    /// No task that it could take waits for it.
    NoTask,
    /// There are such tasks, and no tokens for them.
    NoTokens,
}

impl fmt::Display for NothingClaimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Draining => "the agent is being ended: report what it holds, then stop",
            Self::AgentIsFull => "the agent holds as many tasks as it may",
            Self::NoTask => "no task waits that this agent could take",
            Self::NoTokens => "tasks wait that this agent could take, and no tokens are left for them",
        })
    }
}

/// A fleet command's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FleetOutcome {
    /// It is done, and there is nothing to tell.
    Done,
    /// An agent was taken on.
    Registered {
        /// Whether by this command, rather than before.
        is_new: bool,
        /// Leases past their deadline that were taken back to make room.
        reclaimed: Vec<Release>,
    },
    /// An agent has left.
    Unregistered(AgentLeft),
    /// A task is in the books.
    Submitted {
        /// Which.
        task: TaskId,
        /// Whether by this command, rather than before.
        is_new: bool,
    },
    /// An agent holds these tasks now, the best one first.
    Leased {
        /// Which agent.
        agent: AgentId,
        /// The tasks.
        tasks: Vec<TaskId>,
    },
    /// An agent was given nothing.
    Nothing(NothingClaimed),
    /// A report was taken.
    Reported(TaskLeft),
    /// The same attempt was reported before.
    ReportedBefore {
        /// How it was reported.
        outcome: AttemptOutcome,
        /// When.
        at: Timestamp,
    },
    /// A task was taken back.
    Cancelled {
        /// Who held it, if anybody did.
        agent: Option<AgentId>,
    },
    /// It had ended before.
    EndedBefore {
        /// How.
        state: TaskState,
        /// When.
        at: Timestamp,
    },
    /// Time was recorded.
    TimePassed(Box<TimePassed>),
}

/// What time has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimePassed {
    /// Whether the token budget was refilled.
    pub refilled: bool,
    /// The tasks whose leases ran out.
    pub expired: Vec<TaskLeft>,
    /// The agents that were lost.
    pub lost: Vec<AgentLeft>,
    /// Whether there is more to record.
    pub more: bool,
}

/// Why no agent can be given a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoAgent {
    /// None of its type with its capabilities is registered.
    #[error("no agent with its type and capabilities is registered: register one")]
    Unknown,
    /// All that could take it are full or unresponsive.
    #[error(
        "of {able} agents with its type and capabilities, {full} hold as many tasks as they may and {unresponsive} are unresponsive: \
         try again, or leave it to claim_task"
    )]
    Busy {
        /// How many could take it.
        able: u64,
        /// How many of them are full.
        full: u64,
        /// How many of them are unresponsive.
        unresponsive: u64,
    },
}

/// Why a task waits for tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Deferral {
    /// The budget has too little left, for it or for what is worth more.
    #[error("insufficient_tokens")]
    Tokens,
    /// The budget of its job has too little left.
    #[error("insufficient_job_tokens")]
    JobTokens,
}

/// Why a fleet command is refused. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FleetDenied {
    /// There is no such agent.
    #[error(
        "Agent {0} not found: it never registered, has left, or was lost after three missed heartbeats; call register_agent"
    )]
    UnknownAgent(AgentId),
    /// The id is taken by an agent that said something else of itself.
    #[error(
        "agent_id {agent} is registered with other particulars ({}): repeat those, call unregister_agent first, or choose another agent_id",
        .differs.join(", ")
    )]
    AgentExists {
        /// Which agent.
        agent: AgentId,
        /// The arguments in which it differs.
        differs: Vec<&'static str>,
    },
    /// Whoever runs the agent is ending it.
    #[error("Agent {0} is being ended: stop, and do not register again")]
    Draining(AgentId),
    /// There are as many agents as there may be.
    #[error("Agent quota exceeded: {active} of {quota} agents{} are registered; unregister one, or raise it with set_agent_quota", of_type(.agent_type.as_ref()))]
    QuotaReached {
        /// Of this type; in all if absent.
        agent_type: Option<AgentType>,
        /// How many there are.
        active: u64,
        /// How many there may be.
        quota: u64,
    },
    /// There is no worker for another agent.
    #[error(
        "an agent takes a worker, and there is no room for one ({0}): unregister an agent, release an allocation, give the server larger totals, or register with an allocation_id"
    )]
    NoWorker(Shortage),
    /// As many agents belong to an allocation as it has workers.
    #[error(
        "Allocation {allocation} has {workers} workers, and as many agents belong to it: unregister one, or register without allocation_id"
    )]
    AllocationFull {
        /// Which allocation.
        allocation: AllocationId,
        /// How many workers it has.
        workers: u64,
    },
    /// The allocation of an agent is not active.
    #[error(
        "Allocation {0} is not active, so that no agent can belong to it: request resources anew, or register without allocation_id"
    )]
    AllocationNotActive(AllocationId),
    /// There is no such task, or its record is gone.
    #[error(
        "Task {0} not found: none of this id was submitted here, or its record is gone; list_tasks shows which there are"
    )]
    UnknownTask(TaskId),
    /// The id was used for another task.
    #[error(
        "task_id {task} was used for another task, which differs in {}: repeat that one unchanged, or choose a new task_id",
        .differs.join(", ")
    )]
    TaskExists {
        /// Which task.
        task: TaskId,
        /// The arguments in which it differs.
        differs: Vec<&'static str>,
    },
    /// The queue holds as many tasks as it may.
    #[error(
        "Too many tasks: {limit} of {limit} are open (the limit is max_tasks): wait until some are done, or cancel some"
    )]
    TooManyTasks {
        /// The limit.
        limit: u64,
    },
    /// The queue holds as many bytes as it may.
    #[error(
        "Too many bytes of tasks: {held} of {limit} are held and this task has {given} more (the limit is max_task_bytes): \
         wait until some are done, or put the payload elsewhere"
    )]
    TooManyTaskBytes {
        /// How many bytes are held.
        held: u64,
        /// How many the task has.
        given: u64,
        /// The limit.
        limit: u64,
    },
    /// A deadline that has passed.
    #[error("deadline is {deadline}, which has passed: it is {now}; give a later moment")]
    DeadlinePassed {
        /// The deadline.
        deadline: Timestamp,
        /// The moment.
        now: Timestamp,
    },
    /// Another agent holds the task.
    #[error("Task {task} is not held by agent {given} but by {holder}: whoever holds it reports on it")]
    WrongOwner {
        /// Which task.
        task: TaskId,
        /// The agent given.
        given: AgentId,
        /// The agent that holds it.
        holder: AgentId,
    },
    /// The fencing token is not that of the lease.
    #[error("fencing_token {given} is not that of the lease on task {task}: {}; drop the work on it", held_under(*.own))]
    StaleTaskToken {
        /// Which task.
        task: TaskId,
        /// The token given.
        given: FencingToken,
        /// The lease's own, if there is one.
        own: Option<FencingToken>,
    },
    /// The attempt under this fencing token has ended.
    #[error(
        "the attempt under fencing_token {given} at task {task} is over: {} at {at}; drop the work on it",
        how_it_ended(.agent, *.outcome)
    )]
    AttemptOver {
        /// Which task.
        task: TaskId,
        /// The token given.
        given: FencingToken,
        /// The agent whose attempt it was.
        agent: AgentId,
        /// How it ended.
        outcome: AttemptOutcome,
        /// When.
        at: Timestamp,
    },
    /// The lease on a task has run out.
    #[error("the lease on task {task} ran out at {expired_at}: drop the work on it; the task goes to another agent")]
    TaskLeaseExpired {
        /// Which task.
        task: TaskId,
        /// When.
        expired_at: Timestamp,
    },
    /// Nothing can be done about a task that has ended.
    #[error(
        "Task {task} is {state} since {at}: only one that is queued, deferred or running can be changed or assigned"
    )]
    TaskEnded {
        /// Which task.
        task: TaskId,
        /// How it ended.
        state: TaskState,
        /// When.
        at: Timestamp,
    },
    /// A task that is held cannot be assigned.
    #[error("Task {task} is held by agent {holder}: cancel it, or wait for its report")]
    TaskRunning {
        /// Which task.
        task: TaskId,
        /// Who holds it.
        holder: AgentId,
    },
    /// No agent can be given the task now.
    #[error("Task {task} cannot be assigned: {reason}")]
    NoAgent {
        /// Which task.
        task: TaskId,
        /// Why.
        reason: NoAgent,
    },
    /// There are no tokens for the task now.
    #[error(
        "Task {task} is deferred ({reason}): it needs {estimated_tokens} tokens and {remaining} remain for it; raise the budget with set_token_budget"
    )]
    NoTokens {
        /// Which task.
        task: TaskId,
        /// Why.
        reason: Deferral,
        /// What an attempt reserves.
        estimated_tokens: u64,
        /// What remains of the budgets it counts towards.
        remaining: u64,
    },
    /// A budget below what is used of it.
    #[error(
        "the token budget cannot be lowered to {given}: {settled} are settled and {reserved} reserved; give at least {}, or cancel running tasks",
        settled.saturating_add(*reserved)
    )]
    BudgetBelowUse {
        /// The budget asked for.
        given: u64,
        /// What is settled.
        settled: u64,
        /// What is reserved.
        reserved: u64,
    },
    /// More jobs or types than may have a number of their own.
    #[error("{limit} {what} have one already: take some away first")]
    TooMany {
        /// Jobs with a budget, or types of agents with a quota.
        what: &'static str,
        /// The limit.
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
        AttemptOutcome::LeaseExpired => format!("the lease of agent {agent} ran out"),
        AttemptOutcome::AgentLost => format!("agent {agent} was lost"),
        AttemptOutcome::AgentUnregistered => format!("agent {agent} left"),
        AttemptOutcome::AllocationEnded => format!("the allocation of agent {agent} ended"),
        AttemptOutcome::Cancelled => "the task was cancelled".to_owned(),
    }
}

fn held_under(own: Option<FencingToken>) -> String {
    own.map_or_else(|| "nobody holds it".to_owned(), |own| format!("it is held under {own}"))
}
