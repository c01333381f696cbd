//! Decides which events a command to the fleet leads to. Nothing here changes the state.

mod agents;
mod limits;
mod tasks;

use super::super::cluster::Cluster;
use super::super::command::{Decision, Denied, Outcome};
use super::super::event::Event;
use super::super::ids::{AgentId, FencingToken, TaskId};
use super::super::table::Slot;
use super::super::time::Timestamp;
use super::Fleet;
use super::agent::AgentEndReason;
use super::command::{EndedAttempt, FleetCommand, FleetDenied, FleetOutcome, RemovedAgent, TimeAdvance};
use super::settings::FleetSettings;
use super::task::{AttemptEnd, AttemptOutcome, Task, TaskLease, TaskPhase, TaskState};
use std::collections::BTreeSet;

impl Cluster {
    /// Decides which events a command to the fleet leads to at `now`, and its outcome.
    pub(in super::super) fn decide_fleet(&self, now: Timestamp, command: &FleetCommand) -> Result<Decision, Denied> {
        match command {
            FleetCommand::SetSettings(settings) => Ok(self.set_fleet_settings(*settings)),
            FleetCommand::Register { request, worker_size } => self.register(now, request, *worker_size),
            FleetCommand::Unregister { agent } => self.unregister(now, agent),
            FleetCommand::Submit { request, random } => self.submit(now, request, *random),
            FleetCommand::Claim { agent } => self.claim(now, agent),
            FleetCommand::Assign { task, random } => self.assign(now, task, *random),
            FleetCommand::Return { task, fencing_token } => self.return_task(task, *fencing_token),
            FleetCommand::Complete { task, agent, fencing_token, report } => {
                self.complete(now, task, agent, *fencing_token, report)
            }
            FleetCommand::Cancel { task } => self.cancel(now, task),
            FleetCommand::Update { task, priority, deadline } => self.update(now, task, *priority, *deadline),
            FleetCommand::SetTokenBudget { job: None, tokens, window } => self.set_token_budget(now, *tokens, *window),
            FleetCommand::SetTokenBudget { job: Some(job), tokens, .. } => self.set_job_budget(now, job, *tokens),
            FleetCommand::SetAgentQuota { agent_type, agents } => self.set_agent_quota(agent_type.as_ref(), *agents),
            FleetCommand::AdvanceTime { steps_max } => Ok(self.advance_time(now, *steps_max)),
        }
    }

    fn set_fleet_settings(&self, settings: FleetSettings) -> Decision {
        let changed = settings != self.fleet.settings;
        decision(changed.then_some(Event::FleetSettingsSet { settings }), FleetOutcome::Done)
    }

    fn advance_time(&self, now: Timestamp, steps_max: usize) -> Decision {
        let fleet = &self.fleet;
        let mut events = Vec::new();
        let mut advance = TimeAdvance::default();
        events.extend(self.refill(now));
        advance.refilled = !events.is_empty();
        // A task whose lease has expired and whose agent is lost must end only once.
        let mut expired = BTreeSet::new();
        let horizon = (self.expiry_horizon(now), FencingToken::new(u64::MAX));
        let mut overdue = fleet.leases.range(..=horizon).map(|(_, slot)| *slot);
        for slot in overdue.by_ref().take(steps_max) {
            let record = &fleet.tasks[slot].task;
            let TaskPhase::Running(lease) = &record.phase else { continue };
            advance.expired.push(ended_attempt(record, lease, AttemptOutcome::LeaseExpired));
            events.push(unreported_end(now, record, lease, AttemptOutcome::LeaseExpired));
            expired.insert(slot);
        }
        advance.more = overdue.next().is_some();
        // Agents are only removed once all expired leases are recorded: a removal would end an expired task as
        // `AgentLost`.
        if !advance.more {
            let mut lost = fleet.lost(now);
            for slot in lost.by_ref().take(steps_max - expired.len()) {
                advance.lost.push(fleet.agent_removal_except(&mut events, now, slot, AgentEndReason::Lost, &expired));
            }
            advance.more = lost.next().is_some();
        }
        decision(events, FleetOutcome::TimeAdvanced(Box::new(advance)))
    }

