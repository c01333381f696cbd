//! What time does in the reference: budgets are refilled, leases of tasks run out, silent agents are lost.

use super::Fleet;
use super::agents::Agent;
use cortex_core::fleet::agent::AgentEnd;
use cortex_core::fleet::command::{FleetOutcome, TimePassed};
use cortex_core::fleet::task::AttemptOutcome;
use cortex_core::ids::{AgentId, FencingToken, TaskId};
use cortex_core::time::Timestamp;

impl Fleet {
    pub(super) fn pass_time(&mut self, now: Timestamp, steps_max: usize) -> FleetOutcome {
        let mut passed = TimePassed { refilled: self.refill(now), ..TimePassed::default() };
        for _ in 0..steps_max {
            if let Some(task) = self.overdue(now).first().cloned() {
                passed.expired.push(self.lose(now, &task, AttemptOutcome::LeaseExpired));
            } else if let Some(agent) = self.silent(now).first().cloned() {
                passed.lost.push(self.let_go(now, &agent, AgentEnd::Lost));
            }
        }
        passed.more = !self.overdue(now).is_empty() || !self.silent(now).is_empty();
        FleetOutcome::TimePassed(Box::new(passed))
    }

    /// The next moment at which time does something; now, if it has.
    pub(crate) fn due(&self, now: Timestamp) -> Option<Timestamp> {
        let leases = self.by_deadline().into_iter().map(|(deadline, _, _)| self.ledger.deadline_with_grace(deadline));
        let losses = self.agents.iter().map(|agent| self.lost_at(agent));
        leases.chain(losses).chain(self.refill_due()).min().map(|due| due.max(now))
    }

    /// When the next agent counts as unresponsive, unless it is heard of before.
    pub(crate) fn late_next(&self, now: Timestamp) -> Option<Timestamp> {
        let late_at = |agent: &Agent| self.lost_at(agent).before(self.settings.heartbeat_ms);
        self.agents.iter().map(late_at).filter(|at| *at > now).min()
    }

    /// Tasks whose leases have run out, the longest overdue first.
    fn overdue(&self, now: Timestamp) -> Vec<TaskId> {
        let has_run_out =
            |(deadline, _, _): &(Timestamp, FencingToken, TaskId)| self.ledger.deadline_with_grace(*deadline) <= now;
        self.by_deadline().into_iter().filter(has_run_out).map(|(_, _, task)| task).collect()
    }

    fn by_deadline(&self) -> Vec<(Timestamp, FencingToken, TaskId)> {
        let leases = self.running().into_iter().filter_map(|task| {
            let lease = task.lease()?;
            Some((lease.deadline, lease.fencing_token, task.spec.task.clone()))
        });
        let mut leases: Vec<_> = leases.collect();
        leases.sort();
        leases
    }

    /// Agents that have been silent for too long, the longest silent first.
    fn silent(&self, now: Timestamp) -> Vec<AgentId> {
        let mut silent: Vec<&Agent> = self.agents.iter().filter(|agent| self.lost_at(agent) <= now).collect();
        silent.sort_by_key(|agent| agent.heard_at());
        silent.into_iter().map(|agent| agent.id().clone()).collect()
    }
}
