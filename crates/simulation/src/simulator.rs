//! The simulator: virtual time and simulated agents around the real cluster state machine and the real planner.
//!
//! The [`Cluster`] receives the commands that the engine would send: submitted tasks, agents that register, claim,
//! report and unregister, and the passing of time. The planner samples it periodically, and when a replan trigger is
//! raised. The simulated operator follows the plans: new agents are available after one planning interval, idle
//! agents leave immediately, and working agents leave after their current task. The same options and arrivals lead to
//! the same outcome.

mod autoscale;
mod tasks;
#[cfg(test)]
mod tests;

use super::agents::{AgentSlot, Agents};
use super::arrivals::Arrival;
use super::durations::Durations;
use super::options::{AGENTS_MAX, AgentLoss, Operator, Options, TokenBudget};
use super::outcome::SimulationOutcome;
use cortex_core::Cluster;
use cortex_core::command::{Command, Decision, Denied, Outcome as CoreOutcome};
use cortex_core::demand::DemandCounter;
use cortex_core::event::{Limits, Recorded};
use cortex_core::fleet::command::{FleetCommand, FleetOutcome};
use cortex_core::fleet::replan_triggers::ReplanTriggers;
use cortex_core::fleet::settings::FleetSettings;
use cortex_core::fleet::task::{Selector, TaskRequest, TokenHints};
use cortex_core::ids::{AgentType, FencingToken, NodeId};
use cortex_core::priority::Priority;
use cortex_core::time::{Millis, Timestamp, TtlSeconds};
use cortex_core::units::{CpuMillis, MemoryMb, Resources, WorkerSize};
use cortex_planning::{Bounds, Planner};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// The size of an agent: the minimum, because there is capacity for all of them.
const WORKER_SIZE: WorkerSize = WorkerSize { cpu_millis: CpuMillis::from_millis(1), memory_mb: MemoryMb(1) };

/// The lease time of a task, in seconds: a century, so that no lease expires while its agent is alive.
const LEASE_SECONDS: u64 = 3_155_760_000;

/// The token budget without a limit: more tokens than any trace needs, never refilled.
const UNLIMITED_BUDGET: TokenBudget = TokenBudget { tokens: u64::MAX, window: Millis(0) };

/// The attempts of a task: so many that none is given up because its agents were lost.
const UNLIMITED_ATTEMPTS: u32 = u32::MAX;

/// The heartbeat interval without losses, when heartbeats carry no information: the longest that the settings allow.
const HEARTBEAT_MAX: Millis = Millis::from_seconds(3_600);

/// The next event. Events of the same millisecond happen in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum NextEvent {
    Loss,
    Report,
    Time,
    Heartbeat,
    Start,
    Plan,
    Arrival,
}

/// A running simulation.
pub struct Simulator {
    cluster: Cluster,
    agents: Agents,
    planner: Option<Planner>,
    plan_every: Millis,
    agents_max: u64,
    agents_fixed: u64,
    heartbeat: Millis,
    has_budget: bool,
    /// Whether the cluster has timed events (refills or lost agents), so that their due time must be checked.
    has_timed_events: bool,
    durations: Durations,
    /// The remaining losses, the latest first.
    losses: Vec<AgentLoss>,
    template: Box<TaskRequest>,
    agent_type: AgentType,

    now: Millis,
    /// The time of the next periodic plan, and of a triggered plan if one is pending.
    plan_at: Millis,
    triggered_at: Option<Millis>,
    planned_at: Millis,
    replan_triggers: ReplanTriggers,
    /// The demand counter that the planner learns from.
    demand: DemandCounter,
    heartbeat_at: Millis,
    /// The ends of running tasks, with their tokens and agents.
    reports: BinaryHeap<Reverse<(Millis, FencingToken, AgentSlot)>>,
    /// The number of tasks that wait for an agent or for tokens.
    waiting: u64,
    /// The agents that are starting, with the time they become available, the next first.
    starting: VecDeque<(Millis, u64)>,
    outcome: SimulationOutcome,
}

