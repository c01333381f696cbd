//! Decisions on tasks, from submission to report.

use super::super::super::cluster::Cluster;
use super::super::super::command::{Decision, Denied};
use super::super::super::event::Event;
use super::super::super::ids::{AgentId, FencingToken, TaskId};
use super::super::super::priority::Priority;
use super::super::super::table::Slot;
use super::super::super::time::{Millis, Timestamp};
use super::super::agent::Agent;
use super::super::command::{EndedAttempt, FleetDenied, FleetOutcome, NoTaskReason, TaskReport};
use super::super::task::{AttemptEnd, AttemptOutcome, Selector, TaskPhase, TaskRequest, TaskSpec, TaskState};
use super::super::{Fleet, queue};
use super::{decision, state_after, unreported_end};
use std::sync::Arc;

/// Replaces an error where the texts of open tasks leave no capacity for it.
const ERROR_LEFT_OUT: &str = "(left out: open tasks take max_task_bytes)";

impl Cluster {
    pub(super) fn submit(&self, now: Timestamp, request: &TaskRequest, random: u64) -> Result<Decision, Denied> {
        let fleet = &self.fleet;
        if let Some(task) = &request.task
            && let Some(slot) = fleet.tasks.find(task)
        {
            let known = &fleet.tasks[slot].task.spec.request;
            if known != request {
                return Err(FleetDenied::TaskExists { task: task.clone(), differs: known.differences(request) }.into());
            }
            return Ok(decision(None, FleetOutcome::Submitted { task: task.clone(), is_new: false }));
        }
        if let Some(deadline) = request.deadline.filter(|deadline| *deadline <= now) {
            return Err(FleetDenied::DeadlinePassed { deadline, now }.into());
        }
        let limit = fleet.settings.tasks_max;
        if fleet.open_count() >= limit {
            return Err(FleetDenied::TooManyTasks { limit }.into());
        }
        let task = request.task.clone().unwrap_or_else(|| fleet.unused_id(random));
        let request = TaskRequest { selector: fleet.shared_selector(&request.selector), ..request.clone() };
        let agent_type = request.selector.agent_type.as_ref();
        let spec = TaskSpec {
            number: fleet.next_task,
            estimated_tokens: fleet.task_stats.estimate_tokens(agent_type, &request.tokens),
            urgent_at: fleet.urgent_at(&request, request.deadline),
            task: task.clone(),
            request,
        };
        let (held, given, limit) = (fleet.open_bytes, spec.text_bytes(), fleet.settings.task_bytes_max);
        if held.saturating_add(given) > limit {
            return Err(FleetDenied::TooManyTaskBytes { held, given, limit }.into());
        }
        let outcome = FleetOutcome::Submitted { task, is_new: true };
        Ok(decision(Some(Event::TaskSubmitted { task: Arc::new(spec) }), outcome))
    }

    pub(super) fn claim(&self, now: Timestamp, agent: &AgentId) -> Result<Decision, Denied> {
        let slot = self.fleet.find_agent(agent)?;
        let record = &self.fleet.agents[slot];
        if self.fleet.heartbeats.0.draining.contains(agent) {
            return Ok(decision(None, FleetOutcome::NoTask(NoTaskReason::Draining)));
        }
        if record.free_slots() == 0 {
            return Ok(decision(None, FleetOutcome::NoTask(NoTaskReason::AgentFull)));
        }
        match self.fleet.best_for(record) {
            Ok(task) => Ok(self.lease(now, record, task)),
            Err(reason) => Ok(decision(None, FleetOutcome::NoTask(reason))),
        }
    }

