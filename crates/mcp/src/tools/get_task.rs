//! `get_task`: reads one task back.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition, unknown_task};
use crate::arguments::{self, Arguments, Parameter};
use crate::results::{attempts_left, deferred_reason, priority_of_task, raw_json};
use cortex_core::fleet::task::{Attempt, TaskState};
use cortex_core::fleet::view::TaskView;
use cortex_core::ids::TaskId;
use cortex_engine::TaskDetail;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::sync::Arc;

pub(super) struct GetTask {
    task_id: Parameter<TaskId>,
}

impl GetTask {
    pub(super) fn new() -> Self {
        Self { task_id: arguments::task_id("From submit_task.").required() }
    }
}

impl ToolHandler for GetTask {
    fn name(&self) -> &'static str {
        "get_task"
    }

    fn describe(&self) -> Tool {
        definition::<TaskResult>(
            self.name(),
            "Get task",
            "Read one task: state, holder, past attempts with errors, payload and output. Ended tasks stay \
             readable for a while.",
            &[&self.task_id],
            &Hints { is_read_only: true, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &[&self.task_id])?;
            let task = arguments.required(&self.task_id)?;
            let wanted = task.clone();
            let detail = invocation.engine.read(move |state, now| state.task(now, &wanted)).await?;
            let detail = detail.ok_or_else(|| unknown_task(task))?;
            ToolOutput::new(&TaskResult::from(&detail))
        }
        .boxed()
    }
}

/// An ended attempt at a task.
#[derive(Serialize, JsonSchema)]
struct TaskAttempt {
    /// Its number, from 1.
    attempt: u64,
    agent_id: String,
    fencing_token: u64,
    /// `success`, `failure` or `timeout` as reported; `lease_expired`, `agent_lost`, `agent_unregistered` or
    /// `allocation_ended` if nothing was reported in time; `cancelled` with the task.
    outcome: &'static str,
    /// The tokens that it took, as far as known.
    tokens_used: u64,
    duration_ms: u64,
    /// The reported error, if any.
    error: Option<String>,
    started_at: String,
    ended_at: String,
}

/// The lease of a task.
#[derive(Serialize, JsonSchema)]
struct TaskLeaseHeld {
    agent_id: String,
    /// The token for complete_task.
    fencing_token: u64,
    /// The attempt's number, from 1.
    attempt: u64,
    leased_at: String,
    /// The time by which the agent has to report.
    expires_at: String,
}

/// Times of a task.
#[derive(Serialize, JsonSchema)]
struct TaskTimestamps {
    submitted_at: String,
    /// The start of the current or else the last attempt; null without one.
    started_at: Option<String>,
    /// Null while it has not ended.
    ended_at: Option<String>,
    /// Seconds since it was submitted.
    age_seconds: u64,
}

/// The result of get_task.
#[derive(Serialize, JsonSchema)]
struct TaskResult {
    task_id: String,
    /// The job that it belongs to.
    job_id: Option<String>,
    /// `queued`, `deferred`, `running`, `completed`, `failed` or `cancelled`.
    state: &'static str,
    /// `insufficient_tokens`, or `insufficient_job_tokens` of its job's own budget; null if it is not deferred.
    deferred_reason: Option<String>,
    /// `CRITICAL`, `HIGH`, `MEDIUM` or `LOW`.
    priority: &'static str,
    /// The priority raised by its wait; null unless it waits.
    effective_priority: Option<&'static str>,
    /// The type of agent that may take it; null for any.
    agent_type: Option<String>,
    /// Capabilities that an agent needs to take it.
    capabilities: Vec<String>,
    /// Registered agents that may take it, now or later; null once it has ended.
    able_agents: Option<u64>,
    /// Tasks with the same key go to one agent together.
    batch_key: Option<String>,
    /// Tokens that an attempt is expected to take, and reserves.
    estimated_tokens: u64,
    /// Whether the server estimated them.
    is_estimated: bool,
    /// `simple`, `medium` or `complex`.
    complexity: &'static str,
    /// The length of the input for the estimate.
    input_characters: u64,
    /// The time by which it should be done.
    deadline: Option<String>,
    /// The time limit of an attempt, in seconds.
    lease_seconds: u64,
    /// The most attempts.
    max_attempts: u32,
    /// Attempts that remain, without the current one; 0 once it has ended.
    attempts_left: u64,
    /// Ended attempts, oldest first.
    attempts: Vec<TaskAttempt>,
    /// Null unless it is running.
    lease: Option<TaskLeaseHeld>,
    /// The payload for its agent.
    #[schemars(with = "Value")]
    payload: Option<Box<RawValue>>,
    /// Null unless it is completed.
    #[schemars(with = "Value")]
    output: Option<Box<RawValue>>,
    /// The reported error of the last attempt, if any.
    error: Option<String>,
    /// The tokens of all its attempts, as far as known.
    tokens_used: u64,
    timestamps: TaskTimestamps,
}

