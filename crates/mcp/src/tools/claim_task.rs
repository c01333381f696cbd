//! `claim_task`: leases the best task to the agent that calls.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, AnyParameter, Arguments, Parameter};
use crate::progress::Progress;
use crate::results::{LeasedTask, raw_json};
use crate::server::ServerOptions;
use cortex_core::fleet::command::NoTaskReason;
use cortex_core::fleet::task::JsonText;
use cortex_core::fleet::view::TaskView;
use cortex_core::ids::AgentId;
use cortex_engine::{CancelHandle, Claim, EngineError, EngineHandle};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// The longest wait of a claim, in seconds: well under the minute after which some clients time out.
const WAIT_SECONDS_MAX: u64 = 30;

pub(super) struct ClaimTask {
    agent_id: Parameter<AgentId>,
    wait_seconds: Parameter<u64>,
    /// Permits for claims of this connection that wait.
    wait_permits: Arc<Semaphore>,
}

impl ClaimTask {
    pub(super) fn new(options: &ServerOptions) -> Self {
        let wait = "How long to wait if there is no task.";
        Self {
            agent_id: arguments::agent_id(),
            wait_seconds: arguments::integer("wait_seconds", wait, 0..=WAIT_SECONDS_MAX).with_default(0),
            wait_permits: Arc::new(Semaphore::new(options.claims_waiting_max)),
        }
    }

    fn parameters(&self) -> [&dyn AnyParameter; 2] {
        [&self.agent_id, &self.wait_seconds]
    }
}

impl ToolHandler for ClaimTask {
    fn name(&self) -> &'static str {
        "claim_task"
    }

    fn describe(&self) -> Tool {
        definition::<ClaimResult>(
            self.name(),
            "Claim task",
            "Take the best waiting task for this agent, with others of its batch_key. Do each and call \
             complete_task with its fencing_token before lease_expires_at: after that the task goes to another \
             agent and the report is refused. Status \"none\" has a reason: no_task (repeat with wait_seconds), \
             agent_is_full (complete a task first), no_tokens (wait, or raise the budget with set_token_budget), \
             draining (report what you hold, then stop). Waiting counts as a heartbeat. Call register_agent first.",
            &self.parameters(),
            &Hints { is_read_only: false, is_destructive: false, is_idempotent: false },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let Invocation { engine, arguments, call, progress, closing, .. } = invocation;
            let arguments = Arguments::new(arguments, &self.parameters())?;
            let agent = arguments.required(&self.agent_id)?;
            let wait = Duration::from_secs(arguments.optional(&self.wait_seconds)?.unwrap_or(0));
            // If the call is cancelled, the agent does not receive the tasks: they would be held until their leases
            // expire. This is registered before the claim, as with request_resources.
            let cancel_handle = || {
                let cancel_handle = CancelHandle::default();
                if let Some(call) = &call {
                    let (engine, cancel_handle) = (engine.clone(), cancel_handle.clone());
                    call.undo_if_cancelled(move || engine.cancel(cancel_handle));
                }
                cancel_handle
            };
            // At the end of the input, or without a permit, a claim does not wait.
            let permit = if wait.is_zero() { None } else { self.wait_permits.try_acquire().ok() };
            let wait = if closing.is_cancelled() || permit.is_none() { Duration::ZERO } else { wait };
            let waiting = cancel_handle();
            let claim = tokio::select! {
                biased;
                claim = claim_within(&engine, agent.clone(), wait, waiting.clone(), progress) => claim?,
                // rmcp waits for calls in flight, so that the wait ends here. A task that is available is still leased,
                // as to any other call before the end of the input.
                () = closing.cancelled(), if !wait.is_zero() => {
                    engine.cancel(waiting);
                    engine.claim_task(agent, Duration::ZERO, cancel_handle()).await?
                }
            };
            ToolOutput::new(&ClaimResult::from(&claim))
        }
        .boxed()
    }
}

