//! Tasks of the model: submission, changes, and the ends of attempts.

use super::agents::FinishedTask;
use super::efficiency::counted_tokens;
use super::{Fleet, Sample, TaskEntry};
use cortex_core::command::Denied;
use cortex_core::event::Event;
use cortex_core::fleet::command::{EndedAttempt, FleetDenied, FleetOutcome, ReportedResult, TaskReport};
use cortex_core::fleet::task::{
    Attempt, AttemptOutcome, JsonText, Task, TaskEnd, TaskLease, TaskPhase, TaskRequest, TaskSpec, TaskState,
};
use cortex_core::ids::{AgentId, FencingToken, TaskId, TaskNumber};
use cortex_core::priority::Priority;
use cortex_core::time::{Millis, Timestamp};
use std::sync::Arc;

/// What is known of an attempt when it ends.
struct Ending {
    outcome: AttemptOutcome,
    tokens_used: u64,
    /// Whether the agent reported no figure.
    is_estimated: bool,
    duration: Millis,
    error: Option<Arc<str>>,
    output: Option<JsonText>,
}

impl Fleet {
    pub(super) fn submit(
        &mut self,
        now: Timestamp,
        request: &TaskRequest,
        random: u64,
        decided: &[Event],
    ) -> Result<FleetOutcome, Denied> {
        if let Some(known) = request.task.as_ref().and_then(|id| self.task_with(id)) {
            if known.spec.request == *request {
                return Ok(FleetOutcome::Submitted { task: known.spec.task.clone(), is_new: false });
            }
            let differs = differences(&known.spec.request, request);
            return Err(FleetDenied::TaskExists { task: known.spec.task.clone(), differs }.into());
        }
        if let Some(deadline) = request.deadline.filter(|deadline| *deadline <= now) {
            return Err(FleetDenied::DeadlinePassed { deadline, now }.into());
        }
        let mut bits = random % (1 << 48);
        while request.task.is_none() && self.task_with(&TaskId::from_bits(bits)).is_some() {
            bits = (bits + 1) % (1 << 48);
        }
        let task = request.task.clone().unwrap_or_else(|| TaskId::from_bits(bits));
        let chosen = decided.iter().find_map(|event| match event {
            Event::TaskSubmitted { task } => Some(task),
            _ => None,
        });
        let spec = TaskSpec {
            task: task.clone(),
            number: TaskNumber::new(self.submitted + 1),
            estimated_tokens: self.estimate(request, chosen.map(|spec| spec.estimated_tokens)),
            urgent_at: self.urgent_at(request, request.deadline, chosen.and_then(|spec| spec.urgent_at)),
            request: request.clone(),
        };
        let open: Vec<&Task> = self.open();
        if open.len() as u64 >= self.settings.tasks_max {
            return Err(FleetDenied::TooManyTasks { limit: self.settings.tasks_max }.into());
        }
        let (held, given, limit) = (self.bytes_held(), text_bytes(&spec), self.settings.task_bytes_max);
        if held + given > limit {
            return Err(FleetDenied::TooManyTaskBytes { held, given, limit }.into());
        }
        self.submitted += 1;
        let task_entry = Task {
            priority: request.priority,
            deadline: request.deadline,
            urgent_at: spec.urgent_at,
            submitted_at: now,
            phase: TaskPhase::Queued,
            attempts: Vec::new(),
            spec: Arc::new(spec),
        };
        self.tasks.push(TaskEntry { task: task_entry, end: None });
        Ok(FleetOutcome::Submitted { task, is_new: true })
    }

    pub(super) fn return_task(&mut self, id: &TaskId, given: FencingToken) -> Result<FleetOutcome, Denied> {
        let task = self.find_task(id)?;
        let own = task.lease().map(|lease| lease.fencing_token);
        if own != Some(given) {
            return Err(FleetDenied::StaleTaskToken { task: id.clone(), given, own }.into());
        }
        self.entry_mut(id).task.phase = TaskPhase::Queued;
        Ok(FleetOutcome::Done)
    }

