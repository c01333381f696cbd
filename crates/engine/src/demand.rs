//! What the engine does for the planner: it counts demand, and wakes the planner when a replan trigger is raised.

use super::Engine;
use cortex_core::command::Command;
use cortex_core::time::Timestamp;
use cortex_core::view::Demand;
use cortex_journal::Journal;

impl<J: Journal> Engine<J> {
    /// Reads the demand, resets the largest refused request, and records the demand counted so far.
    pub(super) fn sample_demand(&mut self, now: Timestamp) -> (Timestamp, Demand) {
        let demand = self.state().demand(now);
        self.requests.refused_workers_max = 0;
        // The workers in use count in each bin, also without a request.
        self.demand.note_workers(now, self.cluster.workers_taken(now));
        self.write_demand(now);
        (now, demand)
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
