//! `complete_task`: records an agent's report on a task.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, change_task, definition};
use crate::arguments::{self, AnyParameter, ArgumentError, Arguments, Parameter, TOKENS_MAX};
use crate::results::{attempts_left, deferred_reason};
use cortex_core::fleet::command::{FleetCommand, FleetOutcome, ReportedResult, TaskReport};
use cortex_core::fleet::task::{JsonText, TaskState};
use cortex_core::fleet::view::TaskView;
use cortex_core::ids::{AgentId, FencingToken, TaskId};
use cortex_core::time::Millis;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

/// The longest duration of an attempt in a report: a year, in milliseconds.
const DURATION_MS_MAX: u64 = 31_536_000_000;

/// The most characters of the error in a report.
const ERROR_CHARACTERS_MAX: usize = 4_096;

/// The results that an agent may report.
const RESULTS: [(&str, ReportedResult); 3] =
    [("success", ReportedResult::Success), ("failure", ReportedResult::Failure), ("timeout", ReportedResult::Timeout)];

pub(super) struct CompleteTask {
    task_id: Parameter<TaskId>,
    agent_id: Parameter<AgentId>,
    fencing_token: Parameter<u64>,
    result: Parameter<ReportedResult>,
    tokens_used: Parameter<u64>,
    duration_ms: Parameter<u64>,
    output: Parameter<JsonText>,
    error: Parameter<Arc<str>>,
}

impl CompleteTask {
    pub(super) fn new() -> Self {
        let token = "As received with the task; an older one is refused.";
        let result = "success ends the task; failure and timeout requeue it until max_attempts.";
        let used = "The estimate if absent.";
        let duration = "The time since the claim if absent.";
        let error = "What went wrong, kept in the history of attempts.";
        let read_result = |text: &str| {
            RESULTS.into_iter().find(|(word, _)| text.eq_ignore_ascii_case(word)).map(|(_, result)| result)
        };
        Self {
            task_id: arguments::task_id("From claim_task.").required(),
            agent_id: arguments::name("agent_id", "", AgentId::new).required(),
            fencing_token: arguments::integer("fencing_token", token, 0..=u64::MAX).required(),
            result: arguments::choice("result", result, &RESULTS.map(|(word, _)| word), read_result).required(),
            tokens_used: arguments::integer("tokens_used", used, 0..=TOKENS_MAX),
            duration_ms: arguments::integer("duration_ms", duration, 0..=DURATION_MS_MAX),
            output: arguments::any_json("output", "Any JSON up to 64 KiB, for get_task."),
            error: arguments::bounded_text("error", error, ERROR_CHARACTERS_MAX),
        }
    }

    fn parameters(&self) -> [&dyn AnyParameter; 8] {
        [
            &self.task_id,
            &self.agent_id,
            &self.fencing_token,
            &self.result,
            &self.tokens_used,
            &self.duration_ms,
            &self.output,
            &self.error,
        ]
    }

    fn read_report(&self, arguments: &Arguments) -> Result<TaskReport, ArgumentError> {
        Ok(TaskReport {
            result: arguments.required(&self.result)?,
            tokens_used: arguments.optional(&self.tokens_used)?,
            duration: arguments.optional(&self.duration_ms)?.map(Millis),
            output: arguments.optional(&self.output)?,
            error: arguments.optional(&self.error)?,
        })
    }
}

impl ToolHandler for CompleteTask {
    fn name(&self) -> &'static str {
        "complete_task"
    }

    fn describe(&self) -> Tool {
        definition::<TaskCompleteResult>(
            self.name(),
            "Complete task",
            "Report the result of a task that the agent holds. Returns \"completed\", \"requeued\" (failed, will \
             be retried), \"failed\" (that was the last attempt) or \"already_reported\" (a repeat). A report by \
             another agent, with an old fencing_token or after the lease expired is refused: drop the work and \
             call claim_task.",
            &self.parameters(),
            &Hints { is_read_only: false, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &self.parameters())?;
            let task = arguments.required(&self.task_id)?;
            let agent = arguments.required(&self.agent_id)?;
            let fencing_token = FencingToken::new(arguments.required(&self.fencing_token)?);
            let report = self.read_report(&arguments)?;
            let report = Box::new(report);
            let command = FleetCommand::Complete { task: task.clone(), agent, fencing_token, report };
            let (outcome, view) = change_task(&invocation.engine, task, command).await?;
            ToolOutput::new(&TaskCompleteResult::new(&outcome, &view, fencing_token))
        }
        .boxed()
    }
}

/// The result of complete_task.
#[derive(Serialize, JsonSchema)]
struct TaskCompleteResult {
    /// `completed`; `requeued` if it failed and will be retried; `failed` if that was its last attempt;
    /// `already_reported` if this attempt was reported before.
    status: &'static str,
    task_id: String,
    /// The current state of the task.
    state: &'static str,
    /// Why it is deferred; null if it is not.
    deferred_reason: Option<String>,
    /// The reported result of this attempt: `success`, `failure` or `timeout`.
    result: Option<&'static str>,
    /// The tokens counted for this attempt.
    tokens_used: u64,
    duration_ms: u64,
    /// Ended attempts, this one included.
    attempts: u64,
    /// The most attempts.
    max_attempts: u32,
    /// Attempts that remain; 0 once it has ended.
    attempts_left: u64,
    /// The time of the report on this attempt.
    reported_at: String,
}

impl TaskCompleteResult {
    /// Builds the result of a report on the attempt with this token.
    fn new(outcome: &FleetOutcome, view: &TaskView, fencing_token: FencingToken) -> Self {
        let task = &view.task;
        let attempt = task.attempts.iter().rfind(|attempt| attempt.fencing_token == fencing_token);
        let state = match outcome {
            FleetOutcome::Reported(left) => left.state,
            _ => view.state,
        };
        let status = match (outcome, state) {
            (FleetOutcome::AlreadyReported { .. }, _) => "already_reported",
            (_, TaskState::Completed) => "completed",
            (_, TaskState::Failed) => "failed",
            _ => "requeued",
        };
        Self {
            status,
            task_id: task.spec.task.to_string(),
            state: view.state.as_str(),
            deferred_reason: deferred_reason(view),
            result: attempt.map(|attempt| attempt.outcome.as_str()),
            tokens_used: attempt.map_or(0, |attempt| attempt.tokens_used),
            duration_ms: attempt.map_or(0, |attempt| attempt.duration_ms.0),
            attempts: task.attempts.len() as u64,
            max_attempts: task.spec.request.attempts_max,
            attempts_left: attempts_left(task),
            reported_at: attempt.map_or(view.at, |attempt| attempt.ended_at).to_string(),
        }
    }
}
