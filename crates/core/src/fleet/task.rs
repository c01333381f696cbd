//! Tasks: units of work in the queue, from submission to the removal of the record.

use super::super::ids::{AgentId, AgentType, BatchKey, FencingToken, JobId, TaskId, TaskNumber};
use super::super::priority::Priority;
use super::super::table::{Keyed, Slot};
use super::super::time::{Millis, Timestamp, TtlSeconds};
use super::agent::Capabilities;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// A JSON value, stored as text: the payload or the result of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JsonText(Arc<str>);

impl JsonText {
    /// Serializes a value. Equal values have equal texts, whatever the order of their keys.
    #[must_use]
    pub fn new(value: &serde_json::Value) -> Self {
        // `serde_json` keeps the keys of objects in order.
        Self(Arc::from(value.to_string()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The agents that may take a task: those of one type, or of any type, that have all the capabilities.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// The required type; any type if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_type: Option<AgentType>,
    pub capabilities: Capabilities,
}

impl Selector {
    /// Whether an agent of this type with these capabilities may take the task.
    pub(super) fn admits(&self, agent_type: &AgentType, capabilities: &Capabilities) -> bool {
        self.agent_type.as_ref().is_none_or(|wanted| wanted == agent_type)
            && capabilities.contains_all(&self.capabilities)
    }
}

/// The complexity of a task, as its submitter estimates it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Complexity {
    /// Half the tokens of a medium task.
    Simple,
    #[default]
    Medium,
    /// Twice the tokens of a medium task.
    Complex,
}

impl Complexity {
    /// All values, in ascending order.
    pub const ALL: [Self; 3] = [Self::Simple, Self::Medium, Self::Complex];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Medium => "medium",
            Self::Complex => "complex",
        }
    }
}

/// What the submitter knows about the tokens that a task will use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenHints {
    /// The submitter's own estimate. If absent, the estimate is derived from the other fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<u64>,
    pub complexity: Complexity,
    /// The length of the input in characters.
    pub input_characters: u64,
}

/// Returns the names of the arguments that differ.
pub(super) fn differing<const COUNT: usize>(arguments: [(&'static str, bool); COUNT]) -> Vec<&'static str> {
    arguments.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

/// A task as its submitter describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskRequest {
    /// The submitter's own id, which makes a repeated submission idempotent; generated if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    pub selector: Selector,
    pub priority: Priority,
    pub tokens: TokenHints,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// The batch key: tasks with the same key go to the same agent where possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchKey>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<JsonText>,
    /// The maximum number of attempts; at least 1.
    pub attempts_max: u32,
    /// The duration of the lease of one attempt.
    pub lease_seconds: TtlSeconds,
}

impl TaskRequest {
    /// Returns the names of the arguments that differ in another request.
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

    /// The bytes of text that its submitter chose.
    pub(super) fn text_bytes(&self) -> u64 {
        let payload = self.payload.as_ref().map_or(0, |payload| payload.as_str().len());
        let job = self.job.as_ref().map_or(0, |job| job.as_str().len());
        let batch = self.batch.as_ref().map_or(0, |batch| batch.as_str().len());
        // Equal selectors are stored once, but count for each task.
        let agent_type = self.selector.agent_type.as_ref().map_or(0, |agent_type| agent_type.as_str().len());
        let capabilities: usize = self.selector.capabilities.as_slice().iter().map(|one| one.as_str().len()).sum();
        (payload + job + batch + agent_type + capabilities) as u64
    }
}

/// A task as it was accepted. It never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    pub task: TaskId,
    /// Its position in the order of submission.
    pub number: TaskNumber,
    /// The tokens that an attempt is estimated to use, and reserves.
    pub estimated_tokens: u64,
    /// When the task becomes urgent, if it has a deadline: the time at which its slack is used up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urgent_at: Option<Timestamp>,
    pub request: TaskRequest,
}

impl TaskSpec {
    /// The bytes that count towards `max_task_bytes`: the texts that its submitter chose.
    pub(super) fn text_bytes(&self) -> u64 {
        self.task.as_str().len() as u64 + self.request.text_bytes()
    }
}

/// The state of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Waiting for an agent.
    Queued,
    /// Waiting for tokens.
    Deferred,
    /// Held by an agent.
    Running,
    Completed,
    /// The last permitted attempt failed.
    Failed,
    Cancelled,
}

impl TaskState {
    /// All states, in the order of the life cycle.
    pub const ALL: [Self; 6] =
        [Self::Queued, Self::Deferred, Self::Running, Self::Completed, Self::Failed, Self::Cancelled];

    /// The name on the wire.
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

    /// Whether a task in this state has not ended.
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
    /// The agent reported success.
    Success,
    /// The agent reported a failure.
    Failure,
    /// The agent reported a timeout.
    Timeout,
    /// The lease expired without a report.
    LeaseExpired,
    /// The agent missed three heartbeats.
    AgentLost,
    /// The agent was unregistered.
    AgentUnregistered,
    /// The allocation of the agent ended.
    AllocationEnded,
    /// The task was cancelled.
    Cancelled,
}

impl AttemptOutcome {
    /// The name on the wire.
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

/// The end of an attempt, as its event records it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttemptEnd {
    /// The token of the attempt's lease.
    pub fencing_token: FencingToken,
    pub outcome: AttemptOutcome,
    /// The tokens used, as far as known.
    pub tokens_used: u64,
    /// Whether the agent reported no figure, so that the estimate is booked.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_estimated: bool,
    /// How long the attempt took, in milliseconds.
    pub duration_ms: Millis,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<JsonText>,
    /// The state of the task after the attempt: queued, completed, failed or cancelled.
    pub then: TaskState,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// An attempt that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// The token of its lease.
    pub fencing_token: FencingToken,
    /// The agent that held the task.
    pub agent: AgentId,
    pub started_at: Timestamp,
    pub ended_at: Timestamp,
    pub outcome: AttemptOutcome,
    /// The tokens used, as far as known.
    pub tokens_used: u64,
    /// How long it took, as reported by the agent or as measured.
    pub duration_ms: Millis,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Arc<str>>,
}

impl Attempt {
    /// The bytes of text stored for it. The agent's id does not count, since all its attempts share it.
    pub(super) fn bytes(&self) -> u64 {
        self.error.as_ref().map_or(0, |error| error.len() as u64)
    }
}

/// A lease on a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskLease {
    /// The holder.
    pub agent: AgentId,
    pub fencing_token: FencingToken,
    pub leased_at: Timestamp,
    /// The deadline, without the grace after an outage.
    pub deadline: Timestamp,
}