async fn claim_within(
    engine: &EngineHandle,
    agent: AgentId,
    wait: Duration,
    cancel_handle: CancelHandle,
    progress: Option<Progress>,
) -> Result<Claim, EngineError> {
    let claim = engine.claim_task(agent, wait, cancel_handle);
    match progress.filter(|_| !wait.is_zero()) {
        Some(progress) => progress.while_waiting("no task yet: waiting for one", Some(wait), claim).await,
        None => claim.await,
    }
}

/// The most bytes of the result of a claim, text and data together. Some clients drop the connection on a result of
/// over 10 MiB.
const CLAIM_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A claimed task with its payload.
#[derive(Serialize, JsonSchema)]
struct ClaimedTask {
    #[serde(flatten)]
    lease: LeasedTask,
    /// The submitter's payload; null without one.
    #[schemars(with = "Value")]
    payload: Option<Box<RawValue>>,
    /// True if the payload is left out because the result would be too long: get_task has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_omitted: Option<bool>,
}

/// The result of claim_task.
#[derive(Serialize, JsonSchema)]
struct ClaimResult {
    /// `claimed`, or `none` if there was no task for the agent.
    status: &'static str,
    count: u64,
    /// The best task first; several if they share a `batch_key`.
    tasks: Vec<ClaimedTask>,
    /// `no_task`, `agent_is_full`, `no_tokens` or `draining`; absent if a task was claimed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// The reason in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// Returns the bytes that a payload takes in a result, once as data and once as text, where quotes and backslashes are
/// escaped again.
fn payload_bytes(payload: &JsonText) -> usize {
    let text = payload.as_str();
    2 * text.len() + text.bytes().filter(|byte| matches!(byte, b'"' | b'\\')).count()
}

impl From<&Claim> for ClaimResult {
    fn from(claim: &Claim) -> Self {
        match claim {
            Claim::Tasks { tasks, .. } => Self::of_tasks(tasks),
            Claim::Nothing(why) => Self {
                status: "none",
                count: 0,
                tasks: Vec::new(),
                reason: Some(match why {
                    NoTaskReason::Draining => "draining",
                    NoTaskReason::AgentFull => "agent_is_full",
                    NoTaskReason::NoTask => "no_task",
                    NoTaskReason::NoTokens => "no_tokens",
                }),
                detail: Some(why.to_string()),
            },
        }
    }
}

impl ClaimResult {
    fn of_tasks(views: &[TaskView]) -> Self {
        let leases: Vec<(&TaskView, LeasedTask)> =
            views.iter().filter_map(|view| Some((view, LeasedTask::new(view)?))).collect();
        let mut left = CLAIM_BYTES_MAX.saturating_sub(leases.iter().map(|(_, lease)| lease.bytes()).sum());
        let tasks: Vec<ClaimedTask> = leases
            .into_iter()
            .map(|(view, lease)| {
                let given = view.task.spec.request.payload.as_ref();
                let fits = given.is_none_or(|payload| match left.checked_sub(payload_bytes(payload)) {
                    Some(rest) => {
                        left = rest;
                        true
                    }
                    None => false,
                });
                let payload = given.filter(|_| fits).and_then(raw_json);
                ClaimedTask { lease, payload, payload_omitted: (!fits).then_some(true) }
            })
            .collect();
        Self { status: "claimed", count: tasks.len() as u64, tasks, reason: None, detail: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cortex_core::fleet::task::{
        Complexity, Selector, Task, TaskLease, TaskPhase, TaskRequest, TaskSpec, TaskState, TokenHints,
    };
    use cortex_core::ids::{AgentId, BatchKey, FencingToken, JobId, TaskId, TaskNumber};
    use cortex_core::priority::Priority;
    use cortex_core::time::{Timestamp, TtlSeconds};
    use std::sync::Arc;

    /// A leased task whose names are this character 256 times.
    fn named(character: char, payload: Option<&Value>) -> TaskView {
        let at = Timestamp::from_millis(0);
        let name = character.to_string().repeat(256);
        let request = TaskRequest {
            task: None,
            job: JobId::new(&name).ok(),
            selector: Selector::default(),
            priority: Priority::Normal,
            tokens: TokenHints { given: None, complexity: Complexity::Medium, input_characters: 0 },
            deadline: None,
            batch: BatchKey::new(&name).ok(),
            payload: payload.map(JsonText::new),
            attempts_max: 3,
            lease_seconds: TtlSeconds::new(60).expect("a time"),
        };
        let task = TaskId::new(&name).expect("a name");
        let spec = TaskSpec {
            task,
            number: TaskNumber::new(u64::MAX),
            estimated_tokens: 1_000_000_000_000,
            urgent_at: None,
            request,
        };
        let lease = TaskLease {
            agent: AgentId::new("agent").expect("a name"),
            fencing_token: FencingToken::new(u64::MAX),
            leased_at: at,
            deadline: at,
        };
        let task = Task {
            spec: Arc::new(spec),
            priority: Priority::Critical,
            deadline: Some(at),
            urgent_at: None,
            submitted_at: at,
            phase: TaskPhase::Running(Box::new(lease)),
            attempts: Vec::new(),
        };
        TaskView {
            at,
            task,
            state: TaskState::Running,
            deferral: None,
            effective_priority: Priority::Critical,
            lease_expires_at: Some(at),
        }
    }

    fn view(payload: Option<&Value>) -> TaskView {
        named('😀', payload)
    }

    fn claim(views: Vec<TaskView>) -> Value {
        let claim = Claim::Tasks { at: Timestamp::from_millis(0), tasks: views };
        serde_json::to_value(ClaimResult::from(&claim)).expect("JSON")
    }

    #[test]
    fn payloads_are_left_out_where_the_answer_would_be_too_long() {
        // Every byte of it is escaped, and escaped again in the text.
        let payload = Value::from("\"".repeat(32_000));
        let given = claim((0..200).map(|_| view(Some(&payload))).collect());
        let text = given.to_string();
        let bytes = text.len() + serde_json::to_string(&text).expect("JSON").len();
        assert!(bytes <= CLAIM_BYTES_MAX, "{bytes}");
        let tasks = given["tasks"].as_array().expect("a list");
        assert_eq!(tasks.len(), 200);
        let kept = tasks.iter().take_while(|task| task["payload"] == payload).count();
        assert!((20..60).contains(&kept), "{kept}");
        for (place, task) in tasks.iter().enumerate() {
            assert_eq!(task["payload"].is_null(), place >= kept, "{place}");
            assert_eq!(task.get("payload_omitted").is_some_and(|omitted| omitted == true), place >= kept, "{place}");
        }
    }

    #[test]
    fn a_task_without_a_payload_has_null_in_its_place() {
        let given = claim(vec![view(None)]);
        assert_eq!(given["tasks"][0]["payload"], Value::Null);
        assert_eq!(given["tasks"][0].get("payload_omitted"), None);
    }

    #[test]
    fn the_longest_names_fit_what_is_reckoned_for_them() {
        for character in ['😀', '"', '\\', 'é', 'a'] {
            let given = claim(vec![named(character, None)]);
            let text = given["tasks"][0].to_string();
            let bytes = text.len() + serde_json::to_string(&text).expect("JSON").len();
            let reckoned = LeasedTask::new(&named(character, None)).map(|task| task.bytes());
            assert!(reckoned.is_some_and(|reckoned| bytes <= reckoned), "{character}: {bytes} of {reckoned:?}");
        }
        // An agent may hold a thousand at once.
        assert!(LeasedTask::new(&view(None)).is_some_and(|task| 1_000 * task.bytes() <= CLAIM_BYTES_MAX));
    }
}