    pub(super) fn assign(&self, now: Timestamp, task: &TaskId, random: u64) -> Result<Decision, Denied> {
        let fleet = &self.fleet;
        let slot = fleet.find_task(task)?;
        let record = &fleet.tasks[slot].task;
        match &record.phase {
            TaskPhase::Queued => {}
            TaskPhase::Running(lease) => {
                return Err(FleetDenied::TaskRunning { task: task.clone(), holder: lease.agent.clone() }.into());
            }
            TaskPhase::Ended(end) => {
                return Err(FleetDenied::TaskEnded { task: task.clone(), state: end.state, at: end.at }.into());
            }
        }
        if let Some(reason) = fleet.deferral(slot) {
            let estimated_tokens = record.spec.estimated_tokens;
            let remaining = fleet.budgets.available(record.spec.request.job.as_ref());
            return Err(FleetDenied::NoTokens { task: task.clone(), reason, estimated_tokens, remaining }.into());
        }
        let chosen = fleet.batch_holder(record).or_else(|| fleet.pick_agent(&record.spec.request.selector, random));
        match chosen {
            Some(agent) => Ok(self.lease(now, &fleet.agents[agent], slot)),
            None => {
                let reason = fleet.no_agent_reason(&record.spec.request.selector, now);
                Err(FleetDenied::NoAgent { task: task.clone(), reason }.into())
            }
        }
    }

    /// Leases a waiting task to an agent with a free task slot, and as many others of its batch as fit.
    fn lease(&self, now: Timestamp, agent: &Agent, first: Slot) -> Decision {
        let mut events = Vec::new();
        let mut tasks = Vec::new();
        let mut token = self.next_token;
        for slot in self.fleet.with_batch(agent, first) {
            let spec = &self.fleet.tasks[slot].task.spec;
            let deadline = now.after(spec.request.lease_seconds.as_millis());
            let agent = agent.request().agent.clone();
            events.push(Event::TaskLeased { task: spec.task.clone(), agent, fencing_token: token, deadline });
            tasks.push(spec.task.clone());
            token = token.next();
        }
        decision(events, FleetOutcome::Leased { agent: agent.request().agent.clone(), tasks })
    }

    pub(super) fn return_task(&self, task: &TaskId, given: FencingToken) -> Result<Decision, Denied> {
        let slot = self.fleet.find_task(task)?;
        let own = self.fleet.tasks[slot].task.lease().map(|lease| lease.fencing_token);
        if own != Some(given) {
            return Err(FleetDenied::StaleTaskToken { task: task.clone(), given, own }.into());
        }
        Ok(decision(Some(Event::TaskReturned { task: task.clone() }), FleetOutcome::Done))
    }

    pub(super) fn complete(
        &self,
        now: Timestamp,
        task: &TaskId,
        agent: &AgentId,
        given: FencingToken,
        report: &TaskReport,
    ) -> Result<Decision, Denied> {
        let slot = self.fleet.find_task(task)?;
        let record = &self.fleet.tasks[slot].task;
        let outcome = AttemptOutcome::from(report.result);
        let task = task.clone();
        if let Some(before) = record.attempts.iter().find(|attempt| attempt.fencing_token == given) {
            let at = before.ended_at;
            if before.agent == *agent && before.outcome == outcome {
                return Ok(decision(None, FleetOutcome::AlreadyReported { outcome, at }));
            }
            let (agent, outcome) = (before.agent.clone(), before.outcome);
            return Err(FleetDenied::AttemptOver { task, given, agent, outcome, at }.into());
        }
        let lease = match record.lease() {
            Some(lease) if lease.fencing_token == given => lease,
            lease => {
                let own = lease.map(|lease| lease.fencing_token);
                return Err(FleetDenied::StaleTaskToken { task, given, own }.into());
            }
        };
        if lease.agent != *agent {
            let (given, holder) = (agent.clone(), lease.agent.clone());
            return Err(FleetDenied::WrongOwner { task, given, holder }.into());
        }
        let expires_at = self.deadline_with_grace(lease.deadline);
        if expires_at <= now {
            return Err(FleetDenied::TaskLeaseExpired { task, expired_at: expires_at }.into());
        }
        let then = state_after(record, outcome);
        let error = report.error.as_ref().map(|error| match then {
            TaskState::Queued => self.fleet.stored_error(error),
            _ => Arc::clone(error),
        });
        let end = AttemptEnd {
            fencing_token: given,
            outcome,
            tokens_used: report.tokens_used.unwrap_or(record.spec.estimated_tokens),
            is_estimated: report.tokens_used.is_none(),
            duration_ms: report.duration.unwrap_or_else(|| now.since(lease.leased_at)),
            error,
            output: report.output.clone(),
            then,
        };
        let ended = EndedAttempt { task: task.clone(), agent: agent.clone(), outcome, state: end.then };
        Ok(decision(Some(Event::AttemptEnded { task, end }), FleetOutcome::Reported(ended)))
    }

