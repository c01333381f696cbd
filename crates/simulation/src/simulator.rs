//! The simulator: virtual time, agents and whoever runs them, around the real books and the real planner.
//!
//! The books are a [`Cluster`] that is told what the engine would tell it: tasks that come, agents that register, claim,
//! report and leave, and time that passes. The planner looks at it every so often, and when the books call for it. Whoever runs
//! the agents follows its plans: new agents are there after the time between two plans, idle ones leave at once, and one at
//! work leaves when it has done what it holds. The same options and arrivals lead to the same outcome.

mod staff;
#[cfg(test)]
mod tests;
mod work;

use super::arrivals::Arrival;
use super::crew::{Crew, Place};
use super::durations::Durations;
use super::options::{AGENTS_MAX, Loss, Operator, Options, TokenBudget};
use super::outcome::Outcome;
use cortex_core::Cluster;
use cortex_core::command::{Command, Decision, Denied, Outcome as CoreOutcome};
use cortex_core::demand::DemandCounter;
use cortex_core::event::{Limits, Recorded};
use cortex_core::fleet::command::{FleetCommand, FleetOutcome};
use cortex_core::fleet::replan_triggers::ReplanTriggers;
use cortex_core::fleet::settings::FleetSettings;
use cortex_core::fleet::task::{Selector, TaskRequest, TokensExpected};
use cortex_core::ids::{AgentType, FencingToken, NodeId};
use cortex_core::priority::Priority;
use cortex_core::time::{Millis, Timestamp, TtlSeconds};
use cortex_core::units::{CpuMillis, MemoryMb, Resources, WorkerSize};
use cortex_planning::{Bounds, Planner};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// What an agent takes: as little as there is, since there is room for all of them.
const WORKER_SIZE: WorkerSize = WorkerSize { cpu_millis: CpuMillis::from_millis(1), memory_mb: MemoryMb(1) };

/// How long a task may take, in seconds: a century, so that no lease runs out while its agent is alive.
const LEASE_SECONDS: u64 = 3_155_760_000;

/// How often an agent beats when no agent vanishes, so that no beat tells anything: as rarely as the settings admit.
const RARE_HEARTBEAT: Millis = Millis::from_seconds(3_600);

/// What happens next. Of what happens in the same millisecond, the first of these comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Loss,
    Report,
    Time,
    Beat,
    Start,
    Plan,
    Arrival,
}

/// A simulator on its way.
pub struct Simulator {
    cluster: Cluster,
    crew: Crew,
    planner: Option<Planner>,
    plan_every: Millis,
    agents_max: u64,
    agents_fixed: u64,
    heartbeat: Millis,
    has_budget: bool,
    /// What happens by itself in the books has to be looked for only if something does.
    looks_at_time: bool,
    durations: Durations,
    /// The latest first.
    losses: Vec<Loss>,
    template: Box<TaskRequest>,
    agent_type: AgentType,

    now: Millis,
    /// When the next plan is due, and when one was called for before, if it was.
    plan_at: Millis,
    called_at: Option<Millis>,
    planned_at: Millis,
    replan_triggers: ReplanTriggers,
    /// What comes, as the planner is told of it.
    demand: DemandCounter,
    beat_at: Millis,
    /// When tasks are done, and in whose hands they are under which token.
    reports: BinaryHeap<Reverse<(Millis, FencingToken, Place)>>,
    /// How many tasks wait, for an agent or for tokens.
    waiting: u64,
    /// How many agents are there from when on, the next first.
    starting: VecDeque<(Millis, u64)>,
    outcome: Outcome,
}

impl Simulator {
    /// A simulator in which nothing has happened.
    #[must_use]
    pub fn new(options: &Options, operator: Operator) -> Self {
        let mut losses = options.losses.clone();
        losses.sort_by_key(|loss| Reverse(loss.at));
        let heartbeat = if losses.is_empty() { RARE_HEARTBEAT } else { options.fleet.heartbeat_ms };
        let agents_max = options.agents_max.clamp(1, AGENTS_MAX);
        // As many workers as there may be agents: who runs agents is asked for them, and not for workers.
        let bounds = Bounds { workers_min: AGENTS_MAX, workers_max: AGENTS_MAX };
        let planner = match operator {
            Operator::Planner(_) => Some(Planner::new(bounds)),
            Operator::Nobody => None,
        };
        let mut simulator = Self {
            cluster: Cluster::default(),
            crew: Crew::default(),
            planner,
            plan_every: options.plan_every,
            agents_max,
            agents_fixed: options.agents_at_start.clamp(1, agents_max),
            heartbeat,
            has_budget: options.tokens.is_some(),
            looks_at_time: options.tokens.is_some_and(|budget| !budget.window.is_zero()) || !losses.is_empty(),
            durations: Durations::new(options.seed, options.duration_mean),
            losses,
            template: Box::new(template()),
            agent_type: AgentType::new("agent").unwrap_or_else(|error| panic!("a name: {error}")),
            now: Millis(0),
            plan_at: Millis(0),
            called_at: None,
            planned_at: Millis(0),
            replan_triggers: ReplanTriggers::default(),
            demand: DemandCounter::default(),
            beat_at: heartbeat,
            reports: BinaryHeap::new(),
            waiting: 0,
            starting: VecDeque::new(),
            outcome: Outcome::new(),
        };
        simulator.open_books(options, heartbeat);
        if let Operator::Planner(policy) = operator {
            simulator.command(&Command::SetPolicy(policy));
        }
        simulator
    }