impl Simulator {
    /// Creates a simulation at its start.
    #[must_use]
    pub fn new(options: &Options, operator: Operator) -> Self {
        let mut losses = options.losses.clone();
        losses.sort_by_key(|loss| Reverse(loss.at));
        let heartbeat = if losses.is_empty() { HEARTBEAT_MAX } else { options.fleet.heartbeat_ms };
        let agents_max = options.agents_max.clamp(1, AGENTS_MAX);
        // As many workers as there may be agents: the planner requests agents from their operator, not workers.
        let bounds = Bounds { workers_min: AGENTS_MAX, workers_max: AGENTS_MAX };
        let planner = match operator {
            Operator::Planner(_) => Some(Planner::new(bounds)),
            Operator::Fixed => None,
        };
        let mut simulator = Self {
            cluster: Cluster::default(),
            agents: Agents::default(),
            planner,
            plan_every: options.plan_every,
            agents_max,
            agents_fixed: options.agents_at_start.clamp(1, agents_max),
            heartbeat,
            has_budget: options.tokens.is_some(),
            has_timed_events: options.tokens.is_some_and(|budget| !budget.window.is_zero()) || !losses.is_empty(),
            durations: Durations::new(options.seed, options.duration_mean),
            losses,
            template: Box::new(template()),
            agent_type: AgentType::new("agent").unwrap_or_else(|error| panic!("a name: {error}")),
            now: Millis(0),
            plan_at: Millis(0),
            triggered_at: None,
            planned_at: Millis(0),
            replan_triggers: ReplanTriggers::default(),
            demand: DemandCounter::default(),
            heartbeat_at: heartbeat,
            reports: BinaryHeap::new(),
            waiting: 0,
            starting: VecDeque::new(),
            outcome: SimulationOutcome::new(),
        };
        simulator.configure_cluster(options, heartbeat);
        if let Operator::Planner(policy) = operator {
            simulator.command(&Command::SetPolicy(policy));
        }
        simulator
    }

    /// Processes all arrivals until every task has ended, or nothing can make progress.
    ///
    /// # Errors
    /// The first error among the arrivals.
    pub fn run<E>(mut self, mut arrivals: impl Iterator<Item = Result<Arrival, E>>) -> Result<SimulationOutcome, E> {
        self.starting.push_back((Millis(0), self.agents_fixed));
        let mut arrival = arrivals.next().transpose()?;
        loop {
            let is_over = arrival.is_none() && (self.open_tasks() == 0 || self.is_stuck());
            if is_over {
                return Ok(self.outcome);
            }
            let (at, next) = self.next_event(arrival);
            self.advance_to(at);
            match next {
                NextEvent::Arrival => {
                    if let Some(arrival) = arrival {
                        self.submit(arrival);
                    }
                    arrival = arrivals.next().transpose()?;
                }
                NextEvent::Report => self.report_next(),
                NextEvent::Start => self.register_started(),
                NextEvent::Plan => self.make_plan(),
                NextEvent::Heartbeat => self.send_heartbeats(),
                NextEvent::Time => self.pass_time(),
                NextEvent::Loss => self.lose_agents(),
            }
            self.check_replan_triggers();
        }
    }

    fn configure_cluster(&mut self, options: &Options, heartbeat: Millis) {
        let capacity = Resources::of_workers(AGENTS_MAX, WORKER_SIZE);
        self.command(&Command::SetCapacity { node: NodeId::local(), capacity });
        // Ended records are counted here and never queried from the cluster.
        self.command(&Command::SetLimits(Limits { live_allocations_max: 1, history_records_max: 1 }));
        let settings = FleetSettings { heartbeat_ms: heartbeat, ..options.fleet };
        self.fleet(FleetCommand::SetSettings(settings));
        let budget = options.tokens.unwrap_or(UNLIMITED_BUDGET);
        let (tokens, window) = (Some(budget.tokens), Some(budget.window));
        self.fleet(FleetCommand::SetTokenBudget { job: None, tokens, window });
        // The quota tells the planner the maximum number of agents.
        self.fleet(FleetCommand::SetAgentQuota { agent_type: None, agents: Some(self.agents_max) });
    }

