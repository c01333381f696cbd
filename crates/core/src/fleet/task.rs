//! A task: a unit of work in the queue, from its submission to the end of its record.

use super::super::ids::{AgentId, AgentType, BatchKey, FencingToken, JobId, TaskId, TaskNumber};
use super::super::priority::Priority;
use super::super::table::{Keyed, Slot};
use super::super::time::{Millis, Timestamp, TtlSeconds};
use super::agent::Capabilities;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// Any JSON value, kept as its text: what a task is given, and what comes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JsonText(Arc<str>);

impl JsonText {
    /// Keeps a value. Equal values have equal texts, whatever the order of their keys was.
    #[must_use]
    pub fn new(value: &serde_json::Value) -> Self {
        // The keys of objects are ordered.
        Self(Arc::from(value.to_string()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who may take a task: agents of a type, or of any, that have all these capabilities.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// The type; any if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_type: Option<AgentType>,
    /// The capabilities.
    pub capabilities: Capabilities,
}

impl Selector {
    /// Whether an agent of this type with these capabilities may take the task.
    #[must_use]
    pub fn admits(&self, agent_type: &AgentType, capabilities: &Capabilities) -> bool {
        self.agent_type.as_ref().is_none_or(|wanted| wanted == agent_type) && capabilities.cover(&self.capabilities)
    }
}

/// How hard a task is, as far as its submitter can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Complexity {
    /// Half of what a task takes.
    Simple,
    /// What a task takes.
    #[default]
    Medium,
    /// Twice that.
    Complex,
}

impl Complexity {
    /// All of them, the simplest first.
    pub const ALL: [Self; 3] = [Self::Simple, Self::Medium, Self::Complex];

    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Medium => "medium",
            Self::Complex => "complex",
        }
    }
}

/// What is known beforehand of the tokens that a task takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokensExpected {
    /// The submitter's own estimate; ours is made of the rest if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<u64>,
    /// How hard the task is.
    pub complexity: Complexity,
    /// How long its input is, in characters.
    pub input_characters: u64,
}

/// The names of those that differ.
pub(super) fn differing<const COUNT: usize>(arguments: [(&'static str, bool); COUNT]) -> Vec<&'static str> {
    arguments.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

/// What is asked of the queue: a task as its submitter describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskRequest {
    /// The submitter's own id for it, by which a repeat is known; we give one if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// The job it is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// Who may take it.
    pub selector: Selector,
    /// How urgent it is.
    pub priority: Priority,
    /// What is known of its tokens.
    pub tokens: TokensExpected,
    /// When it should be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// What it has in common with others that the same agent should take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchKey>,
    /// What the agent is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<JsonText>,
    /// How often it is tried; at least 1.
    pub attempts_max: u32,
    /// How long one attempt may take.
    pub lease_seconds: TtlSeconds,
}

impl TaskRequest {
    /// The arguments in which another request differs from it.
    pub(super) fn differences(&self, other: &Self) -> Vec<&'static str> {
        let Self { task, job, selector, priority, tokens, deadline, batch, payload, attempts_max, lease_seconds } =
            other;
        differing([
            ("task_id", self.task != *task),
            ("job_id", self.job != *job),
            ("agent_type", self.selector.agent_type != selector.agent_type),
            ("capabilities", self.selector.capabilities != selector.capabilities),
            ("priority", self.priority != *priority),
            ("estimated_tokens", self.tokens.given != tokens.given),
            ("complexity", self.tokens.complexity != tokens.complexity),
            ("input", self.tokens.input_characters != tokens.input_characters),
            ("deadline", self.deadline != *deadline),
            ("batch_key", self.batch != *batch),
            ("payload", self.payload != *payload),
            ("max_attempts", self.attempts_max != *attempts_max),
            ("lease_seconds", self.lease_seconds != *lease_seconds),
        ])
    }

    /// How many bytes of texts it has that its submitter chose.
    pub(super) fn text_bytes(&self) -> u64 {
        let payload = self.payload.as_ref().map_or(0, |payload| payload.as_str().len());
        let job = self.job.as_ref().map_or(0, |job| job.as_str().len());
        let batch = self.batch.as_ref().map_or(0, |batch| batch.as_str().len());
        // Those that many tasks ask for alike are kept once, and counted for each all the same.
        let agent_type = self.selector.agent_type.as_ref().map_or(0, |agent_type| agent_type.as_str().len());
        let capabilities: usize = self.selector.capabilities.as_slice().iter().map(|one| one.as_str().len()).sum();
        (payload + job + batch + agent_type + capabilities) as u64
    }
}

/// A task as it was taken in. It never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    /// Its id.
    pub task: TaskId,
    /// Its place among all tasks.
    pub number: TaskNumber,
    /// How many tokens an attempt is expected to take, and reserves.
    pub estimated_tokens: u64,
    /// From when on it is urgent, if it has a deadline: its slack has run out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urgent_at: Option<Timestamp>,
    /// What was asked for.
    pub request: TaskRequest,
}

impl TaskSpec {
    /// How many bytes it counts towards the bound of the queue: the texts that its submitter chose.
    #[must_use]
    pub fn text_bytes(&self) -> u64 {
        self.task.as_str().len() as u64 + self.request.text_bytes()
    }
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Waiting for an agent.
    Queued,
    /// Waiting for tokens.
    Deferred,
    /// In the hands of an agent.
    Running,
    /// Done.
    Completed,
    /// Given up after its last attempt.
    Failed,
    /// Taken back by its submitter.
    Cancelled,
}

impl TaskState {
    /// All of them, in the order of a life.
    pub const ALL: [Self; 6] =
        [Self::Queued, Self::Deferred, Self::Running, Self::Completed, Self::Failed, Self::Cancelled];

    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Deferred => "deferred",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether a task in this state is still to be done.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Queued | Self::Deferred | Self::Running)
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    /// The agent reports that it is done.
    Success,
    /// The agent reports that it failed.
    Failure,
    /// The agent reports that it took too long.
    Timeout,
    /// The agent did not report in time.
    LeaseExpired,
    /// The agent missed three heartbeats.
    AgentLost,
    /// The agent left.
    AgentUnregistered,
    /// The allocation of the agent ended.
    AllocationEnded,
    /// The task was taken back.
    Cancelled,
}