    pub(super) fn complete(
        &mut self,
        now: Timestamp,
        id: &TaskId,
        agent: &AgentId,
        given: FencingToken,
        report: &TaskReport,
    ) -> Result<FleetOutcome, Denied> {
        let task = self.find_task(id)?;
        let outcome = match report.result {
            ReportedResult::Success => AttemptOutcome::Success,
            ReportedResult::Failure => AttemptOutcome::Failure,
            ReportedResult::Timeout => AttemptOutcome::Timeout,
        };
        if let Some(attempt) = task.attempts.iter().find(|attempt| attempt.fencing_token == given) {
            let at = attempt.ended_at;
            if (&attempt.agent, attempt.outcome) == (agent, outcome) {
                return Ok(FleetOutcome::AlreadyReported { outcome, at });
            }
            let (task, agent, outcome) = (id.clone(), attempt.agent.clone(), attempt.outcome);
            return Err(FleetDenied::AttemptOver { task, given, agent, outcome, at }.into());
        }
        let Some(lease) = task.lease() else {
            return Err(FleetDenied::StaleTaskToken { task: id.clone(), given, own: None }.into());
        };
        if lease.fencing_token != given {
            let own = Some(lease.fencing_token);
            return Err(FleetDenied::StaleTaskToken { task: id.clone(), given, own }.into());
        }
        if lease.agent != *agent {
            let holder = lease.agent.clone();
            return Err(FleetDenied::WrongOwner { task: id.clone(), given: agent.clone(), holder }.into());
        }
        let expired_at = self.ledger.deadline_with_grace(lease.deadline);
        if expired_at <= now {
            return Err(FleetDenied::TaskLeaseExpired { task: id.clone(), expired_at }.into());
        }
        // If the open tasks have no capacity left for the error of a task that is queued again, the error is left out.
        let tries = task.attempts.len() + 1;
        let goes_back = outcome != AttemptOutcome::Success && tries < task.spec.request.attempts_max as usize;
        let left_out = "(left out: open tasks take max_task_bytes)";
        let fits = |error: &str| {
            let held = self.bytes_held() + error.len() as u64;
            !goes_back || error.len() <= left_out.len() || held <= self.settings.task_bytes_max
        };
        let error = report.error.as_ref();
        let error = error.map(|error| if fits(error) { Arc::clone(error) } else { Arc::from(left_out) });
        let ending = Ending {
            outcome,
            tokens_used: report.tokens_used.unwrap_or(task.spec.estimated_tokens),
            is_estimated: report.tokens_used.is_none(),
            duration: report.duration.unwrap_or_else(|| now.since(lease.leased_at)),
            error,
            output: report.output.clone(),
        };
        Ok(FleetOutcome::Reported(self.end_attempt(now, id, ending)))
    }

    pub(super) fn cancel(&mut self, now: Timestamp, id: &TaskId) -> Result<FleetOutcome, Denied> {
        let task = self.find_task(id)?;
        if let Some(end) = task.end() {
            return Ok(FleetOutcome::AlreadyEnded { state: end.state, at: end.at });
        }
        let agent = task.lease().map(|lease| lease.agent.clone());
        if agent.is_some() {
            self.end_unreported(now, id, AttemptOutcome::Cancelled);
        } else {
            self.end_task(now, id, TaskState::Cancelled, None);
        }
        Ok(FleetOutcome::Cancelled { agent })
    }

