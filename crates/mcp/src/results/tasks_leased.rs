//! The results of claim_task and assign_task.

use super::{priority_of_task, raw_json};
use cortex_core::fleet::command::NoTaskReason;
use cortex_core::fleet::task::JsonText;
use cortex_core::fleet::view::TaskView;
use cortex_engine::{Assignment, Claim};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// The most bytes of the result of a claim, text and data together. Some clients drop the connection on a result of
/// over 10 MiB.
const CLAIM_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The most bytes of a task without its names and payload, once as data and once as text.
const TASK_BYTES: usize = 1_200;

/// The most bytes of a character of a name, once as data and once as text: four twice, or a quote that is escaped, and
/// escaped again in the text.
const NAME_CHARACTER_BYTES: usize = 8;

/// A leased task.
#[derive(Serialize, JsonSchema)]
pub(crate) struct LeasedTask {
    task_id: String,
    /// The token for complete_task.
    fencing_token: u64,
    /// Report before this time, or the task goes to another agent.
    lease_expires_at: String,
    /// The attempt's number, from 1.
    attempt: u64,
    /// The most attempts.
    max_attempts: u32,
    /// `CRITICAL`, `HIGH`, `MEDIUM` or `LOW`.
    priority: &'static str,
    /// Tokens reserved for this attempt.
    estimated_tokens: u64,
    /// The job that it belongs to.
    job_id: Option<String>,
    /// Tasks with the same key go to one agent together.
    batch_key: Option<String>,
    /// The time by which it should be done.
    deadline: Option<String>,
}

/// A claimed task with its payload.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ClaimedTask {
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
pub(crate) struct ClaimResult {
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

/// The result of assign_task.
#[derive(Serialize, JsonSchema)]
pub(crate) struct AssignResult {
    /// `assigned`.
    status: &'static str,
    agent_id: String,
    count: u64,
    /// The requested task first, then others of its `batch_key`. get_task has the payloads.
    tasks: Vec<LeasedTask>,
}

impl LeasedTask {
    /// Returns nothing if no agent holds the task.
    fn new(view: &TaskView) -> Option<Self> {
        let (spec, lease) = (&view.task.spec, view.task.lease()?);
        let request = &spec.request;
        Some(Self {
            task_id: spec.task.to_string(),
            fencing_token: lease.fencing_token.as_u64(),
            lease_expires_at: view.lease_expires_at.unwrap_or(lease.deadline).to_string(),
            attempt: view.task.attempts.len() as u64 + 1,
            max_attempts: request.attempts_max,
            priority: priority_of_task(view.task.priority),
            estimated_tokens: spec.estimated_tokens,
            job_id: request.job.as_ref().map(ToString::to_string),
            batch_key: request.batch.as_ref().map(ToString::to_string),
            deadline: view.task.deadline.map(|at| at.to_string()),
        })
    }

    /// Returns the most bytes that it takes in a result.
    fn bytes(&self) -> usize {
        let names = [Some(&self.task_id), self.job_id.as_ref(), self.batch_key.as_ref()];
        let characters: usize = names.into_iter().flatten().map(|name| name.chars().count()).sum();
        TASK_BYTES + NAME_CHARACTER_BYTES * characters
    }
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

impl From<&Assignment> for AssignResult {
    fn from(assignment: &Assignment) -> Self {
        let tasks: Vec<LeasedTask> = assignment.tasks.iter().filter_map(LeasedTask::new).collect();
        Self { status: "assigned", agent_id: assignment.agent.to_string(), count: tasks.len() as u64, tasks }
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
