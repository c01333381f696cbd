//! `submit_task`: puts a task into the queue.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, AnyParameter, ArgumentError, Arguments, Parameter, TOKENS_MAX};
use crate::results::{deferred_reason, priority_of_task};
use crate::server::ServerOptions;
use cortex_core::fleet::agent::Capabilities;
use cortex_core::fleet::task::{Complexity, JsonText, Selector, TaskRequest, TokenHints};
use cortex_core::ids::{AgentType, BatchKey, JobId, TaskId};
use cortex_core::priority::Priority;
use cortex_core::time::{Timestamp, TtlSeconds};
use cortex_engine::{CancelHandle, Submitted};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::{JsonObject, Tool};
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

/// The default of `max_attempts`.
const ATTEMPTS_DEFAULT: u32 = 3;

/// The most attempts at a task.
const ATTEMPTS_MAX: u32 = 100;

pub(super) struct SubmitTask {
    default_lease: TtlSeconds,
    task_id: Parameter<TaskId>,
    job_id: Parameter<JobId>,
    agent_type: Parameter<AgentType>,
    capabilities: Parameter<Capabilities>,
    priority: Parameter<Priority>,
    estimated_tokens: Parameter<u64>,
    complexity: Parameter<Complexity>,
    input: Parameter<u64>,
    deadline: Parameter<Timestamp>,
    batch_key: Parameter<BatchKey>,
    payload: Parameter<JsonText>,
    max_attempts: Parameter<u64>,
    lease_seconds: Parameter<u64>,
}

impl SubmitTask {
    pub(super) fn new(options: &ServerOptions) -> Self {
        let task_id = "Your own id: a repeat with it returns the first task. Set it if you may retry.";
        let job_id = "Job whose token budget, if any, the task counts towards.";
        let priority = "LOW is best effort, CRITICAL for emergencies.";
        let tokens = "Per attempt. If absent, estimated from complexity and input, or from similar past tasks.";
        let input = "Only its length is used, to estimate tokens; what the agent needs goes into payload.";
        let deadline = "RFC 3339 with offset. As it approaches, the task goes before others of its priority.";
        let batch_key = "Tasks with the same key go to one agent together if it has capacity.";
        let lease = "Time per attempt: an agent that has not reported by then loses the task.";
        Self {
            default_lease: options.task_lease,
            task_id: arguments::task_id(task_id),
            job_id: arguments::name("job_id", job_id, JobId::new),
            agent_type: arguments::name("agent_type", "Only agents of this type may take it.", AgentType::new),
            capabilities: arguments::capabilities("Only agents with all of these may take it."),
            priority: arguments::task_priority(priority).with_default(priority_of_task(Priority::default())),
            estimated_tokens: arguments::integer("estimated_tokens", tokens, 1..=TOKENS_MAX),
            complexity: arguments::complexity("To estimate tokens.").with_default(Complexity::default().as_str()),
            input: arguments::text_length("input", input),
            deadline: arguments::timestamp("deadline", deadline),
            batch_key: arguments::name("batch_key", batch_key, BatchKey::new),
            payload: arguments::any_json("payload", "Any JSON up to 64 KiB, passed to the agent unchanged."),
            max_attempts: arguments::integer("max_attempts", "", 1..=u64::from(ATTEMPTS_MAX))
                .with_default(ATTEMPTS_DEFAULT),
            lease_seconds: arguments::integer("lease_seconds", lease, 1..=options.ttl_seconds_max)
                .with_default(options.task_lease.as_seconds()),
        }
    }

    fn parameters(&self) -> [&dyn AnyParameter; 13] {
        [
            &self.task_id,
            &self.job_id,
            &self.agent_type,
            &self.capabilities,
            &self.priority,
            &self.estimated_tokens,
            &self.complexity,
            &self.input,
            &self.deadline,
            &self.batch_key,
            &self.payload,
            &self.max_attempts,
            &self.lease_seconds,
        ]
    }

