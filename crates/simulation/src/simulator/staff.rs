//! Staff: agents that come and go as the plans say, and those that vanish.

use super::super::options::AGENTS_MAX;
use super::super::outcome::Scaling;
use super::{Simulator, WORKER_SIZE};
use cortex_core::allocation::Metadata;
use cortex_core::command::{Command, Denied};
use cortex_core::demand::DemandBin;
use cortex_core::fleet::agent::{AgentRequest, Capabilities};
use cortex_core::fleet::command::{FleetCommand, FleetDenied, FleetOutcome};
use cortex_core::fleet::task::TaskState;
use cortex_core::fleet::view::TaskFilter;
use cortex_core::ids::AgentId;
use cortex_core::time::Millis;
use cortex_core::view::{Demand, RequestsSeen};
use cortex_planning::{Bottlenecks, Planner, REPLAN_INTERVAL_MIN};

/// How many steps of time are recorded at once.
const TIME_STEPS_MAX: usize = 500;

impl Simulator {
    /// Those who are to come by now are there.
    pub(super) fn start(&mut self) {
        if let Some((_, agents)) = self.starting.pop_front() {
            for _ in 0..agents {
                self.register();
            }
            self.hand_out();
        }
    }

    /// A plan is called for, if anything came up that did not before.
    pub(super) fn call_planner(&mut self) {
        let replan_triggers = self.cluster.replan_triggers();
        if replan_triggers.newly_raised_since(self.replan_triggers) {
            let earliest = Millis(self.planned_at.0.saturating_add(REPLAN_INTERVAL_MIN.0));
            self.called_at.get_or_insert(earliest.max(self.now));
        }
        self.replan_triggers = replan_triggers;
    }

    /// A plan is made and followed.
    pub(super) fn plan(&mut self) {
        self.plan_at = Millis(self.now.0.saturating_add(self.plan_every.0));
        (self.planned_at, self.called_at) = (self.now, None);
        if self.has_budget {
            let filter = TaskFilter { state: Some(TaskState::Deferred), ..TaskFilter::default() };
            self.outcome.deferred_most = self.outcome.deferred_most.max(self.cluster.count_tasks(&filter));
        }
        let now = self.moment();
        let demand = self.cluster.demand(now, RequestsSeen::default(), WORKER_SIZE);
        let there = demand.fleet.agents;
        let target = match self.planner.take() {
            Some(mut planner) => {
                let target = self.ask(&mut planner, &demand);
                self.planner = Some(planner);
                target
            }
            None => self.agents_fixed,
        };
        self.follow(there, target);
        #[cfg(test)]
        assert_eq!(cortex_core::check::violations(&self.cluster), [] as [String; 0], "at {:?}", self.now);
    }

    /// How many agents there should be, by the planner, who is shown what the loop of the server would show it.
    fn ask(&mut self, planner: &mut Planner, demand: &Demand) -> u64 {
        let now = self.moment();
        let counted = self.demand.hand_over();
        self.command(&Command::CountDemand(counted));
        self.demand.settle();
        let bins: Vec<DemandBin> =
            self.cluster.demand_bins(planner.demand_forecast().last_bin_start()).copied().collect();
        planner.ingest(&bins, now);
        planner.catch_up(now);
        let seen = planner.sample(now, demand);
        // What holds tasks up is told with a plan and changes nothing in it; nobody reads it here.
        let plan = planner.plan(&seen, Some(&Bottlenecks { at: now, found: Vec::new() }));
        if let Some(scaling) = planner.scaling(&plan) {
            self.outcome.note_scaling(Scaling { at: self.now, from: scaling.agents_from, to: scaling.agents_to });
        }
        planner.record(&plan, false);
        plan.target_agents
    }

    /// Does what it takes for as many agents as there should be.
    fn follow(&mut self, there: u64, target: u64) {
        let target = target.min(AGENTS_MAX);
        let starting: u64 = self.starting.iter().map(|(_, agents)| agents).sum();
        let staying = there - self.crew.leaving();
        if target > staying + starting {
            let missing = target - staying - starting;
            let kept = missing.min(self.crew.leaving());
            self.crew.keep(kept);
            if missing > kept {
                let at = Millis(self.now.0.saturating_add(self.plan_every.0));
                self.starting.push_back((at, missing - kept));
            }
        } else {
            let mut too_many = (staying + starting).saturating_sub(target);
            // Those who have not begun come last.
            while too_many > 0
                && let Some((_, agents)) = self.starting.back_mut()
            {
                let called_off = too_many.min(*agents);
                (*agents, too_many) = (*agents - called_off, too_many - called_off);
                if *agents == 0 {
                    self.starting.pop_back();
                }
            }
            while too_many > 0
                && let Some(agent) = self.crew.send_away()
            {
                self.unregister(agent);
                too_many -= 1;
            }
            self.crew.let_finish(too_many);
        }
    }

    fn register(&mut self) {
        let agent = self.crew.next_name();
        let request = AgentRequest {
            agent: agent.clone(),
            agent_type: self.agent_type.clone(),
            capabilities: Capabilities::default(),
            tasks_max: 1,
            allocation: None,
            metadata: Metadata::empty(),
        };
        let command = FleetCommand::Register { request: Box::new(request), worker_size: WORKER_SIZE };
        match self.decide(&Command::Fleet(command)) {
            Ok(decision) => self.apply(decision),
            // There are as many as there may be: the next plan will know.
            Err(Denied::Fleet(FleetDenied::QuotaReached { .. } | FleetDenied::NoWorker(_))) => return,
            Err(denied) => panic!("an agent cannot register: {denied}"),
        };
        self.crew.join(agent);
        self.outcome.agents_most = self.outcome.agents_most.max(self.crew.live());
    }

    /// All that are alive are heard.
    pub(super) fn beat(&mut self) {
        self.beat_at = Millis(self.now.0.saturating_add(self.heartbeat.0));
        let now = self.moment();
        for agent in self.crew.alive() {
            self.cluster.hear(now, agent);
        }
    }

    /// What time does by itself: tokens are there again, and agents that were not heard of are lost.
    pub(super) fn pass_time(&mut self) {
        let FleetOutcome::TimePassed(passed) = self.fleet(FleetCommand::PassTime { steps_max: TIME_STEPS_MAX }) else {
            panic!("time does not pass")
        };
        assert_eq!(passed.expired, [], "no lease runs out");
        for lost in passed.lost {
            let returned = lost.tasks.len() as u64;
            self.waiting += returned;
            self.outcome.returned += returned;
            self.crew.forget(&lost.agent);
        }
        self.hand_out();
    }

    pub(super) fn lose(&mut self) {
        if let Some(loss) = self.losses.pop() {
            self.outcome.vanished += self.crew.vanish(loss.agents);
        }
    }

    /// An agent leaves, which holds nothing.
    pub(super) fn unregister(&mut self, agent: AgentId) {
        match self.fleet(FleetCommand::Unregister { agent }) {
            FleetOutcome::Unregistered(left) => assert_eq!(left.tasks, [], "nobody is sent away from work"),
            other => panic!("an agent that leaves is answered {other:?}"),
        }
    }
}