    /// Returns the next moment, at the earliest `now`, at which a change falls due: a refill, an expired task lease, a
    /// lost agent.
    #[must_use]
    pub fn next_fleet_deadline(&self, now: Timestamp) -> Option<Timestamp> {
        let lease = self.fleet.leases.first_key_value().map(|((deadline, _), _)| self.deadline_with_grace(*deadline));
        let due = [self.fleet.budgets.refill_due(), lease, self.fleet.next_lost_at()];
        due.into_iter().flatten().min().map(|due| due.max(now))
    }
}

impl Fleet {
    pub(super) fn find_agent(&self, agent: &AgentId) -> Result<Slot, FleetDenied> {
        self.agents.find(agent).ok_or_else(|| FleetDenied::UnknownAgent(agent.clone()))
    }

    pub(super) fn find_task(&self, task: &TaskId) -> Result<Slot, FleetDenied> {
        self.tasks.find(task).ok_or_else(|| FleetDenied::UnknownTask(task.clone()))
    }

    /// Adds the events that remove an agent and return its tasks to the queue.
    fn agent_removal(
        &self,
        events: &mut Vec<Event>,
        now: Timestamp,
        slot: Slot,
        reason: AgentEndReason,
    ) -> RemovedAgent {
        self.agent_removal_except(events, now, slot, reason, &BTreeSet::new())
    }

    /// Does the same, without the tasks in `taken`, whose attempts have ended already.
    fn agent_removal_except(
        &self,
        events: &mut Vec<Event>,
        now: Timestamp,
        slot: Slot,
        reason: AgentEndReason,
        taken: &BTreeSet<Slot>,
    ) -> RemovedAgent {
        let outcome = match reason {
            AgentEndReason::Unregistered => AttemptOutcome::AgentUnregistered,
            AgentEndReason::Lost => AttemptOutcome::AgentLost,
            AgentEndReason::AllocationEnded => AttemptOutcome::AllocationEnded,
        };
        let agent = self.agents[slot].request().agent.clone();
        let mut tasks = Vec::new();
        for (record, lease) in
            self.held_tasks(slot).filter(|(_, _, held)| !taken.contains(held)).map(|(r, l, _)| (r, l))
        {
            tasks.push(ended_attempt(record, lease, outcome));
            events.push(unreported_end(now, record, lease, outcome));
        }
        events.push(Event::AgentLeft { agent: agent.clone(), reason });
        RemovedAgent { agent, reason, tasks }
    }

    /// Returns the tasks that an agent holds, in the order of their leases.
    pub(super) fn held_tasks(&self, slot: Slot) -> impl Iterator<Item = (&Task, &TaskLease, Slot)> {
        let tasks = self.agents[slot].tasks.iter().map(|slot| (&self.tasks[*slot].task, *slot));
        let mut held: Vec<_> = tasks.filter_map(|(task, slot)| Some((task, task.lease()?, slot))).collect();
        held.sort_by_key(|(_, lease, _)| lease.fencing_token);
        held.into_iter()
    }
}

/// Returns the state of a task after an attempt with this outcome.
fn state_after(task: &Task, outcome: AttemptOutcome) -> TaskState {
    let attempts = task.attempts.len() as u64 + 1;
    match outcome {
        AttemptOutcome::Success => TaskState::Completed,
        AttemptOutcome::Cancelled => TaskState::Cancelled,
        _ if attempts >= u64::from(task.spec.request.attempts_max) => TaskState::Failed,
        _ => TaskState::Queued,
    }
}

fn ended_attempt(task: &Task, lease: &TaskLease, outcome: AttemptOutcome) -> EndedAttempt {
    let (id, agent) = (task.spec.task.clone(), lease.agent.clone());
    EndedAttempt { task: id, agent, outcome, state: state_after(task, outcome) }
}

/// Returns the event that ends an attempt without a report. The tokens used are unknown, so none are booked.
fn unreported_end(now: Timestamp, task: &Task, lease: &TaskLease, outcome: AttemptOutcome) -> Event {
    let end = AttemptEnd {
        fencing_token: lease.fencing_token,
        outcome,
        tokens_used: 0,
        is_estimated: false,
        duration_ms: now.since(lease.leased_at),
        error: None,
        output: None,
        then: state_after(task, outcome),
    };
    Event::AttemptEnded { task: task.spec.task.clone(), end }
}

fn decision(events: impl IntoIterator<Item = Event>, outcome: FleetOutcome) -> Decision {
    Decision { events: events.into_iter().collect(), outcome: Outcome::Fleet(outcome) }
}
