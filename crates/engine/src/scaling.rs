//! What the engine does for the planner: it counts demand, records the scaling policy and scalings in the cluster, and
//! wakes the planner when a replan trigger is raised.

use super::Engine;
use super::message::{EngineError, PlannerMessage, Reading};
use cortex_core::command::Command;
use cortex_core::ids::NodeId;
use cortex_core::policy::Policy;
use cortex_core::scaling_state::Scaling;
use cortex_core::time::Timestamp;
use cortex_core::units::Resources;
use cortex_journal::Journal;

impl<J: Journal> Engine<J> {
    pub(super) fn handle_planner(&mut self, now: Timestamp, message: PlannerMessage) {
        match message {
            PlannerMessage::Demand { is_sample, reply } => {
                let demand = self.cluster.demand(now, self.requests, self.worker_size);
                if is_sample {
                    self.requests.refused_workers_max = 0;
                    // The workers in use count in each bin, also without a request.
                    self.demand.note_workers(now, self.cluster.workers_taken(now));
                    self.write_demand(now);
                }
                self.answer(reply, Reading { at: now, value: demand });
            }
            PlannerMessage::DemandBins { after, reply } => {
                let bins = self.cluster.demand_bins(after).copied().collect();
                self.answer(reply, Reading { at: now, value: bins });
            }
            PlannerMessage::Scale { scaling, reply } => {
                let answer = self.scale(now, *scaling);
                self.answer(reply, answer);
            }
            PlannerMessage::Scalings { limit, reply } => {
                let scalings = self.cluster.scalings();
                let total = scalings.len();
                let answer = (scalings.take(limit).cloned().collect(), total);
                self.answer(reply, answer);
            }
            PlannerMessage::Policy { reply } => {
                let policy = self.cluster.policy();
                self.answer(reply, policy);
            }
            PlannerMessage::SetPolicy { policy, reply } => {
                let before = self.cluster.policy();
                let answer = self.execute(now, &Command::SetPolicy(policy)).map(|_| before);
                if answer.is_ok() && before != policy {
                    log_policy(&policy);
                }
                self.answer(reply, answer);
            }
        }
    }

    fn scale(&mut self, now: Timestamp, scaling: Scaling) -> Result<(), EngineError> {
        let held = self.cluster.capacity(now).total;
        if held.workers != scaling.workers_to {
            let capacity = Resources { workers: scaling.workers_to, ..held };
            self.execute(now, &Command::SetCapacity { node: NodeId::local(), capacity })?;
        }
        self.execute(now, &Command::NoteScaling(scaling)).map(drop)
    }

    /// Records the demand that was counted since the last time.
    pub(super) fn write_demand(&mut self, now: Timestamp) {
        let bins = self.demand.drain();
        if !bins.is_empty() {
            // Counting demand is never denied.
            let _ = self.execute(now, &Command::CountDemand(bins));
        }
    }

    /// Wakes the planner if a replan trigger was raised, and records demand whose bin is over.
    pub(super) fn trigger_replan(&mut self, now: Timestamp) {
        if self.demand.is_due(now) {
            self.write_demand(now);
        }
        let replan_triggers = self.cluster.replan_triggers();
        if replan_triggers.newly_raised_since(self.replan_triggers) {
            self.wake.notify_one();
        }
        self.replan_triggers = replan_triggers;
    }
}

fn log_policy(policy: &Policy) {
    tracing::info!(
        policy = %policy.name,
        queue_depth_up = policy.queue_depth_up,
        queue_depth_down = policy.queue_depth_down,
        tasks_per_agent = policy.tasks_per_agent,
        cooldown_seconds = policy.cooldown_ms.as_seconds(),
        "scaling policy set"
    );
}
