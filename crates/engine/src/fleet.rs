//! What the engine does for the fleet: messages about agents and tasks, waiting claims, and the deadlines of tasks and
//! agents.

use super::Engine;
use super::cancel::{CancelHandle, Revocable};
use super::error::EngineError;
use super::message::{Assignment, Claim, FleetMessage, RegisteredAgent, Submitted};
use cortex_core::command::{Command, Outcome};
use cortex_core::fleet::agent::AgentRequest;
use cortex_core::fleet::command::{FleetCommand, FleetDenied, FleetOutcome, NoTaskReason};
use cortex_core::fleet::task::{TaskRequest, TaskState};
use cortex_core::fleet::view::{AgentView, TaskView};
use cortex_core::ids::{AgentId, FencingToken, TaskId};
use cortex_core::time::{Millis, Timestamp};
use cortex_journal::Journal;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;
use tokio::sync::oneshot;

/// The largest number of waiting claims. One more is answered immediately.
const CLAIMS_WAITING_MAX: usize = 65_536;

/// The largest number of deadlines of tasks and agents that one turn records, so that no call waits long.
const TIME_STEPS_MAX: usize = 500;

/// The longest sleep of the engine while there are leases or agents, so that it detects a jump of the clock or a stall.
const SLEEP_MAX: Duration = Duration::from_secs(2);

/// The pause after a fault before deadlines are recorded again.
const FAULT_PAUSE: Millis = Millis::from_seconds(1);

/// A claim that waits for a task.
struct WaitingClaim {
    agent: AgentId,
    until: Timestamp,
    cancel_handle: CancelHandle,
    reply: oneshot::Sender<Result<Claim, EngineError>>,
}

/// The waiting claims, the oldest first, and when deadlines of the fleet are recorded.
#[derive(Default)]
pub(super) struct WaitingClaims {
    claims: VecDeque<WaitingClaim>,
    /// Whether something changed that may let a waiting claim succeed.
    pub(super) is_due: bool,
    /// When the agents that wait were last recorded as alive.
    confirmed_at: Option<Timestamp>,
    /// Until when no deadlines are recorded, after a fault or a late turn.
    paused_until: Option<Timestamp>,
}

impl WaitingClaims {
    /// Pauses the recording of deadlines, unless the last turn was paused: a machine whose turns are always late must
    /// record them too.
    pub(super) fn pause_once(&mut self, last_turn: Timestamp, until: Timestamp) {
        if self.paused_until.is_none_or(|paused_until| paused_until <= last_turn) {
            self.paused_until = Some(until);
        }
    }

    /// Ends the waits of an agent's claims, which are answered in this turn.
    fn expire_claims_of(&mut self, now: Timestamp, agent: &AgentId) {
        for claim in self.claims.iter_mut().filter(|claim| claim.agent == *agent) {
            claim.until = now;
        }
    }

    /// Drops the claims with this cancel handle unanswered.
    pub(super) fn cancel(&mut self, cancel_handle: &CancelHandle) {
        self.claims.retain(|claim| !claim.cancel_handle.is_same(cancel_handle));
    }
}

impl<J: Journal> Engine<J> {
    pub(super) fn handle_fleet(&mut self, now: Timestamp, message: FleetMessage) {
        match message {
            FleetMessage::Register { request, reply } => {
                let answer = self.register(now, request);
                self.answer(reply, answer);
            }
            FleetMessage::Heartbeat { agent, reply } => {
                self.cluster.record_heartbeat(now, &agent);
                let answer = self.agent(now, &agent);
                self.answer(reply, answer);
            }
            FleetMessage::Drain { agent, is_draining, reply } => {
                let answer = self.cluster.set_draining(now, &agent, is_draining);
                // The agent learns of it from the reply to its waiting claim.
                self.waiting_claims.expire_claims_of(now, &agent);
                self.answer(reply, answer);
            }
            FleetMessage::Submit { request, cancel_handle, reply } => {
                let answer =
                    if cancel_handle.is_cancelled() { Err(EngineError::Cancelled) } else { self.submit(now, request) };
                if let Ok(Submitted { detail, is_new: true }) = &answer
                    && let spec = &detail.view.task.spec
                    && spec.request.task.is_none()
                {
                    // No client knows its id before the reply.
                    let grants = Revocable::Submitted(spec.task.clone());
                    cancel_handle.note(grants.clone());
                    self.note_revocable(grants);
                }
                self.answer(reply, answer);
            }
            FleetMessage::Claim { agent, wait, cancel_handle, reply } => {
                self.claim(now, agent, wait, cancel_handle, reply)
            }
            FleetMessage::Assign { task, reply } => {
                let answer = self.assign(now, task);
                self.answer(reply, answer);
            }
        }
    }