    pub(super) fn cancel(&self, now: Timestamp, task: &TaskId) -> Result<Decision, Denied> {
        let slot = self.fleet.find_task(task)?;
        let record = &self.fleet.tasks[slot].task;
        Ok(match &record.phase {
            TaskPhase::Queued => {
                let event = Event::TaskCancelled { task: task.clone() };
                decision(Some(event), FleetOutcome::Cancelled { agent: None })
            }
            TaskPhase::Running(lease) => {
                let event = unreported_end(now, record, lease, AttemptOutcome::Cancelled);
                decision(Some(event), FleetOutcome::Cancelled { agent: Some(lease.agent.clone()) })
            }
            TaskPhase::Ended(end) => decision(None, FleetOutcome::AlreadyEnded { state: end.state, at: end.at }),
        })
    }

    pub(super) fn update(
        &self,
        now: Timestamp,
        task: &TaskId,
        priority: Option<Priority>,
        deadline: Option<Timestamp>,
    ) -> Result<Decision, Denied> {
        let slot = self.fleet.find_task(task)?;
        let record = &self.fleet.tasks[slot].task;
        if let Some(end) = record.end() {
            return Err(FleetDenied::TaskEnded { task: task.clone(), state: end.state, at: end.at }.into());
        }
        if let Some(deadline) = deadline.filter(|deadline| *deadline <= now) {
            return Err(FleetDenied::DeadlinePassed { deadline, now }.into());
        }
        let priority = priority.unwrap_or(record.priority);
        let urgent_at = match deadline {
            Some(_) => self.fleet.urgent_at(&record.spec.request, deadline),
            None => record.urgent_at,
        };
        let deadline = deadline.or(record.deadline);
        let changes = (priority, deadline, urgent_at) != (record.priority, record.deadline, record.urgent_at);
        let event = changes.then(|| Event::TaskUpdated { task: task.clone(), priority, deadline, urgent_at });
        Ok(decision(event, FleetOutcome::Done))
    }
}

impl Fleet {
    /// Returns the error to store for an attempt: [`ERROR_LEFT_OUT`] if the texts of open tasks would exceed
    /// `max_task_bytes`.
    fn stored_error(&self, error: &Arc<str>) -> Arc<str> {
        let fits = self.open_bytes.saturating_add(error.len() as u64) <= self.settings.task_bytes_max;
        if fits || error.len() <= ERROR_LEFT_OUT.len() { Arc::clone(error) } else { Arc::from(ERROR_LEFT_OUT) }
    }

    /// Returns the id derived from `random`, or from the next number whose id is unused.
    fn unused_id(&self, mut random: u64) -> TaskId {
        loop {
            let id = TaskId::from_bits(random);
            if self.tasks.find(&id).is_none() {
                return id;
            }
            random = random.wrapping_add(1);
        }
    }

    /// Returns an equal selector that shares its texts with the tasks in the queue, if any has the same one.
    fn shared_selector(&self, selector: &Selector) -> Selector {
        let key = queue::LaneKey { selector: selector.clone(), job: None };
        self.queue.lanes.find(&key).map_or(key.selector, |slot| self.queue.lanes[slot].key.selector.clone())
    }

    /// Returns the time from which a task is urgent: twice its expected duration before the deadline.
    fn urgent_at(&self, request: &TaskRequest, deadline: Option<Timestamp>) -> Option<Timestamp> {
        let (agent_type, complexity) = (request.selector.agent_type.as_ref(), request.tokens.complexity);
        let expected =
            self.task_stats.estimate_duration(agent_type, complexity).unwrap_or(self.settings.response_target_ms);
        deadline.map(|deadline| deadline.before(Millis(expected.0.saturating_mul(2))).max(Timestamp::WRITABLE_MIN))
    }
}