    pub(super) fn update(
        &mut self,
        now: Timestamp,
        id: &TaskId,
        priority: Option<Priority>,
        deadline: Option<Timestamp>,
        decided: &[Event],
    ) -> Result<FleetOutcome, Denied> {
        let task = self.find_task(id)?;
        self.reject_ended(task)?;
        if let Some(deadline) = deadline.filter(|deadline| *deadline <= now) {
            return Err(FleetDenied::DeadlinePassed { deadline, now }.into());
        }
        let chosen = decided.iter().find_map(|event| match event {
            Event::TaskUpdated { urgent_at, .. } => *urgent_at,
            _ => None,
        });
        let urgent_at = match deadline {
            Some(_) => self.urgent_at(&task.spec.request, deadline, chosen.or(task.urgent_at)),
            None => task.urgent_at,
        };
        let task = &mut self.entry_mut(id).task;
        task.priority = priority.unwrap_or(task.priority);
        task.deadline = deadline.or(task.deadline);
        task.urgent_at = urgent_at;
        Ok(FleetOutcome::Done)
    }

    /// Leases a task to an agent.
    pub(super) fn lease(&mut self, now: Timestamp, id: &TaskId, agent: &AgentId) {
        let fencing_token = self.ledger.next_token();
        let task = &mut self.entry_mut(id).task;
        let deadline = now.after(Millis(task.spec.request.lease_seconds.as_seconds().saturating_mul(1_000)));
        let lease = TaskLease { agent: agent.clone(), fencing_token, leased_at: now, deadline };
        task.phase = TaskPhase::Running(Box::new(lease));
    }

    /// Ends an attempt without a report.
    pub(super) fn end_unreported(&mut self, now: Timestamp, id: &TaskId, outcome: AttemptOutcome) -> EndedAttempt {
        let leased_at = self.task_with(id).and_then(Task::lease).expect("a task that is held").leased_at;
        let duration = now.since(leased_at);
        let ending = Ending { outcome, tokens_used: 0, is_estimated: false, duration, error: None, output: None };
        self.end_attempt(now, id, ending)
    }

    fn end_attempt(&mut self, now: Timestamp, id: &TaskId, ending: Ending) -> EndedAttempt {
        let Ending { outcome, tokens_used, is_estimated, duration, error, output } = ending;
        let spec = Arc::clone(&self.task_with(id).expect("a task").spec);
        let is_reported =
            matches!(outcome, AttemptOutcome::Success | AttemptOutcome::Failure | AttemptOutcome::Timeout);
        if is_reported {
            self.settle(now, &spec, tokens_used);
            self.reported_tokens.push(tokens_used);
        }
        if outcome == AttemptOutcome::Success {
            self.samples.push(Sample {
                agent_type: spec.request.selector.agent_type.clone(),
                complexity: spec.request.tokens.complexity,
                tokens: (!is_estimated).then(|| counted_tokens(&spec, tokens_used)),
                duration,
            });
        }
        let task = &mut self.entry_mut(id).task;
        let lease = task.lease().expect("a task that is held").clone();
        task.attempts.push(Attempt {
            fencing_token: lease.fencing_token,
            agent: lease.agent.clone(),
            started_at: lease.leased_at,
            ended_at: now,
            outcome,
            tokens_used,
            duration_ms: duration,
            error,
        });
        let state = match outcome {
            AttemptOutcome::Success => TaskState::Completed,
            AttemptOutcome::Cancelled => TaskState::Cancelled,
            _ if task.attempts.len() as u64 >= u64::from(spec.request.attempts_max) => TaskState::Failed,
            _ => TaskState::Queued,
        };
        task.phase = TaskPhase::Queued;
        if state != TaskState::Queued {
            self.end_task(now, id, state, output);
        }
        if is_reported || outcome == AttemptOutcome::LeaseExpired {
            let agent = self.agents.iter_mut().find(|agent| *agent.id() == lease.agent).expect("its holder");
            agent.finished.push(FinishedTask { at: now, is_success: outcome == AttemptOutcome::Success, duration });
        }
        EndedAttempt { task: id.clone(), agent: lease.agent, outcome, state }
    }

