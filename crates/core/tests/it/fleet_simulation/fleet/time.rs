//! Changes by time in the model: budget refills, expired task leases, lost agents.

use super::Fleet;
use super::agents::Agent;
use cortex_core::fleet::agent::AgentEndReason;
use cortex_core::fleet::command::{FleetOutcome, TimeAdvance};
use cortex_core::fleet::task::AttemptOutcome;
use cortex_core::ids::{AgentId, FencingToken, TaskId};
use cortex_core::time::Timestamp;

impl Fleet {
    pub(super) fn advance_time(&mut self, now: Timestamp, steps_max: usize) -> FleetOutcome {
        let mut advance = TimeAdvance { refilled: self.refill(now), ..TimeAdvance::default() };
        for _ in 0..steps_max {
            if let Some(task) = self.overdue(now).first().cloned() {
                advance.expired.push(self.end_unreported(now, &task, AttemptOutcome::LeaseExpired));
            } else if let Some(agent) = self.lost_agents(now).first().cloned() {
                advance.lost.push(self.remove_agent(now, &agent, AgentEndReason::Lost));
            }
        }
        advance.more = !self.overdue(now).is_empty() || !self.lost_agents(now).is_empty();
        FleetOutcome::TimeAdvanced(Box::new(advance))
    }

    /// The next moment at which a change is due; `now` if one is due already.
    pub(crate) fn due(&self, now: Timestamp) -> Option<Timestamp> {
        let leases = self.by_deadline().into_iter().map(|(deadline, _, _)| self.ledger.deadline_with_grace(deadline));
        let losses = self.agents.iter().map(|agent| self.lost_at(agent));
        leases.chain(losses).chain(self.refill_due()).min().map(|due| due.max(now))
    }

    /// When the next agent becomes unresponsive, unless it sends a heartbeat.
    pub(crate) fn late_next(&self, now: Timestamp) -> Option<Timestamp> {
        let late_at = |agent: &Agent| self.lost_at(agent).before(self.settings.heartbeat_ms);
        self.agents.iter().map(late_at).filter(|at| *at > now).min()
    }

    /// Tasks whose leases have expired, the longest overdue first.
    fn overdue(&self, now: Timestamp) -> Vec<TaskId> {
        let is_expired =
            |(deadline, _, _): &(Timestamp, FencingToken, TaskId)| self.ledger.deadline_with_grace(*deadline) <= now;
        self.by_deadline().into_iter().filter(is_expired).map(|(_, _, task)| task).collect()
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

    /// Agents that are lost, the one with the oldest heartbeat first.
    fn lost_agents(&self, now: Timestamp) -> Vec<AgentId> {
        let mut silent: Vec<&Agent> = self.agents.iter().filter(|agent| self.lost_at(agent) <= now).collect();
        silent.sort_by_key(|agent| agent.last_heartbeat_at());
        silent.into_iter().map(|agent| agent.id().clone()).collect()
    }
}
