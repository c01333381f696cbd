//! Autoscaling: agents that start and stop as the plans say, and agents that vanish.

use super::super::options::AGENTS_MAX;
use super::super::outcome::ScalingChange;
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
use cortex_core::view::{Demand, RequestCounts};
use cortex_planning::{Bottlenecks, Planner, REPLAN_INTERVAL_MIN};

/// The maximum number of timed events per command.
const TIME_STEPS_MAX: usize = 500;

impl Simulator {
    /// Registers the agents that have started by now.
    pub(super) fn register_started(&mut self) {
        if let Some((_, agents)) = self.starting.pop_front() {
            for _ in 0..agents {
                self.register();
            }
            self.hand_out();
        }
    }

    /// Schedules a plan if a replan trigger was newly raised.
    pub(super) fn check_replan_triggers(&mut self) {
        let replan_triggers = self.cluster.replan_triggers();
        if replan_triggers.newly_raised_since(self.replan_triggers) {
            let earliest = Millis(self.planned_at.0.saturating_add(REPLAN_INTERVAL_MIN.0));
            self.triggered_at.get_or_insert(earliest.max(self.now));
        }
        self.replan_triggers = replan_triggers;
    }

    /// Makes a plan and follows it.
    pub(super) fn make_plan(&mut self) {
        self.plan_at = Millis(self.now.0.saturating_add(self.plan_every.0));
        (self.planned_at, self.triggered_at) = (self.now, None);
        if self.has_budget {
            let filter = TaskFilter { state: Some(TaskState::Deferred), ..TaskFilter::default() };
            self.outcome.deferred_most = self.outcome.deferred_most.max(self.cluster.count_tasks(&filter));
        }
        let now = self.timestamp();
        let demand = self.cluster.demand(now, RequestCounts::default(), WORKER_SIZE);
        let registered = demand.fleet.agents;
        let target = match self.planner.take() {
            Some(mut planner) => {
                let target = self.target_agents(&mut planner, &demand);
                self.planner = Some(planner);
                target
            }
            None => self.agents_fixed,
        };
        self.scale_to(registered, target);
        #[cfg(test)]
        assert_eq!(cortex_core::check::violations(&self.cluster), [] as [String; 0], "at {:?}", self.now);
    }

    /// Returns the target number of agents by the planner, which receives what the server's planner loop would give
    /// it.
    fn target_agents(&mut self, planner: &mut Planner, demand: &Demand) -> u64 {
        let now = self.timestamp();
        let counted = self.demand.drain();
        self.command(&Command::CountDemand(counted));
        self.demand.commit();
        let bins: Vec<DemandBin> =
            self.cluster.demand_bins(planner.demand_forecast().last_bin_start()).copied().collect();
        planner.ingest(&bins, now);
        planner.catch_up(now);
        let seen = planner.sample(now, demand);
        // Bottlenecks are part of a plan's report and do not change its targets, so they are not computed.
        let plan = planner.plan(&seen, Some(&Bottlenecks { at: now, found: Vec::new() }));
        if let Some(scaling) = planner.scaling(&plan) {
            self.outcome.record_scaling(ScalingChange {
                at: self.now,
                from: scaling.agents_from,
                to: scaling.agents_to,
            });
        }
        planner.record(&plan, false);
        plan.target_agents
    }

    /// Starts, keeps, cancels or stops agents to reach the target.
    fn scale_to(&mut self, registered: u64, target: u64) {
        let target = target.min(AGENTS_MAX);
        let starting: u64 = self.starting.iter().map(|(_, agents)| agents).sum();
        let staying = registered - self.agents.draining_count();
        if target > staying + starting {
            let missing = target - staying - starting;
            let kept = missing.min(self.agents.draining_count());
            self.agents.cancel_drain(kept);
            if missing > kept {
                let at = Millis(self.now.0.saturating_add(self.plan_every.0));
                self.starting.push_back((at, missing - kept));
            }
        } else {
            let mut excess = (staying + starting).saturating_sub(target);
            // Agents that start last are cancelled first.
            while excess > 0
                && let Some((_, agents)) = self.starting.back_mut()
            {
                let cancelled = excess.min(*agents);
                (*agents, excess) = (*agents - cancelled, excess - cancelled);
                if *agents == 0 {
                    self.starting.pop_back();
                }
            }
            while excess > 0
                && let Some(agent) = self.agents.remove_first_idle()
            {
                self.unregister(agent);
                excess -= 1;
            }
            self.agents.drain(excess);
        }
    }

    fn register(&mut self) {
        let agent = self.agents.next_id();
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
            // The maximum is reached: the next plan considers it.
            Err(Denied::Fleet(FleetDenied::QuotaReached { .. } | FleetDenied::NoWorker(_))) => return,
            Err(denied) => panic!("an agent cannot register: {denied}"),
        };
        self.agents.add(agent);
        self.outcome.agents_most = self.outcome.agents_most.max(self.agents.live_count());
    }

    /// Sends the heartbeats of all live agents.
    pub(super) fn send_heartbeats(&mut self) {
        self.heartbeat_at = Millis(self.now.0.saturating_add(self.heartbeat.0));
        let now = self.timestamp();
        for agent in self.agents.live_ids() {
            self.cluster.record_heartbeat(now, agent);
        }
    }

    /// Processes timed events: refilled tokens and agents whose heartbeats are overdue.
    pub(super) fn pass_time(&mut self) {
        let FleetOutcome::TimeAdvanced(passed) = self.fleet(FleetCommand::AdvanceTime { steps_max: TIME_STEPS_MAX })
        else {
            panic!("time does not pass")
        };
        assert_eq!(passed.expired, [], "no lease expires");
        for lost in passed.lost {
            let returned = lost.tasks.len() as u64;
            self.waiting += returned;
            self.outcome.returned += returned;
            self.agents.remove_lost(&lost.agent);
        }
        self.hand_out();
    }

    pub(super) fn lose_agents(&mut self) {
        if let Some(loss) = self.losses.pop() {
            self.outcome.vanished += self.agents.vanish(loss.agents);
        }
    }

    /// Unregisters an agent that holds no task.
    pub(super) fn unregister(&mut self, agent: AgentId) {
        match self.fleet(FleetCommand::Unregister { agent }) {
            FleetOutcome::Unregistered(left) => assert_eq!(left.tasks, [], "only idle agents unregister"),
            other => panic!("unregistering an agent returned {other:?}"),
        }
    }
}