    /// Lives through all arrivals until all that came is done, or nothing can go on.
    ///
    /// # Errors
    /// The first one among the arrivals.
    pub fn run<E>(mut self, mut arrivals: impl Iterator<Item = Result<Arrival, E>>) -> Result<Outcome, E> {
        self.starting.push_back((Millis(0), self.agents_fixed));
        let mut arrival = arrivals.next().transpose()?;
        loop {
            let is_over = arrival.is_none() && (self.open() == 0 || self.is_stuck());
            if is_over {
                return Ok(self.outcome);
            }
            let (at, next) = self.next(arrival);
            self.pass(at);
            match next {
                Next::Arrival => {
                    if let Some(arrival) = arrival {
                        self.submit(arrival);
                    }
                    arrival = arrivals.next().transpose()?;
                }
                Next::Report => self.report(),
                Next::Start => self.start(),
                Next::Plan => self.plan(),
                Next::Beat => self.beat(),
                Next::Time => self.pass_time(),
                Next::Loss => self.lose(),
            }
            self.call_planner();
        }
    }

    fn open_books(&mut self, options: &Options, heartbeat: Millis) {
        let capacity = Resources::of_workers(AGENTS_MAX, WORKER_SIZE);
        self.command(&Command::SetCapacity { node: NodeId::local(), capacity });
        // What has ended is counted here, and nobody asks the books for it.
        self.command(&Command::SetLimits(Limits { live_allocations_max: 1, history_records_max: 1 }));
        let settings = FleetSettings { heartbeat_ms: heartbeat, ..options.fleet };
        self.fleet(FleetCommand::SetSettings(settings));
        let budget = options.tokens.unwrap_or(TokenBudget { tokens: u64::MAX, window: Millis(0) });
        let (tokens, window) = (Some(budget.tokens), Some(budget.window));
        self.fleet(FleetCommand::SetTokenBudget { job: None, tokens, window });
        // So that the planner knows of it.
        self.fleet(FleetCommand::SetAgentQuota { agent_type: None, agents: Some(self.agents_max) });
    }

    /// What happens next, and when.
    fn next(&self, arrival: Option<Arrival>) -> (Millis, Next) {
        let plan_at = self.called_at.map_or(self.plan_at, |called_at| called_at.min(self.plan_at));
        let mut next = (plan_at, Next::Plan).min((self.beat_at, Next::Beat));
        if let Some((at, _)) = self.starting.front() {
            next = next.min((*at, Next::Start));
        }
        if let Some(Reverse((at, ..))) = self.reports.peek() {
            next = next.min((*at, Next::Report));
        }
        if let Some(arrival) = arrival {
            // Nobody is asked before the first plan is made.
            next = next.min((arrival.at, Next::Arrival));
        }
        if let Some(loss) = self.losses.last() {
            next = next.min((loss.at, Next::Loss));
        }
        if self.looks_at_time
            && let Some(due) = self.cluster.fleet_due(self.moment())
        {
            next = next.min((due.since(Timestamp::default()), Next::Time));
        }
        (next.0.max(self.now), next.1)
    }

    /// Lets time pass up to a moment.
    fn pass(&mut self, at: Millis) {
        if at > self.now {
            self.outcome.pass(self.now, at, self.crew.live(), self.waiting);
            self.now = at;
            self.cluster.observe(self.moment());
        }
    }

    fn moment(&self) -> Timestamp {
        Timestamp::default().after(self.now)
    }

    /// How many tasks are still to be done.
    const fn open(&self) -> u64 {
        self.outcome.left()
    }

    /// Whether nothing will ever go on: what waits, waits for tokens that will not come.
    fn is_stuck(&self) -> bool {
        if !self.has_budget || self.crew.at_work() > 0 || self.crew.has_silent() {
            return false;
        }
        let usage = self.cluster.usage(self.moment(), WORKER_SIZE);
        let refill_comes = !usage.tokens.window.is_zero() && usage.tokens.all.settled > 0;
        !refill_comes && usage.conservation.active_tasks == 0
    }

    fn fleet(&mut self, command: FleetCommand) -> FleetOutcome {
        match self.command(&Command::Fleet(command)) {
            CoreOutcome::Fleet(outcome) => outcome,
            other => panic!("a command about the fleet answered {other:?}"),
        }
    }

    /// A command that cannot be refused.
    fn command(&mut self, command: &Command) -> CoreOutcome {
        let decision = self.decide(command).unwrap_or_else(|denied| panic!("{command:?} is refused: {denied}"));
        self.apply(decision)
    }

    fn decide(&self, command: &Command) -> Result<Decision, Denied> {
        self.cluster.decide(self.moment(), command)
    }

    fn apply(&mut self, decision: Decision) -> CoreOutcome {
        let at = self.moment();
        for event in decision.events {
            self.cluster.apply(&Recorded { at, event });
        }
        decision.outcome
    }
}

/// What all tasks have in common.
fn template() -> TaskRequest {
    TaskRequest {
        task: None,
        job: None,
        selector: Selector::default(),
        priority: Priority::Normal,
        tokens: TokensExpected::default(),
        deadline: None,
        batch: None,
        payload: None,
        // No task is ever given up for the loss of its agent.
        attempts_max: u32::MAX,
        lease_seconds: TtlSeconds::new(LEASE_SECONDS).unwrap_or_else(|| panic!("above 0")),
    }
}
