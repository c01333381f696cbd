//! What the engine does for the fleet: commands and questions about agents, tasks and tokens, claims that wait, and what
//! happens by itself as time passes.

use super::message::{
    AgentListing, AgentPage, AgentTakenOn, CancelHandle, Claim, EngineError, FleetMessage, Grants, Reading, Submitted,
    TaskAfter, TaskDetail, TaskListing, TaskPage,
};
use super::{Engine, log_end};
use cortex_core::command::{Command, Outcome};
use cortex_core::fleet::agent::{AgentEnd, AgentRequest};
use cortex_core::fleet::command::{AgentLeft, FleetCommand, FleetDenied, FleetOutcome, NothingClaimed, TaskLeft};
use cortex_core::fleet::task::{TaskRequest, TaskState};
use cortex_core::fleet::view::{AgentFilter, AgentState, AgentView, FleetSummary, TaskView};
use cortex_core::ids::{AgentId, FencingToken, TaskId, TaskNumber};
use cortex_core::time::{Millis, Timestamp};
use cortex_journal::Journal;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;
use tokio::sync::oneshot;

/// How many claims may wait at once; one more is answered at once.
const CLAIMS_WAITING_MAX: usize = 65_536;

/// How many tasks and agents one look at the time records at most, so that no call waits long behind it.
const TIME_STEPS_MAX: usize = 500;

/// The longest that the engine sleeps while anybody holds a lease or is listened for, so that it notices if the clock jumps or
/// it stood still.
const SLEEP_MAX: Duration = Duration::from_secs(2);

/// How long it is waited after a fault before time is recorded again.
const FAULT_PAUSE: Millis = Millis::from_seconds(1);

/// A claim that waits for a task.
struct WaitingClaim {
    agent: AgentId,
    until: Timestamp,
    cancel_handle: CancelHandle,
    reply: oneshot::Sender<Result<Claim, EngineError>>,
}

/// The claims that wait, the oldest first, and what is due by itself.
#[derive(Default)]
pub(super) struct Waiting {
    claims: VecDeque<WaitingClaim>,
    /// Whether anything has changed that may be of use to a claim that waits.
    pub(super) is_due: bool,
    /// When those who wait were last noted as alive.
    heard_at: Option<Timestamp>,
    /// Until when time is not recorded, because of a fault.
    paused_until: Option<Timestamp>,
}

impl Waiting {
    /// Lets time go unrecorded until then, unless that was so up to now: a machine that is always late must get on, too.
    pub(super) fn pause_once(&mut self, last_turn: Timestamp, until: Timestamp) {
        if self.paused_until.is_none_or(|paused_until| paused_until <= last_turn) {
            self.paused_until = Some(until);
        }
    }

    /// Lets nothing of this agent wait any longer.
    fn end_of(&mut self, now: Timestamp, agent: &AgentId) {
        for claim in self.claims.iter_mut().filter(|claim| claim.agent == *agent) {
            claim.until = now;
        }
    }

    /// Lets those go on waiting whose claims are not called off by this cancel_handle; whoever waited hears nothing more.
    pub(super) fn cancel(&mut self, cancel_handle: &CancelHandle) {
        self.claims.retain(|claim| !claim.cancel_handle.is_same(cancel_handle));
    }
}