    fn end_task(&mut self, now: Timestamp, id: &TaskId, state: TaskState, output: Option<JsonText>) {
        self.ends += 1;
        let sequence = self.ends;
        let entry = self.entry_mut(id);
        entry.task.phase = TaskPhase::Ended(Box::new(TaskEnd { state, at: now, output }));
        entry.end = Some(sequence);
    }

    pub(super) fn find_task(&self, id: &TaskId) -> Result<&Task, FleetDenied> {
        self.task_with(id).ok_or_else(|| FleetDenied::UnknownTask(id.clone()))
    }

    pub(super) fn reject_ended(&self, task: &Task) -> Result<(), FleetDenied> {
        match task.end() {
            Some(end) => Err(FleetDenied::TaskEnded { task: task.spec.task.clone(), state: end.state, at: end.at }),
            None => Ok(()),
        }
    }

    pub(super) fn task_with(&self, id: &TaskId) -> Option<&Task> {
        self.tasks.iter().map(|entry| &entry.task).find(|task| task.spec.task == *id)
    }

    pub(super) fn open(&self) -> Vec<&Task> {
        self.tasks.iter().map(|entry| &entry.task).filter(|task| task.end().is_none()).collect()
    }

    pub(super) fn waiting(&self) -> Vec<&Task> {
        self.open().into_iter().filter(|task| task.lease().is_none()).collect()
    }

    pub(super) fn running(&self) -> Vec<&Task> {
        self.open().into_iter().filter(|task| task.lease().is_some()).collect()
    }

    pub(super) fn bytes_held(&self) -> u64 {
        self.open().into_iter().map(bytes).sum()
    }

    fn entry_mut(&mut self, id: &TaskId) -> &mut TaskEntry {
        self.tasks.iter_mut().find(|entry| entry.task.spec.task == *id).expect("a task on record")
    }
}

/// The bytes of the texts that a submitter chose.
fn text_bytes(spec: &TaskSpec) -> u64 {
    let request = &spec.request;
    let texts = [
        Some(spec.task.as_str()),
        request.job.as_ref().map(|job| job.as_str()),
        request.batch.as_ref().map(|batch| batch.as_str()),
        request.payload.as_ref().map(JsonText::as_str),
        request.selector.agent_type.as_ref().map(|agent_type| agent_type.as_str()),
    ];
    let capabilities = request.selector.capabilities.as_slice().iter().map(|capability| capability.as_str());
    texts.into_iter().flatten().chain(capabilities).map(|text| text.len() as u64).sum()
}

/// The bytes of a task: its texts, its output and its errors.
pub(super) fn bytes(task: &Task) -> u64 {
    let output = task.end().and_then(|end| end.output.as_ref()).map_or(0, |output| output.as_str().len());
    let errors: usize = task.attempts.iter().flat_map(|attempt| &attempt.error).map(|error| error.len()).sum();
    text_bytes(&task.spec) + (output + errors) as u64
}

/// The names of the arguments that differ.
fn differences(one: &TaskRequest, other: &TaskRequest) -> Vec<&'static str> {
    let mut names = Vec::new();
    let mut note = |name, is_same: bool| names.extend((!is_same).then_some(name));
    note("task_id", one.task == other.task);
    note("job_id", one.job == other.job);
    note("agent_type", one.selector.agent_type == other.selector.agent_type);
    note("capabilities", one.selector.capabilities == other.selector.capabilities);
    note("priority", one.priority == other.priority);
    note("estimated_tokens", one.tokens.given == other.tokens.given);
    note("complexity", one.tokens.complexity == other.tokens.complexity);
    note("input", one.tokens.input_characters == other.tokens.input_characters);
    note("deadline", one.deadline == other.deadline);
    note("batch_key", one.batch == other.batch);
    note("payload", one.payload == other.payload);
    note("max_attempts", one.attempts_max == other.attempts_max);
    note("lease_seconds", one.lease_seconds == other.lease_seconds);
    names
}