impl AttemptOutcome {
    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Timeout => "timeout",
            Self::LeaseExpired => "lease_expired",
            Self::AgentLost => "agent_lost",
            Self::AgentUnregistered => "agent_unregistered",
            Self::AllocationEnded => "allocation_ended",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How an attempt at a task ended, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttemptEnd {
    /// The token of the attempt.
    pub fencing_token: FencingToken,
    /// How.
    pub outcome: AttemptOutcome,
    /// The tokens that it took, as far as is known.
    pub tokens_used: u64,
    /// Whether the agent did not tell them, so that the estimate is taken for them.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_estimated: bool,
    /// How long it took, in milliseconds.
    pub duration_ms: Millis,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Arc<str>>,
    /// What came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<JsonText>,
    /// Where the task stands then: queued again, completed, failed or cancelled.
    pub then: TaskState,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// An attempt at a task that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// Its token.
    pub fencing_token: FencingToken,
    /// The agent that held the task.
    pub agent: AgentId,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// How.
    pub outcome: AttemptOutcome,
    /// The tokens that it took, as far as is known.
    pub tokens_used: u64,
    /// How long it took, as the agent reports it, or as it was measured.
    pub duration_ms: Millis,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Arc<str>>,
}

impl Attempt {
    /// How many bytes of texts are kept of it. The id of its agent is not among them: all attempts share it.
    pub(super) fn bytes(&self) -> u64 {
        self.error.as_ref().map_or(0, |error| error.len() as u64)
    }
}

/// An agent's hold on a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskLease {
    /// Who holds it.
    pub agent: AgentId,
    /// The token of this attempt.
    pub fencing_token: FencingToken,
    /// Since when.
    pub leased_at: Timestamp,
    /// Until when, grace after an outage not counted.
    pub deadline: Timestamp,
}

/// Where in its life a task is, with what is known from there on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskPhase {
    /// Waiting, for an agent or for tokens.
    Queued,
    /// In the hands of an agent.
    Running(Box<TaskLease>),
    /// Over.
    Ended(Box<TaskEnd>),
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskEnd {
    /// Completed, failed or cancelled.
    pub state: TaskState,
    /// When.
    pub at: Timestamp,
    /// What came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<JsonText>,
}

/// A task as the books have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// What was taken in.
    pub spec: Arc<TaskSpec>,
    /// How urgent it is now.
    pub priority: Priority,
    /// When it should be done, as of now.
    pub deadline: Option<Timestamp>,
    /// From when on it is urgent, as of now.
    pub urgent_at: Option<Timestamp>,
    /// When it was submitted.
    pub submitted_at: Timestamp,
    /// Where in its life it is.
    pub phase: TaskPhase,
    /// The attempts that have ended, oldest first.
    pub attempts: Vec<Attempt>,
}

impl Task {
    /// Whether it is still to be done.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        !matches!(self.phase, TaskPhase::Ended(_))
    }

    /// The hold on it, if an agent has one.
    #[must_use]
    pub fn lease(&self) -> Option<&TaskLease> {
        match &self.phase {
            TaskPhase::Running(lease) => Some(lease),
            TaskPhase::Queued | TaskPhase::Ended(_) => None,
        }
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn end(&self) -> Option<&TaskEnd> {
        match &self.phase {
            TaskPhase::Ended(end) => Some(end),
            TaskPhase::Queued | TaskPhase::Running(_) => None,
        }
    }

    /// How many bytes of texts are kept of it: those of its submitter, what came of it, and what went wrong.
    pub(super) fn bytes(&self) -> u64 {
        let output = self.end().and_then(|end| end.output.as_ref()).map_or(0, |output| output.as_str().len());
        let attempts: u64 = self.attempts.iter().map(Attempt::bytes).sum();
        self.spec.text_bytes() + output as u64 + attempts
    }
}

/// A task with its place in the books.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct TaskRecord {
    pub(super) task: Task,
    /// Its lane while it is open.
    pub(super) lane: Slot,
}

impl Keyed for TaskRecord {
    type Key = TaskId;

    fn key(&self) -> &TaskId {
        &self.task.spec.task
    }
}
