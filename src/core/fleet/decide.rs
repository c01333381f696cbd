//! Decisions on the fleet: which events a command leads to. Nothing here changes anything.

use super::super::allocation::{Allocation, EndReason, State};
use super::super::cluster::Cluster;
use super::super::command::{Decision, Denied, Outcome};
use super::super::event::Event;
use super::super::ids::{AgentId, AgentType, AllocationId, FencingToken, JobId, NodeId, TaskId};
use super::super::node::Node;
use super::super::priority::Priority;
use super::super::room::Room;
use super::super::table::Slot;
use super::super::time::{Millis, Timestamp};
use super::super::units::WorkerSize;
use super::agent::{Agent, AgentEnd, AgentRequest, Registration};
use super::command::{
    AgentLeft, FleetCommand, FleetDenied, FleetOutcome, NothingClaimed, Report, TaskLeft, TimePassed,
};
use super::settings::FleetSettings;
use super::task::{AttemptEnd, AttemptOutcome, Selector, Task, TaskLease, TaskPhase, TaskRequest, TaskSpec, TaskState};
use super::tokens::JOB_BUDGETS_MAX;
use super::{Fleet, queue};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What is kept in the place of an error where open tasks take as many bytes as they may.
const ERROR_LEFT_OUT: &str = "(left out: open tasks take max_task_bytes)";

