//! Decisions on the fleet: which events a command leads to. Nothing here changes anything.

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
use super::agent::AgentEnd;
use super::command::{AgentLeft, FleetCommand, FleetDenied, FleetOutcome, TaskLeft, TimePassed};
use super::settings::FleetSettings;
use super::task::{AttemptEnd, AttemptOutcome, Task, TaskLease, TaskPhase, TaskState};
use std::collections::BTreeSet;

impl Cluster {
    /// Decides what a command about the fleet leads to at `now`.
    pub(in super::super) fn decide_fleet(&self, now: Timestamp, command: &FleetCommand) -> Result<Decision, Denied> {
        match command {
            FleetCommand::SetSettings(settings) => Ok(self.set_fleet_settings(*settings)),
            FleetCommand::Register { request, worker_size } => self.register(now, request, *worker_size),
            FleetCommand::Unregister { agent } => self.unregister(now, agent),
            FleetCommand::Submit { request, draw } => self.submit(now, request, *draw),
            FleetCommand::Claim { agent } => self.claim(now, agent),
            FleetCommand::Assign { task, draw } => self.assign(now, task, *draw),
            FleetCommand::Return { task, fencing_token } => self.return_task(task, *fencing_token),
            FleetCommand::Complete { task, agent, fencing_token, report } => {
                self.complete(now, task, agent, *fencing_token, report)
            }
            FleetCommand::Cancel { task } => self.cancel(now, task),
            FleetCommand::Update { task, priority, deadline } => self.update(now, task, *priority, *deadline),
            FleetCommand::SetTokenBudget { job: None, tokens, window } => self.set_token_budget(now, *tokens, *window),
            FleetCommand::SetTokenBudget { job: Some(job), tokens, .. } => self.set_job_budget(now, job, *tokens),
            FleetCommand::SetAgentQuota { agent_type, agents } => self.set_agent_quota(agent_type.as_ref(), *agents),
            FleetCommand::PassTime { steps_max } => Ok(self.pass_time(now, *steps_max)),
        }
    }

    fn set_fleet_settings(&self, settings: FleetSettings) -> Decision {
        let changed = settings != self.fleet.settings;
        decision(changed.then_some(Event::FleetSettingsSet { settings }), FleetOutcome::Done)
    }

    fn pass_time(&self, now: Timestamp, steps_max: usize) -> Decision {
        let fleet = &self.fleet;
        let mut events = Vec::new();
        let mut passed = TimePassed::default();
        events.extend(self.refill(now));
        passed.refilled = !events.is_empty();
        // A task of a lost agent whose lease has run out as well ends once.
        let mut expired = BTreeSet::new();
        let horizon = (self.expiry_horizon(now), FencingToken::new(u64::MAX));
        let mut overdue = fleet.leases.range(..=horizon).map(|(_, slot)| *slot);
        for slot in overdue.by_ref().take(steps_max) {
            let record = &fleet.tasks[slot].task;
            let TaskPhase::Running(lease) = &record.phase else { continue };
            passed.expired.push(left_by(record, lease, AttemptOutcome::LeaseExpired));
            events.push(unreported(now, record, lease, AttemptOutcome::LeaseExpired));
            expired.insert(slot);
        }
        passed.more = overdue.next().is_some();
        // As long as leases are left that have run out, none of an agent may be taken for held.
        if !passed.more {
            let mut lost = fleet.lost(now);
            for slot in lost.by_ref().take(steps_max - expired.len()) {
                passed.lost.push(fleet.let_go_but(&mut events, now, slot, AgentEnd::Lost, &expired));
            }
            passed.more = lost.next().is_some();
        }
        decision(events, FleetOutcome::TimePassed(Box::new(passed)))
    }

    /// When time next does something to the fleet by itself: a refill, a task's lease that runs out, an agent that is lost.
    #[must_use]
    pub fn fleet_due(&self, now: Timestamp) -> Option<Timestamp> {
        let lease = self.fleet.leases.first_key_value().map(|((deadline, _), _)| self.deadline_with_grace(*deadline));
        let due = [self.fleet.tokens.refill_due(), lease, self.fleet.next_lost_at()];
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

    /// Adds the events by which an agent leaves and what it holds goes back to the queue.
    fn let_go(&self, events: &mut Vec<Event>, now: Timestamp, slot: Slot, reason: AgentEnd) -> AgentLeft {
        self.let_go_but(events, now, slot, reason, &BTreeSet::new())
    }

    /// The same, where some of its tasks were taken from it before.
    fn let_go_but(
        &self,
        events: &mut Vec<Event>,
        now: Timestamp,
        slot: Slot,
        reason: AgentEnd,
        taken: &BTreeSet<Slot>,
    ) -> AgentLeft {
        let outcome = match reason {
            AgentEnd::Unregistered => AttemptOutcome::AgentUnregistered,
            AgentEnd::Lost => AttemptOutcome::AgentLost,
            AgentEnd::AllocationEnded => AttemptOutcome::AllocationEnded,
        };
        let agent = self.agents[slot].request().agent.clone();
        let mut tasks = Vec::new();
        for (record, lease) in self.held(slot).filter(|(_, _, held)| !taken.contains(held)).map(|(r, l, _)| (r, l)) {
            tasks.push(left_by(record, lease, outcome));
            events.push(unreported(now, record, lease, outcome));
        }
        events.push(Event::AgentLeft { agent: agent.clone(), reason });
        AgentLeft { agent, reason, tasks }
    }

    /// What an agent holds, in the order in which it was given it.
    pub(super) fn held(&self, slot: Slot) -> impl Iterator<Item = (&Task, &TaskLease, Slot)> {
        let tasks = self.agents[slot].tasks.iter().map(|slot| (&self.tasks[*slot].task, *slot));
        let mut held: Vec<_> = tasks.filter_map(|(task, slot)| Some((task, task.lease()?, slot))).collect();
        held.sort_by_key(|(_, lease, _)| lease.fencing_token);
        held.into_iter()
    }
}

/// Where a task stands once its attempt has ended like this.
fn after(task: &Task, outcome: AttemptOutcome) -> TaskState {
    let attempts = task.attempts.len() as u64 + 1;
    match outcome {
        AttemptOutcome::Success => TaskState::Completed,
        AttemptOutcome::Cancelled => TaskState::Cancelled,
        _ if attempts >= u64::from(task.spec.request.attempts_max) => TaskState::Failed,
        _ => TaskState::Queued,
    }
}

fn left_by(task: &Task, lease: &TaskLease, outcome: AttemptOutcome) -> TaskLeft {
    let (id, agent) = (task.spec.task.clone(), lease.agent.clone());
    TaskLeft { task: id, agent, outcome, state: after(task, outcome) }
}

/// The end of an attempt that nobody reported on. What it took is not known, so that nothing is booked.
fn unreported(now: Timestamp, task: &Task, lease: &TaskLease, outcome: AttemptOutcome) -> Event {
    let end = AttemptEnd {
        fencing_token: lease.fencing_token,
        outcome,
        tokens_used: 0,
        is_estimated: false,
        duration_ms: now.since(lease.leased_at),
        error: None,
        output: None,
        then: after(task, outcome),
    };
    Event::AttemptEnded { task: task.spec.task.clone(), end }
}

fn decision(events: impl IntoIterator<Item = Event>, outcome: FleetOutcome) -> Decision {
    Decision { events: events.into_iter().collect(), outcome: Outcome::Fleet(outcome) }
}