impl<J: Journal> Engine<J> {
    pub(super) fn take_fleet(&mut self, now: Timestamp, message: FleetMessage) {
        match message {
            FleetMessage::Register { request, reply } => {
                let answer = self.register(now, request);
                self.answer(reply, answer);
            }
            FleetMessage::Beat { agent, reply } => {
                self.cluster.hear(now, &agent);
                let answer = self.agent(now, &agent);
                self.answer(reply, answer);
            }
            FleetMessage::Drain { agent, is_draining, reply } => {
                let answer = self.cluster.set_draining(now, &agent, is_draining);
                // Its claim that waits is to hear of it.
                self.waiting.end_of(now, &agent);
                self.answer(reply, answer);
            }
            FleetMessage::Unregister { agent, reply } => {
                let answer = self.unregister(now, agent);
                self.answer(reply, answer);
            }
            FleetMessage::Agents { listing, reply } => {
                let answer = self.agents(now, &listing);
                self.answer(reply, answer);
            }
            FleetMessage::Submit { request, cancel_handle, reply } => {
                let answer =
                    if cancel_handle.is_cancelled() { Err(EngineError::Cancelled) } else { self.submit(now, request) };
                if let Ok(Submitted { detail, is_new: true }) = &answer
                    && let spec = &detail.view.task.spec
                    && spec.request.task.is_none()
                {
                    // Nobody could ask for it.
                    let grants = Grants::Submitted(spec.task.clone());
                    cancel_handle.note(grants.clone());
                    self.note_unwanted(grants);
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
            FleetMessage::Complete { task, agent, fencing_token, report, reply } => {
                self.cluster.hear(now, &agent);
                let command = FleetCommand::Complete { task: task.clone(), agent, fencing_token, report };
                let answer = self.change_task(now, task, command);
                if let Ok(TaskAfter { outcome: FleetOutcome::Reported(left), .. }) = &answer {
                    log_left(left);
                }
                self.answer(reply, answer);
            }
            FleetMessage::Cancel { task, reply } => {
                let answer = self.change_task(now, task.clone(), FleetCommand::Cancel { task });
                self.answer(reply, answer);
            }
            FleetMessage::Update { task, priority, deadline, reply } => {
                let command = FleetCommand::Update { task: task.clone(), priority, deadline };
                let answer = self.change_task(now, task, command);
                self.answer(reply, answer);
            }
            FleetMessage::Task { task, reply } => {
                let answer = self.cluster.task(now, &task).map(|view| self.detail(view));
                self.answer(reply, answer);
            }
            FleetMessage::Tasks { listing, reply } => {
                let answer = self.tasks(now, &listing);
                self.answer(reply, answer);
            }
            FleetMessage::Usage { reply } => {
                let answer = self.cluster.usage(now, self.worker_size);
                self.answer(reply, answer);
            }
            FleetMessage::Figures { reply } => {
                let answer = self.cluster.fleet_figures(now, self.worker_size);
                self.answer(reply, answer);
            }
            FleetMessage::Summary { reply } => {
                let filter = AgentFilter { state: Some(AgentState::Unresponsive), agent_type: None };
                let unresponsive = Some(self.cluster.count_agents(now, &filter));
                let answer = FleetSummary { unresponsive, ..self.cluster.fleet_summary(now) };
                self.answer(reply, answer);
            }
            FleetMessage::Set { command, reply } => {
                let answer = self.fleet(now, command).map(|_| self.cluster.usage(now, self.worker_size));
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

    fn register(&mut self, now: Timestamp, request: Box<AgentRequest>) -> Result<AgentTakenOn, EngineError> {
        let agent = request.agent.clone();
        let command = FleetCommand::Register { request, worker_size: self.worker_size };
        let FleetOutcome::Registered { is_new, reclaimed } = self.fleet(now, command)? else {
            return Err(EngineError::Fault);
        };
        reclaimed.iter().for_each(log_end);
        self.cluster.hear(now, &agent);
        let view = self.agent(now, &agent)?;
        if is_new {
            let request = &view.registration.request;
            tracing::info!(%agent, agent_type = %request.agent_type, max_concurrent = request.tasks_max, "agent registered");
        }
        Ok(AgentTakenOn { view, is_new })
    }

    fn unregister(&mut self, now: Timestamp, agent: AgentId) -> Result<Reading<AgentLeft>, EngineError> {
        match self.fleet(now, FleetCommand::Unregister { agent })? {
            FleetOutcome::Unregistered(left) => {
                log_agent_left(&left);
                Ok(Reading { at: now, value: left })
            }
            _ => Err(EngineError::Fault),
        }
    }

    fn agents(&self, now: Timestamp, listing: &AgentListing) -> AgentPage {
        let mut views = self.cluster.agents(now, &listing.filter, listing.after.as_ref());
        let entries: Vec<AgentView> = views.by_ref().take(listing.limit).collect();
        let more = views.next().is_some();
        let next = entries.last().filter(|_| more).map(|view| view.registration.request.agent.clone());
        AgentPage { at: now, total: self.cluster.count_agents(now, &listing.filter), entries, next }
    }

    fn submit(&mut self, now: Timestamp, request: Box<TaskRequest>) -> Result<Submitted, EngineError> {
        let draw = self.draw();
        let FleetOutcome::Submitted { task, is_new } = self.fleet(now, FleetCommand::Submit { request, draw })? else {
            return Err(EngineError::Fault);
        };
        let view = self.task(now, &task)?;
        if is_new {
            self.demand.note_submission(now);
            let spec = &view.task.spec;
            tracing::debug!(%task, priority = %spec.request.priority, estimated_tokens = spec.estimated_tokens, "submitted");
        }
        Ok(Submitted { detail: self.detail(view), is_new })
    }

    fn detail(&self, view: TaskView) -> TaskDetail {
        TaskDetail { able_agents: self.cluster.able_agents(&view.task.spec.request.selector), view }
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
        self.cluster.hear(now, &agent);
        match self.claim_now(now, &agent) {
            Ok(Claim::Nothing(why))
                if why != NothingClaimed::Draining
                    && !wait.is_zero()
                    && self.waiting.claims.len() < CLAIMS_WAITING_MAX =>
            {
                let until = now.after(Millis(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)));
                self.waiting.claims.push_back(WaitingClaim { agent, until, cancel_handle, reply });
                // From its claim on; the next sign of life is due with the next heartbeat.
                self.waiting.heard_at.get_or_insert(now);
            }
            answer => self.answer_claim(&cancel_handle, reply, answer),
        }
    }

    /// Answers a claim, and notes what was given so that it can be called off.
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
            let grants = Grants::Claimed(leases.collect());
            cancel_handle.note(grants.clone());
            self.note_unwanted(grants);
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
            FleetOutcome::Nothing(why) => Ok(Claim::Nothing(why)),
            _ => Err(EngineError::Fault),
        }
    }

    fn assign(&mut self, now: Timestamp, task: TaskId) -> Result<(AgentId, Vec<TaskView>), EngineError> {
        let draw = self.draw();
        let FleetOutcome::Leased { agent, tasks } = self.fleet(now, FleetCommand::Assign { task, draw })? else {
            return Err(EngineError::Fault);
        };
        let views = self.views(now, &tasks);
        log_leased(&agent, &views);
        // If that agent is waiting for a task, here it is.
        if let Some(place) =
            self.waiting.claims.iter().position(|claim| claim.agent == agent && !claim.reply.is_closed())
            && let Some(claim) = self.waiting.claims.remove(place)
        {
            self.answer(claim.reply, Ok(Claim::Tasks { at: now, tasks: views.clone() }));
        }
        Ok((agent, views))
    }

    fn change_task(&mut self, now: Timestamp, task: TaskId, command: FleetCommand) -> Result<TaskAfter, EngineError> {
        let outcome = self.fleet(now, command)?;
        Ok(TaskAfter { outcome, view: self.task(now, &task)? })
    }

    fn tasks(&self, now: Timestamp, listing: &TaskListing) -> TaskPage {
        let mut views = self.cluster.tasks(now, &listing.filter, listing.after);
        let entries: Vec<TaskView> = views.by_ref().take(listing.limit).collect();
        let more = views.next().is_some();
        let next: Option<TaskNumber> = entries.last().filter(|_| more).map(|view| view.task.spec.number);
        TaskPage { at: now, total: self.cluster.count_tasks(&listing.filter), entries, next }
    }

    /// Takes a task back that nobody has begun.
    pub(super) fn take_back_task(&mut self, now: Timestamp, task: &TaskId) {
        let is_untouched = self.cluster.task(now, task).is_some_and(|view| {
            view.task.attempts.is_empty() && matches!(view.state, TaskState::Queued | TaskState::Deferred)
        });
        if is_untouched {
            let _ = self.fleet(now, FleetCommand::Cancel { task: task.clone() });
        }
    }

    /// Puts tasks back that were given to an agent that never heard of it.
    pub(super) fn return_tasks(&mut self, now: Timestamp, leases: &[(TaskId, FencingToken)]) {
        for (task, fencing_token) in leases {
            let _ = self.fleet(now, FleetCommand::Return { task: task.clone(), fencing_token: *fencing_token });
        }
    }

    /// Records what time has done to the fleet by `now`. What is left, if there is much, comes with the next batch.
    pub(super) fn pass_time(&mut self, now: Timestamp) {
        self.hear_waiting(now);
        if self.waiting.paused_until.is_some_and(|until| until > now)
            || self.cluster.fleet_due(now).is_none_or(|due| due > now)
        {
            return;
        }
        let passed = match self.fleet(now, FleetCommand::PassTime { steps_max: TIME_STEPS_MAX }) {
            Ok(FleetOutcome::TimePassed(passed)) => passed,
            Ok(_) => return,
            Err(error) => {
                tracing::error!(%error, "what time has done to the fleet could not be recorded; it is tried again");
                self.waiting.paused_until = Some(now.after(FAULT_PAUSE));
                return;
            }
        };
        if passed.refilled {
            tracing::info!("the token budget is refilled");
        }
        passed.expired.iter().for_each(log_left);
        passed.lost.iter().for_each(log_agent_left);
    }

    /// Whoever waits for a task is alive: as its client sees it, it does nothing else meanwhile.
    fn hear_waiting(&mut self, now: Timestamp) {
        let interval = self.cluster.fleet_settings().heartbeat_ms;
        if self.waiting.claims.is_empty() {
            self.waiting.heard_at = None;
            return;
        }
        if self.waiting.heard_at.is_some_and(|at| at.after(interval) > now) {
            return;
        }
        self.waiting.heard_at = Some(now);
        // Waiting raises tasks, and that may be what a claim needs while tokens are saved. It is no event.
        self.waiting.is_due = true;
        for claim in self.waiting.claims.iter().filter(|claim| !claim.reply.is_closed()) {
            self.cluster.hear(now, &claim.agent);
        }
    }

    /// Gives those who wait what there is for them by now, the oldest first, and lets those go whose time is up.
    pub(super) fn serve_waiting(&mut self, now: Timestamp) {
        if self.waiting.claims.is_empty() {
            return;
        }
        let may_serve = std::mem::take(&mut self.waiting.is_due);
        let mut left = VecDeque::new();
        while let Some(claim) = self.waiting.claims.pop_front() {
            if claim.reply.is_closed() || claim.cancel_handle.is_cancelled() {
                continue;
            }
            let is_over = claim.until <= now;
            // Once the last task that waits is given out, thousands more need not ask.
            let may_serve = may_serve && self.cluster.has_waiting_tasks();
            if !may_serve && !is_over {
                left.push_back(claim);
                continue;
            }
            match self.claim_now(now, &claim.agent) {
                Ok(Claim::Nothing(why)) if !is_over && why != NothingClaimed::Draining => left.push_back(claim),
                answer => self.answer_claim(&claim.cancel_handle, claim.reply, answer),
            }
        }
        self.waiting.claims = left;
    }

    /// Ends the claims of agents that have left, before others register by their names.
    pub(super) fn end_claims_of(&mut self, left: &BTreeSet<AgentId>) {
        if left.is_empty() {
            return;
        }
        let claims = std::mem::take(&mut self.waiting.claims);
        let (ended, others): (VecDeque<_>, _) = claims.into_iter().partition(|claim| left.contains(&claim.agent));
        self.waiting.claims = others;
        for claim in ended {
            self.answer(claim.reply, Err(FleetDenied::UnknownAgent(claim.agent).into()));
        }
    }

    /// How long the engine may sleep before something happens by itself; for ever if nothing does.
    pub(super) fn sleep_max(&self, now: Timestamp) -> Option<Duration> {
        let interval = self.cluster.fleet_settings().heartbeat_ms;
        let hear_at = self.waiting.heard_at.filter(|_| !self.waiting.claims.is_empty()).map(|at| at.after(interval));
        let over_at = self.waiting.claims.iter().map(|claim| claim.until).min();
        let paused_until = self.waiting.paused_until.filter(|until| *until > now);
        let due = self.cluster.fleet_due(now).max(paused_until);
        // A pause ends with a turn, even if nothing is due then: a longer sleep would hide that it stood still again.
        let refused_at = self.real.next_deadline();
        let next = [due, paused_until, hear_at, over_at, refused_at].into_iter().flatten().min();
        let is_listening = next.is_some() || self.cluster.next_deadline().is_some();
        let sleep_max = next.map_or(SLEEP_MAX, |next| Duration::from_millis(next.since(now).0).min(SLEEP_MAX));
        is_listening.then_some(sleep_max)
    }
}

fn log_leased(agent: &AgentId, tasks: &[TaskView]) {
    for view in tasks {
        let token = view.task.lease().map(|lease| lease.fencing_token.as_u64());
        tracing::debug!(task = %view.task.spec.task, %agent, fencing_token = token, "leased");
    }
}

fn log_left(left: &TaskLeft) {
    let TaskLeft { task, agent, outcome, state } = left;
    tracing::info!(%task, %agent, outcome = outcome.as_str(), state = %state, "attempt ended");
}

fn log_agent_left(left: &AgentLeft) {
    let (agent, tasks) = (&left.agent, left.tasks.len());
    match left.reason {
        AgentEnd::Unregistered => tracing::info!(%agent, tasks, "agent unregistered"),
        AgentEnd::Lost => tracing::warn!(%agent, tasks, "agent lost: it missed three heartbeats"),
        AgentEnd::AllocationEnded => tracing::info!(%agent, tasks, "agent let go: its allocation ended"),
    }
    left.tasks.iter().for_each(log_left);
}