    fn read(&self, given: Option<JsonObject>) -> Result<TaskRequest, ArgumentError> {
        let arguments = Arguments::new(given, &self.parameters())?;
        let attempts = arguments.optional(&self.max_attempts)?;
        Ok(TaskRequest {
            task: arguments.optional(&self.task_id)?,
            job: arguments.optional(&self.job_id)?,
            selector: Selector {
                agent_type: arguments.optional(&self.agent_type)?,
                capabilities: arguments.optional(&self.capabilities)?.unwrap_or_default(),
            },
            priority: arguments.optional(&self.priority)?.unwrap_or_default(),
            tokens: TokenHints {
                given: arguments.optional(&self.estimated_tokens)?,
                complexity: arguments.optional(&self.complexity)?.unwrap_or_default(),
                input_characters: arguments.optional(&self.input)?.unwrap_or(0),
            },
            deadline: arguments.optional(&self.deadline)?,
            batch: arguments.optional(&self.batch_key)?,
            payload: arguments.optional(&self.payload)?,
            attempts_max: attempts.and_then(|count| u32::try_from(count).ok()).unwrap_or(ATTEMPTS_DEFAULT),
            lease_seconds: arguments
                .optional(&self.lease_seconds)?
                .and_then(TtlSeconds::new)
                .unwrap_or(self.default_lease),
        })
    }
}

impl ToolHandler for SubmitTask {
    fn name(&self) -> &'static str {
        "submit_task"
    }

    fn describe(&self) -> Tool {
        definition::<TaskSubmitResult>(
            self.name(),
            "Submit task",
            "Queue a task for agents (claim_task, assign_task). Returns its task_id immediately; follow it with \
             get_task. State \"deferred\": no tokens are left, so it waits until the budget refills or is raised \
             (set_token_budget). A failed, late or lost attempt returns to the queue until max_attempts.",
            &self.parameters(),
            &Hints { is_read_only: false, is_destructive: false, is_idempotent: false },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let request = self.read(invocation.arguments)?;
            let cancel_handle = CancelHandle::default();
            // If the call is cancelled, the caller does not receive the id: the task would be done for nothing. This is
            // registered before the task is submitted, as with request_resources.
            if let Some(call) = &invocation.call {
                let (engine, cancel_handle) = (invocation.engine.clone(), cancel_handle.clone());
                call.undo_if_cancelled(move || engine.cancel(cancel_handle));
            }
            let submitted = invocation.engine.submit_task(request, cancel_handle).await?;
            ToolOutput::new(&TaskSubmitResult::from(&submitted))
        }
        .boxed()
    }
}

/// The result of submit_task.
#[derive(Serialize, JsonSchema)]
struct TaskSubmitResult {
    /// `submitted`, or `already_submitted` if this repeats an earlier call with the same `task_id`.
    status: &'static str,
    task_id: String,
    /// The job that it belongs to.
    job_id: Option<String>,
    /// `queued`, or `deferred` if there are no tokens for it; for a repeat, the current state.
    state: &'static str,
    /// `insufficient_tokens`, or `insufficient_job_tokens` of its job's own budget; null if it is not deferred.
    deferred_reason: Option<String>,
    /// `CRITICAL`, `HIGH`, `MEDIUM` or `LOW`.
    priority: &'static str,
    /// Registered agents that may take it, now or later.
    able_agents: u64,
    /// Tokens that an attempt is expected to take, and reserves.
    estimated_tokens: u64,
    /// Whether the server estimated them.
    is_estimated: bool,
    /// The time by which it should be done.
    deadline: Option<String>,
    /// The time limit of an attempt, in seconds.
    lease_seconds: u64,
    /// The most attempts.
    max_attempts: u32,
    submitted_at: String,
}

impl From<&Submitted> for TaskSubmitResult {
    fn from(submitted: &Submitted) -> Self {
        let view = &submitted.detail.view;
        let spec = &view.task.spec;
        Self {
            status: if submitted.is_new { "submitted" } else { "already_submitted" },
            task_id: spec.task.to_string(),
            job_id: spec.request.job.as_ref().map(ToString::to_string),
            state: view.state.as_str(),
            deferred_reason: deferred_reason(view),
            priority: priority_of_task(view.task.priority),
            able_agents: submitted.detail.able_agents,
            estimated_tokens: spec.estimated_tokens,
            is_estimated: spec.request.tokens.given.is_none(),
            deadline: view.task.deadline.map(|at| at.to_string()),
            lease_seconds: spec.request.lease_seconds.as_seconds(),
            max_attempts: spec.request.attempts_max,
            submitted_at: view.task.submitted_at.to_string(),
        }
    }
}