    fn fleet(&mut self, now: Timestamp, command: FleetCommand) -> Result<FleetOutcome, EngineError> {
        match self.execute(now, &Command::Fleet(command))? {
            Outcome::Fleet(outcome) => Ok(outcome),
            _ => Err(EngineError::Fault),
        }
    }

    fn agent(&self, now: Timestamp, agent: &AgentId) -> Result<AgentView, EngineError> {
        self.cluster.agent(now, agent).ok_or_else(|| FleetDenied::UnknownAgent(agent.clone()).into())
    }

    fn register(&mut self, now: Timestamp, request: Box<AgentRequest>) -> Result<RegisteredAgent, EngineError> {
        let agent = request.agent.clone();
        let command = FleetCommand::Register { request, worker_size: self.worker_size };
        let FleetOutcome::Registered { is_new, .. } = self.fleet(now, command)? else {
            return Err(EngineError::Fault);
        };
        self.cluster.record_heartbeat(now, &agent);
        let view = self.agent(now, &agent)?;
        if is_new {
            let request = &view.registration.request;
            tracing::info!(
                %agent,
                agent_type = %request.agent_type,
                max_concurrent = request.tasks_max,
                "agent registered"
            );
        }
        Ok(RegisteredAgent { view, is_new })
    }

    fn submit(&mut self, now: Timestamp, request: Box<TaskRequest>) -> Result<Submitted, EngineError> {
        let draw = self.random_value();
        let FleetOutcome::Submitted { task, is_new } =
            self.fleet(now, FleetCommand::Submit { request, random: draw })?
        else {
            return Err(EngineError::Fault);
        };
        let view = self.task(now, &task)?;
        if is_new {
            self.demand.note_submission(now);
            let spec = &view.task.spec;
            tracing::debug!(
                %task,
                priority = %spec.request.priority,
                estimated_tokens = spec.estimated_tokens,
                "task submitted"
            );
        }
        Ok(Submitted { detail: self.state().detail(view), is_new })
    }

    fn task(&self, now: Timestamp, task: &TaskId) -> Result<TaskView, EngineError> {
        self.cluster.task(now, task).ok_or_else(|| FleetDenied::UnknownTask(task.clone()).into())
    }

    fn views(&self, now: Timestamp, tasks: &[TaskId]) -> Vec<TaskView> {
        tasks.iter().filter_map(|task| self.cluster.task(now, task)).collect()
    }

