//! A task that an agent holds, as claim_task and assign_task show it.

use super::priority_of_task;
use cortex_core::fleet::view::TaskView;
use schemars::JsonSchema;
use serde::Serialize;

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

impl LeasedTask {
    /// Returns nothing if no agent holds the task.
    pub(crate) fn new(view: &TaskView) -> Option<Self> {
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
    pub(crate) fn bytes(&self) -> usize {
        let names = [Some(&self.task_id), self.job_id.as_ref(), self.batch_key.as_ref()];
        let characters: usize = names.into_iter().flatten().map(|name| name.chars().count()).sum();
        TASK_BYTES + NAME_CHARACTER_BYTES * characters
    }
}