/// The phase of a task, with the data that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskPhase {
    /// Waiting for an agent or for tokens.
    Queued,
    /// Held by an agent.
    Running(Box<TaskLease>),
    Ended(Box<TaskEnd>),
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskEnd {
    /// Completed, failed or cancelled.
    pub state: TaskState,
    pub at: Timestamp,
    /// The result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<JsonText>,
}

/// A task in the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// The task as it was accepted.
    pub spec: Arc<TaskSpec>,
    /// The current priority.
    pub priority: Priority,
    /// The current deadline.
    pub deadline: Option<Timestamp>,
    /// When it becomes urgent by the current deadline.
    pub urgent_at: Option<Timestamp>,
    pub submitted_at: Timestamp,
    pub phase: TaskPhase,
    /// The attempts that have ended, oldest first.
    pub attempts: Vec<Attempt>,
}

impl Task {
    /// Whether the task has not ended.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        !matches!(self.phase, TaskPhase::Ended(_))
    }

    /// The lease on the task, if it is running.
    #[must_use]
    pub fn lease(&self) -> Option<&TaskLease> {
        match &self.phase {
            TaskPhase::Running(lease) => Some(lease),
            TaskPhase::Queued | TaskPhase::Ended(_) => None,
        }
    }

    /// How the task ended, if it has.
    #[must_use]
    pub fn end(&self) -> Option<&TaskEnd> {
        match &self.phase {
            TaskPhase::Ended(end) => Some(end),
            TaskPhase::Queued | TaskPhase::Running(_) => None,
        }
    }

    /// The bytes of text stored for it: the submitter's texts, the result and the errors.
    pub(super) fn bytes(&self) -> u64 {
        let output = self.end().and_then(|end| end.output.as_ref()).map_or(0, |output| output.as_str().len());
        let attempts: u64 = self.attempts.iter().map(Attempt::bytes).sum();
        self.spec.text_bytes() + output as u64 + attempts
    }
}

/// A task with its lane in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct TaskRecord {
    pub(super) task: Task,
    /// The task's lane while it is open.
    pub(super) lane: Slot,
}

impl Keyed for TaskRecord {
    type Key = TaskId;

    fn key(&self) -> &TaskId {
        &self.task.spec.task
    }
}