    fn claim(
        &mut self,
        now: Timestamp,
        agent: AgentId,
        wait: Duration,
        cancel_handle: CancelHandle,
        reply: oneshot::Sender<Result<Claim, EngineError>>,
    ) {
        if cancel_handle.is_cancelled() {
            self.answer(reply, Err(EngineError::Cancelled));
            return;
        }
        self.cluster.record_heartbeat(now, &agent);
        match self.claim_now(now, &agent) {
            Ok(Claim::Nothing(why))
                if why != NoTaskReason::Draining
                    && !wait.is_zero()
                    && self.waiting_claims.claims.len() < CLAIMS_WAITING_MAX =>
            {
                let until = now.after(Millis(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)));
                self.waiting_claims.claims.push_back(WaitingClaim { agent, until, cancel_handle, reply });
                // The claim itself counts as a heartbeat; the next is due one interval later.
                self.waiting_claims.confirmed_at.get_or_insert(now);
            }
            answer => self.answer_claim(&cancel_handle, reply, answer),
        }
    }

    /// Answers a claim, and notes the leased tasks so that the claim can be cancelled.
    fn answer_claim(
        &mut self,
        cancel_handle: &CancelHandle,
        reply: oneshot::Sender<Result<Claim, EngineError>>,
        answer: Result<Claim, EngineError>,
    ) {
        if let Ok(Claim::Tasks { tasks, .. }) = &answer {
            let leases = tasks.iter().filter_map(|view| {
                let lease = view.task.lease()?;
                Some((view.task.spec.task.clone(), lease.fencing_token))
            });
            let grants = Revocable::Claimed(leases.collect());
            cancel_handle.note(grants.clone());
            self.note_revocable(grants);
        }
        self.answer(reply, answer);
    }

    fn claim_now(&mut self, now: Timestamp, agent: &AgentId) -> Result<Claim, EngineError> {
        match self.fleet(now, FleetCommand::Claim { agent: agent.clone() })? {
            FleetOutcome::Leased { tasks, .. } => {
                let tasks = self.views(now, &tasks);
                log_leased(agent, &tasks);
                Ok(Claim::Tasks { at: now, tasks })
            }
            FleetOutcome::NoTask(why) => Ok(Claim::Nothing(why)),
            _ => Err(EngineError::Fault),
        }
    }

    fn assign(&mut self, now: Timestamp, task: TaskId) -> Result<Assignment, EngineError> {
        let draw = self.random_value();
        let FleetOutcome::Leased { agent, tasks } = self.fleet(now, FleetCommand::Assign { task, random: draw })?
        else {
            return Err(EngineError::Fault);
        };
        let views = self.views(now, &tasks);
        log_leased(&agent, &views);
        // The assignment answers a waiting claim of the agent.
        if let Some(index) =
            self.waiting_claims.claims.iter().position(|claim| claim.agent == agent && !claim.reply.is_closed())
            && let Some(claim) = self.waiting_claims.claims.remove(index)
        {
            self.answer(claim.reply, Ok(Claim::Tasks { at: now, tasks: views.clone() }));
        }
        Ok(Assignment { agent, tasks: views })
    }

    /// Cancels a task that was never leased.
    pub(super) fn cancel_untouched_task(&mut self, now: Timestamp, task: &TaskId) {
        let is_untouched = self.cluster.task(now, task).is_some_and(|view| {
            view.task.attempts.is_empty() && matches!(view.state, TaskState::Queued | TaskState::Deferred)
        });
        if is_untouched {
            let _ = self.fleet(now, FleetCommand::Cancel { task: task.clone() });
        }
    }

    /// Returns tasks to the queue whose lease the agent never received.
    pub(super) fn return_tasks(&mut self, now: Timestamp, leases: &[(TaskId, FencingToken)]) {
        for (task, fencing_token) in leases {
            let _ = self.fleet(now, FleetCommand::Return { task: task.clone(), fencing_token: *fencing_token });
        }
    }

    /// Records deadlines of the fleet that have passed: expired tasks, lost agents, refilled token budgets. Those over
    /// the limit follow with the next batch.
    pub(super) fn advance_fleet(&mut self, now: Timestamp) {
        self.confirm_waiting_agents(now);
        if self.waiting_claims.paused_until.is_some_and(|until| until > now)
            || self.cluster.next_fleet_deadline(now).is_none_or(|due| due > now)
        {
            return;
        }
        if let Err(error) = self.fleet(now, FleetCommand::AdvanceTime { steps_max: TIME_STEPS_MAX }) {
            tracing::error!(%error, "recording of expired tasks and lost agents failed: it is retried");
            self.waiting_claims.paused_until = Some(now.after(FAULT_PAUSE));
        }
    }

    /// Records the agents of waiting claims as alive, once per heartbeat interval, since a client that waits for a task
    /// sends no heartbeats.
    fn confirm_waiting_agents(&mut self, now: Timestamp) {
        let interval = self.cluster.fleet_settings().heartbeat_ms;
        if self.waiting_claims.claims.is_empty() {
            self.waiting_claims.confirmed_at = None;
            return;
        }
        if self.waiting_claims.confirmed_at.is_some_and(|at| at.after(interval) > now) {
            return;
        }
        self.waiting_claims.confirmed_at = Some(now);
        // Waiting raises the priority of tasks. That may let a claim succeed while tokens are conserved, but it is not
        // an event that would wake the claims.
        self.waiting_claims.is_due = true;
        for claim in self.waiting_claims.claims.iter().filter(|claim| !claim.reply.is_closed()) {
            self.cluster.record_heartbeat(now, &claim.agent);
        }
    }

    /// Tries the waiting claims, the oldest first, and answers those whose wait is over.
    pub(super) fn serve_waiting_claims(&mut self, now: Timestamp) {
        if self.waiting_claims.claims.is_empty() {
            return;
        }
        let may_serve = std::mem::take(&mut self.waiting_claims.is_due);
        let mut left = VecDeque::new();
        while let Some(claim) = self.waiting_claims.claims.pop_front() {
            if claim.reply.is_closed() || claim.cancel_handle.is_cancelled() {
                continue;
            }
            let is_over = claim.until <= now;
            // Skips the remaining claims, which may be thousands, once no task waits.
            let may_serve = may_serve && self.cluster.has_waiting_tasks();
            if !may_serve && !is_over {
                left.push_back(claim);
                continue;
            }
            match self.claim_now(now, &claim.agent) {
                Ok(Claim::Nothing(why)) if !is_over && why != NoTaskReason::Draining => left.push_back(claim),
                answer => self.answer_claim(&claim.cancel_handle, claim.reply, answer),
            }
        }
        self.waiting_claims.claims = left;
    }

    /// Ends the claims of agents that have left, before other agents register under the same ids.
    pub(super) fn end_claims_of(&mut self, left: &BTreeSet<AgentId>) {
        if left.is_empty() {
            return;
        }
        let claims = std::mem::take(&mut self.waiting_claims.claims);
        let (ended, others): (VecDeque<_>, _) = claims.into_iter().partition(|claim| left.contains(&claim.agent));
        self.waiting_claims.claims = others;
        for claim in ended {
            self.answer(claim.reply, Err(FleetDenied::UnknownAgent(claim.agent).into()));
        }
    }

    /// How long the engine may sleep until the next deadline; `None` if there is none.
    pub(super) fn sleep_max(&self, now: Timestamp) -> Option<Duration> {
        let interval = self.cluster.fleet_settings().heartbeat_ms;
        let confirm_at = self
            .waiting_claims
            .confirmed_at
            .filter(|_| !self.waiting_claims.claims.is_empty())
            .map(|at| at.after(interval));
        let over_at = self.waiting_claims.claims.iter().map(|claim| claim.until).min();
        let paused_until = self.waiting_claims.paused_until.filter(|until| *until > now);
        let due = self.cluster.next_fleet_deadline(now).max(paused_until);
        // The end of a pause is a turn even if nothing is due: a longer sleep would hide another stall.
        let refused_at = self.provisioning_waits.next_deadline();
        let next = [due, paused_until, confirm_at, over_at, refused_at].into_iter().flatten().min();
        let is_listening = next.is_some() || self.cluster.next_deadline().is_some();
        let sleep_max = next.map_or(SLEEP_MAX, |next| Duration::from_millis(next.since(now).0).min(SLEEP_MAX));
        is_listening.then_some(sleep_max)
    }
}

fn log_leased(agent: &AgentId, tasks: &[TaskView]) {
    for view in tasks {
        let token = view.task.lease().map(|lease| lease.fencing_token.as_u64());
        tracing::debug!(task = %view.task.spec.task, %agent, fencing_token = token, "task leased");
    }
}