impl TaskAttempt {
    fn new(number: usize, attempt: &Attempt) -> Self {
        Self {
            attempt: number as u64 + 1,
            agent_id: attempt.agent.to_string(),
            fencing_token: attempt.fencing_token.as_u64(),
            outcome: attempt.outcome.as_str(),
            tokens_used: attempt.tokens_used,
            duration_ms: attempt.duration_ms.0,
            error: attempt.error.as_deref().map(str::to_owned),
            started_at: attempt.started_at.to_string(),
            ended_at: attempt.ended_at.to_string(),
        }
    }
}

impl TaskLeaseHeld {
    fn new(view: &TaskView) -> Option<Self> {
        let lease = view.task.lease()?;
        Some(Self {
            agent_id: lease.agent.to_string(),
            fencing_token: lease.fencing_token.as_u64(),
            attempt: view.task.attempts.len() as u64 + 1,
            leased_at: lease.leased_at.to_string(),
            expires_at: view.lease_expires_at.unwrap_or(lease.deadline).to_string(),
        })
    }
}

impl From<&TaskDetail> for TaskResult {
    fn from(TaskDetail { view, able_agents }: &TaskDetail) -> Self {
        let TaskView { at, task, state, .. } = view;
        let request = &task.spec.request;
        let is_waiting = matches!(state, TaskState::Queued | TaskState::Deferred);
        let last = task.attempts.last();
        let started_at = task.lease().map(|lease| lease.leased_at).or(last.map(|attempt| attempt.started_at));
        Self {
            task_id: task.spec.task.to_string(),
            job_id: request.job.as_ref().map(ToString::to_string),
            state: state.as_str(),
            deferred_reason: deferred_reason(view),
            priority: priority_of_task(task.priority),
            effective_priority: is_waiting.then(|| priority_of_task(view.effective_priority)),
            agent_type: request.selector.agent_type.as_ref().map(ToString::to_string),
            capabilities: request.selector.capabilities.as_slice().iter().map(ToString::to_string).collect(),
            able_agents: state.is_open().then_some(*able_agents),
            batch_key: request.batch.as_ref().map(ToString::to_string),
            estimated_tokens: task.spec.estimated_tokens,
            is_estimated: request.tokens.given.is_none(),
            complexity: request.tokens.complexity.as_str(),
            input_characters: request.tokens.input_characters,
            deadline: task.deadline.map(|at| at.to_string()),
            lease_seconds: request.lease_seconds.as_seconds(),
            max_attempts: request.attempts_max,
            attempts_left: attempts_left(task),
            attempts: task.attempts.iter().enumerate().map(|(at, attempt)| TaskAttempt::new(at, attempt)).collect(),
            lease: TaskLeaseHeld::new(view),
            payload: request.payload.as_ref().and_then(raw_json),
            output: task.end().and_then(|end| end.output.as_ref()).and_then(raw_json),
            error: last.and_then(|attempt| attempt.error.as_deref()).map(str::to_owned),
            tokens_used: task.attempts.iter().fold(0, |sum, attempt| sum.saturating_add(attempt.tokens_used)),
            timestamps: TaskTimestamps {
                submitted_at: task.submitted_at.to_string(),
                started_at: started_at.map(|at| at.to_string()),
                ended_at: task.end().map(|end| end.at.to_string()),
                age_seconds: at.since(task.submitted_at).as_seconds(),
            },
        }
    }
}