    /// Returns the next event and its time.
    fn next_event(&self, arrival: Option<Arrival>) -> (Millis, NextEvent) {
        let plan_at = self.triggered_at.map_or(self.plan_at, |triggered_at| triggered_at.min(self.plan_at));
        let mut next = (plan_at, NextEvent::Plan).min((self.heartbeat_at, NextEvent::Heartbeat));
        if let Some((at, _)) = self.starting.front() {
            next = next.min((*at, NextEvent::Start));
        }
        if let Some(Reverse((at, ..))) = self.reports.peek() {
            next = next.min((*at, NextEvent::Report));
        }
        if let Some(arrival) = arrival {
            next = next.min((arrival.at, NextEvent::Arrival));
        }
        if let Some(loss) = self.losses.last() {
            next = next.min((loss.at, NextEvent::Loss));
        }
        if self.has_timed_events
            && let Some(due) = self.cluster.next_fleet_deadline(self.timestamp())
        {
            next = next.min((due.since(Timestamp::default()), NextEvent::Time));
        }
        (next.0.max(self.now), next.1)
    }

    /// Advances the virtual time.
    fn advance_to(&mut self, at: Millis) {
        if at > self.now {
            self.outcome.add_interval(self.now, at, self.agents.live_count(), self.waiting);
            self.now = at;
            self.cluster.observe(self.timestamp());
        }
    }

    fn timestamp(&self) -> Timestamp {
        Timestamp::default().after(self.now)
    }

    /// Returns the number of tasks that have not ended.
    const fn open_tasks(&self) -> u64 {
        self.outcome.left()
    }

    /// Returns whether no progress is possible: all open tasks wait for tokens that will never be refilled.
    fn is_stuck(&self) -> bool {
        if !self.has_budget || self.agents.working_count() > 0 || self.agents.has_vanished() {
            return false;
        }
        let usage = self.cluster.usage(self.timestamp(), WORKER_SIZE);
        let refill_comes = !usage.tokens.window.is_zero() && usage.tokens.all.settled > 0;
        !refill_comes && usage.conservation.active_tasks == 0
    }

    fn fleet(&mut self, command: FleetCommand) -> FleetOutcome {
        match self.command(&Command::Fleet(command)) {
            CoreOutcome::Fleet(outcome) => outcome,
            other => panic!("a fleet command returned {other:?}"),
        }
    }

    /// Executes a command that cannot be denied.
    fn command(&mut self, command: &Command) -> CoreOutcome {
        let decision = self.decide(command).unwrap_or_else(|denied| panic!("{command:?} is denied: {denied}"));
        self.apply(decision)
    }

    fn decide(&self, command: &Command) -> Result<Decision, Denied> {
        self.cluster.decide(self.timestamp(), command)
    }

    fn apply(&mut self, decision: Decision) -> CoreOutcome {
        let at = self.timestamp();
        for event in decision.events {
            self.cluster.apply(&Recorded { at, event });
        }
        decision.outcome
    }
}

/// Returns the properties that all tasks share.
fn template() -> TaskRequest {
    TaskRequest {
        task: None,
        job: None,
        selector: Selector::default(),
        priority: Priority::Normal,
        tokens: TokenHints::default(),
        deadline: None,
        batch: None,
        payload: None,
        attempts_max: UNLIMITED_ATTEMPTS,
        lease_seconds: TtlSeconds::new(LEASE_SECONDS).unwrap_or_else(|| panic!("above 0")),
    }
}