/// How many types of agents may have a quota of their own.
const QUOTAS_MAX: usize = 1_000;

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

    fn register(&self, now: Timestamp, request: &AgentRequest, size: WorkerSize) -> Result<Decision, Denied> {
        let fleet = &self.fleet;
        if let Some(slot) = fleet.agents.find(&request.agent) {
            let (agent, known) = (request.agent.clone(), fleet.agents[slot].request());
            if known != request {
                return Err(FleetDenied::AgentExists { agent, differs: known.differences(request) }.into());
            }
            return Ok(decision(None, FleetOutcome::Registered { is_new: false, reclaimed: Vec::new() }));
        }
        if let Some(reached) = fleet.quota_reached(&request.agent_type) {
            return Err(reached.into());
        }
        let mut events = Vec::with_capacity(1);
        let mut reclaimed = Vec::new();
        let (node, takes) = match request.allocation {
            Some(allocation) => (self.node_of_agents(now, allocation)?, None),
            None => {
                let (node, leases) = self.room_for_agent(now, size).map_err(|denied| match denied {
                    Denied::NoRoom { shortage, .. } => FleetDenied::NoWorker(shortage).into(),
                    denied => denied,
                })?;
                reclaimed.extend(leases.iter().map(|lease| self.ending(&mut events, now, lease, EndReason::Expired)));
                (node, Some(size))
            }
        };
        let request = AgentRequest { agent_type: fleet.known_type(&request.agent_type), ..request.clone() };
        events.push(Event::AgentRegistered {
            registration: Arc::new(Registration { request, node: node.clone(), takes }),
        });
        Ok(decision(events, FleetOutcome::Registered { is_new: true, reclaimed }))
    }

    /// The node of an allocation that has a worker to spare for an agent.
    fn node_of_agents(&self, now: Timestamp, allocation: AllocationId) -> Result<&NodeId, Denied> {
        let lease = self.find(allocation).ok_or(Denied::UnknownAllocation(allocation))?;
        let is_over = self.deadline(lease).is_none_or(|deadline| deadline <= now);
        if lease.state() != State::Active || is_over {
            return Err(FleetDenied::AllocationNotActive(allocation).into());
        }
        let workers = lease.reservation.workers.count();
        let agents = self.fleet.by_allocation.get(&allocation).map_or(0, BTreeSet::len) as u64;
        if agents >= workers {
            return Err(FleetDenied::AllocationFull { allocation, workers }.into());
        }
        Ok(&lease.reservation.node)
    }

    /// The node with a worker slot for an agent, and the leases past their deadline that have to be taken back for it.
    fn room_for_agent(&self, now: Timestamp, size: WorkerSize) -> Result<(&NodeId, Vec<&Allocation>), Denied> {
        let node: (&NodeId, &Node) = self.nodes.first_key_value().ok_or(Denied::NoNode)?;
        let mut room = Room::for_agent(self, node, size);
        let reclaimed = self.make_room(now, &mut room)?;
        Ok((node.0, reclaimed))
    }

    fn unregister(&self, now: Timestamp, agent: &AgentId) -> Result<Decision, Denied> {
        let slot = self.fleet.find_agent(agent)?;
        let mut events = Vec::new();
        let left = self.fleet.let_go(&mut events, now, slot, AgentEnd::Unregistered);
        Ok(decision(events, FleetOutcome::Unregistered(left)))
    }

    /// Adds the events by which the agents of an allocation leave that ends.
    pub(in super::super) fn let_agents_go(&self, events: &mut Vec<Event>, now: Timestamp, allocation: AllocationId) {
        let mut leaving: Vec<Slot> = self.fleet.by_allocation.get(&allocation).into_iter().flatten().copied().collect();
        // As they registered: the order of slots is not that of books made from an image.
        leaving.sort_by_key(|slot| self.fleet.agents[*slot].number);
        for slot in leaving {
            self.fleet.let_go(events, now, slot, AgentEnd::AllocationEnded);
        }
    }

    fn submit(&self, now: Timestamp, request: &TaskRequest, draw: u64) -> Result<Decision, Denied> {
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
        if fleet.open() >= limit {
            return Err(FleetDenied::TooManyTasks { limit }.into());
        }
        let task = request.task.clone().unwrap_or_else(|| fleet.unused_id(draw));
        let request = TaskRequest { selector: fleet.known_selector(&request.selector), ..request.clone() };
        let agent_type = request.selector.agent_type.as_ref();
        let spec = TaskSpec {
            number: fleet.next_task,
            estimated_tokens: fleet.experience.tokens(agent_type, &request.tokens),
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

    fn claim(&self, now: Timestamp, agent: &AgentId) -> Result<Decision, Denied> {
        let slot = self.fleet.find_agent(agent)?;
        let record = &self.fleet.agents[slot];
        if record.room() == 0 {
            return Ok(decision(None, FleetOutcome::Nothing(NothingClaimed::AgentIsFull)));
        }
        match self.fleet.best_for(record) {
            Ok(task) => Ok(self.lease(now, record, task)),
            Err(nothing) => Ok(decision(None, FleetOutcome::Nothing(nothing))),
        }
    }

    fn assign(&self, now: Timestamp, task: &TaskId, draw: u64) -> Result<Decision, Denied> {
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
            let remaining = fleet.tokens.available(record.spec.request.job.as_ref());
            return Err(FleetDenied::NoTokens { task: task.clone(), reason, estimated_tokens, remaining }.into());
        }
        let chosen = fleet.holder_of_batch(record).or_else(|| fleet.chosen(&record.spec.request.selector, draw));
        match chosen {
            Some(agent) => Ok(self.lease(now, &fleet.agents[agent], slot)),
            None => {
                let reason = fleet.why_no_agent(&record.spec.request.selector, now);
                Err(FleetDenied::NoAgent { task: task.clone(), reason }.into())
            }
        }
    }

    /// Gives an agent that has room a task that waits, and others of its batch as far as they fit.
    fn lease(&self, now: Timestamp, agent: &Agent, first: Slot) -> Decision {
        let mut events = Vec::new();
        let mut tasks = Vec::new();
        let mut token = self.next_token;
        for slot in self.fleet.with_its_batch(agent, first) {
            let spec = &self.fleet.tasks[slot].task.spec;
            let deadline = now.after(spec.request.lease_seconds.as_millis());
            let agent = agent.request().agent.clone();
            events.push(Event::TaskLeased { task: spec.task.clone(), agent, fencing_token: token, deadline });
            tasks.push(spec.task.clone());
            token = token.next();
        }
        decision(events, FleetOutcome::Leased { agent: agent.request().agent.clone(), tasks })
    }

    fn return_task(&self, task: &TaskId, given: FencingToken) -> Result<Decision, Denied> {
        let slot = self.fleet.find_task(task)?;
        let own = self.fleet.tasks[slot].task.lease().map(|lease| lease.fencing_token);
        if own != Some(given) {
            return Err(FleetDenied::StaleTaskToken { task: task.clone(), given, own }.into());
        }
        Ok(decision(Some(Event::TaskReturned { task: task.clone() }), FleetOutcome::Done))
    }

    fn complete(
        &self,
        now: Timestamp,
        task: &TaskId,
        agent: &AgentId,
        given: FencingToken,
        report: &Report,
    ) -> Result<Decision, Denied> {
        let slot = self.fleet.find_task(task)?;
        let record = &self.fleet.tasks[slot].task;
        let outcome = AttemptOutcome::from(report.result);
        let task = task.clone();
        if let Some(before) = record.attempts.iter().find(|attempt| attempt.fencing_token == given) {
            let at = before.ended_at;
            if before.agent == *agent && before.outcome == outcome {
                return Ok(decision(None, FleetOutcome::ReportedBefore { outcome, at }));
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
        let then = after(record, outcome);
        let error = report.error.as_ref().map(|error| match then {
            TaskState::Queued => self.fleet.error_kept(error),
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
        let left = TaskLeft { task: task.clone(), agent: agent.clone(), outcome, state: end.then };
        Ok(decision(Some(Event::AttemptEnded { task, end }), FleetOutcome::Reported(left)))
    }

    fn cancel(&self, now: Timestamp, task: &TaskId) -> Result<Decision, Denied> {
        let slot = self.fleet.find_task(task)?;
        let record = &self.fleet.tasks[slot].task;
        Ok(match &record.phase {
            TaskPhase::Queued => {
                let event = Event::TaskCancelled { task: task.clone() };
                decision(Some(event), FleetOutcome::Cancelled { agent: None })
            }
            TaskPhase::Running(lease) => {
                let event = unreported(now, record, lease, AttemptOutcome::Cancelled);
                decision(Some(event), FleetOutcome::Cancelled { agent: Some(lease.agent.clone()) })
            }
            TaskPhase::Ended(end) => decision(None, FleetOutcome::EndedBefore { state: end.state, at: end.at }),
        })
    }

    fn update(
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

    fn set_token_budget(
        &self,
        now: Timestamp,
        tokens: Option<u64>,
        window: Option<Millis>,
    ) -> Result<Decision, Denied> {
        let budgets = &self.fleet.tokens;
        let total = tokens.unwrap_or(budgets.all.total);
        // What was used in a window that is over counts no more, whether or not that was recorded.
        let refill = self.refill(now);
        let used = if refill.is_some() { budgets.all.refilled() } else { budgets.all };
        check_lowering(&used, total)?;
        let window_ms = window.filter(|window| *window != budgets.window);
        let tokens = Some(total).filter(|total| *total != budgets.all.total);
        let changes = tokens.is_some() || window_ms.is_some();
        let event = changes.then_some(Event::TokenBudgetSet { job: None, tokens, window_ms });
        Ok(decision(event.map(|event| refill.into_iter().chain([event])).into_iter().flatten(), FleetOutcome::Done))
    }

    /// The refill that is due, if one is.
    fn refill(&self, now: Timestamp) -> Option<Event> {
        let tokens = &self.fleet.tokens;
        tokens.refill_due().filter(|at| *at <= now)?;
        Some(Event::TokenBudgetRefilled { window_started_at: tokens.window_start(now) })
    }

    fn set_job_budget(&self, now: Timestamp, job: &JobId, tokens: Option<u64>) -> Result<Decision, Denied> {
        let jobs = &self.fleet.tokens.jobs;
        let refill = self.refill(now);
        match (jobs.get(job), tokens) {
            (Some(budget), Some(total)) => {
                check_lowering(&if refill.is_some() { budget.refilled() } else { *budget }, total)?;
            }
            (None, Some(_)) if jobs.len() >= JOB_BUDGETS_MAX => {
                return Err(FleetDenied::TooMany { what: "jobs", limit: JOB_BUDGETS_MAX }.into());
            }
            _ => {}
        }
        let changes = jobs.get(job).map(|budget| budget.total) != tokens;
        let event = changes.then(|| Event::TokenBudgetSet { job: Some(job.clone()), tokens, window_ms: None });
        Ok(decision(event.map(|event| refill.into_iter().chain([event])).into_iter().flatten(), FleetOutcome::Done))
    }

    fn set_agent_quota(&self, agent_type: Option<&AgentType>, agents: Option<u64>) -> Result<Decision, Denied> {
        let quotas = &self.fleet.quotas;
        let before = match agent_type {
            Some(agent_type) => quotas.get(agent_type).copied(),
            None => self.fleet.quota,
        };
        if agent_type.is_some() && before.is_none() && agents.is_some() && quotas.len() >= QUOTAS_MAX {
            return Err(FleetDenied::TooMany { what: "types of agents", limit: QUOTAS_MAX }.into());
        }
        let changes = before != agents;
        let event = changes.then(|| Event::AgentQuotaSet { agent_type: agent_type.cloned(), agents });
        Ok(decision(event, FleetOutcome::Done))
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

    /// The quota that leaves no room for another agent of this type, if there is one.
    pub(super) fn quota_reached(&self, agent_type: &AgentType) -> Option<FleetDenied> {
        let active = self.agents.len() as u64;
        if let Some(quota) = self.quota.filter(|quota| active >= *quota) {
            return Some(FleetDenied::QuotaReached { agent_type: None, active, quota });
        }
        let active = self.types.get(agent_type).copied().unwrap_or(0);
        let quota = self.quotas.get(agent_type).copied().filter(|quota| active >= *quota)?;
        Some(FleetDenied::QuotaReached { agent_type: Some(agent_type.clone()), active, quota })
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

    /// The error of an attempt as it is kept: a word in its place where open tasks take as many bytes as they may.
    fn error_kept(&self, error: &Arc<str>) -> Arc<str> {
        let fits = self.open_bytes.saturating_add(error.len() as u64) <= self.settings.task_bytes_max;
        if fits || error.len() <= ERROR_LEFT_OUT.len() { Arc::clone(error) } else { Arc::from(ERROR_LEFT_OUT) }
    }

    /// The id made of `draw`, or of the next number that no task has.
    fn unused_id(&self, mut draw: u64) -> TaskId {
        loop {
            let id = TaskId::from_draw(draw);
            if self.tasks.find(&id).is_none() {
                return id;
            }
            draw = draw.wrapping_add(1);
        }
    }

    /// The same type of agents, by a text that is shared where it is known.
    fn known_type(&self, agent_type: &AgentType) -> AgentType {
        self.types.get_key_value(agent_type).map_or_else(|| agent_type.clone(), |(known, _)| known.clone())
    }

    /// The same selector, by texts that are shared where they are known.
    fn known_selector(&self, selector: &Selector) -> Selector {
        let key = queue::LaneKey { selector: selector.clone(), job: None };
        self.queue.lanes.find(&key).map_or(key.selector, |slot| self.queue.lanes[slot].key.selector.clone())
    }

    /// From when on a task is urgent: less time is left than twice what it is expected to take.
    fn urgent_at(&self, request: &TaskRequest, deadline: Option<Timestamp>) -> Option<Timestamp> {
        let (agent_type, complexity) = (request.selector.agent_type.as_ref(), request.tokens.complexity);
        let expected = self.experience.duration(agent_type, complexity).unwrap_or(self.settings.response_target_ms);
        deadline.map(|deadline| deadline.before(Millis(expected.0.saturating_mul(2))).max(Timestamp::WRITABLE_MIN))
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

fn check_lowering(budget: &super::view::BudgetUsage, total: u64) -> Result<(), FleetDenied> {
    let used = budget.settled.saturating_add(budget.reserved);
    if total < budget.total && total < used {
        let (settled, reserved) = (budget.settled, budget.reserved);
        return Err(FleetDenied::BudgetBelowUse { given: total, settled, reserved });
    }
    Ok(())
}

fn decision(events: impl IntoIterator<Item = Event>, outcome: FleetOutcome) -> Decision {
    Decision { events: events.into_iter().collect(), outcome: Outcome::Fleet(outcome) }
}
