//! Agents of the model: registration, removal, heartbeats and health.

use super::Fleet;
use cortex_core::allocation::State;
use cortex_core::command::Denied;
use cortex_core::fleet::agent::{AgentEndReason, AgentRequest, Registration};
use cortex_core::fleet::command::{FleetDenied, FleetOutcome, RemovedAgent};
use cortex_core::fleet::health::Health;
use cortex_core::fleet::task::{AttemptOutcome, Task};
use cortex_core::fleet::view::AgentState;
use cortex_core::ids::{AgentId, AgentType};
use cortex_core::time::{Millis, Timestamp};
use cortex_core::units::WorkerSize;
use std::sync::Arc;

/// The period that an agent's health is computed over.
const HEALTH_WINDOW_MS: u64 = 60_000;
/// The maximum number of ended tasks that count.
const HEALTH_TASKS_MAX: usize = 100;

/// A task that ended under an agent.
#[derive(Clone, Debug)]
pub(super) struct FinishedTask {
    pub(super) at: Timestamp,
    pub(super) is_success: bool,
    pub(super) duration: Millis,
}

#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub(super) registration: Arc<Registration>,
    pub(super) registered_at: Timestamp,
    /// All heartbeats, beginning with the time from which intervals are counted.
    pub(super) heartbeats: Vec<Timestamp>,
    /// All tasks that ended under it, oldest first.
    pub(super) finished: Vec<FinishedTask>,
}

impl Agent {
    pub(super) fn id(&self) -> &AgentId {
        &self.registration.request.agent
    }

    pub(super) fn request(&self) -> &AgentRequest {
        &self.registration.request
    }

    pub(super) fn last_heartbeat_at(&self) -> Timestamp {
        *self.heartbeats.iter().max().expect("a registration counts as a heartbeat")
    }

    /// The tasks that ended under it over the last minute.
    pub(super) fn recent(&self, now: Timestamp) -> Vec<&FinishedTask> {
        let newest = self.finished.iter().rev().take(HEALTH_TASKS_MAX);
        newest.filter(|ended| now.since(ended.at).0 < HEALTH_WINDOW_MS).collect()
    }

    /// The part of the completed intervals over the last minute that have a heartbeat; at least one interval counts.
    fn regularity(&self, now: Timestamp, interval: Millis) -> u32 {
        let since = self.heartbeats[0];
        let completed = now.since(since).0 / interval.0;
        let interval_count = completed.min((HEALTH_WINDOW_MS / interval.0).clamp(1, 63));
        if interval_count == 0 {
            return 1_000_000;
        }
        let has_heartbeat =
            |number: &u64| self.heartbeats.iter().any(|beat| beat.since(since).0 / interval.0 == *number);
        part((completed - interval_count..completed).filter(has_heartbeat).count() as u64, interval_count)
    }
}

impl Fleet {
    /// Records a heartbeat, if the agent is registered.
    pub(crate) fn record_heartbeat(&mut self, now: Timestamp, id: &AgentId) {
        if let Some(agent) = self.agents.iter_mut().find(|agent| agent.id() == id) {
            agent.heartbeats.push(now);
        }
    }

    /// Counts all agents as seen at `now`.
    pub(crate) fn presume_alive(&mut self, now: Timestamp) {
        for agent in &mut self.agents {
            agent.heartbeats = vec![now];
        }
    }

    pub(super) fn register(
        &mut self,
        now: Timestamp,
        request: &AgentRequest,
        size: WorkerSize,
    ) -> Result<FleetOutcome, Denied> {
        if let Some(known) = self.agent_with(&request.agent) {
            if known.request() == request {
                return Ok(FleetOutcome::Registered { is_new: false, reclaimed: Vec::new() });
            }
            let (agent, differs) = (request.agent.clone(), differences(known.request(), request));
            return Err(FleetDenied::AgentExists { agent, differs }.into());
        }
        let full = |agent_type: Option<AgentType>, active: u64, quota: Option<u64>| match quota {
            Some(quota) if active >= quota => Err(FleetDenied::QuotaReached { agent_type, active, quota }),
            _ => Ok(()),
        };
        let of_type = self.agents.iter().filter(|agent| agent.request().agent_type == request.agent_type).count();
        full(None, self.agents.len() as u64, self.quota)?;
        full(Some(request.agent_type.clone()), of_type as u64, self.quota_of(&request.agent_type))?;

        let (node, takes, reclaimed) = match request.allocation {
            Some(allocation) => {
                let view = self.ledger.allocation(now, allocation).ok_or(Denied::UnknownAllocation(allocation))?;
                if view.allocation.state() != State::Active || view.is_expired() {
                    return Err(FleetDenied::AllocationNotActive(allocation).into());
                }
                let workers = view.allocation.reservation.workers.ports.len() as u64;
                let belong = self.agents.iter().filter(|agent| agent.request().allocation == Some(allocation));
                if belong.count() as u64 >= workers {
                    return Err(FleetDenied::AllocationFull { allocation, workers }.into());
                }
                (view.allocation.reservation.node.clone(), None, Vec::new())
            }
            None => {
                let (node, reclaimed) = self.ledger.reserve_slot(now, size).map_err(|denied| match denied {
                    Denied::InsufficientCapacity { shortage, .. } => FleetDenied::NoWorker(shortage).into(),
                    other => other,
                })?;
                (node, Some(size), reclaimed)
            }
        };
        self.remove_agents_without_allocation(now);
        let registration = Arc::new(Registration { request: request.clone(), node, takes });
        self.agents.push(Agent { registration, registered_at: now, heartbeats: vec![now], finished: Vec::new() });
        Ok(FleetOutcome::Registered { is_new: true, reclaimed })
    }

    pub(super) fn unregister(&mut self, now: Timestamp, id: &AgentId) -> Result<FleetOutcome, Denied> {
        if self.agent_with(id).is_none() {
            return Err(FleetDenied::UnknownAgent(id.clone()).into());
        }
        Ok(FleetOutcome::Unregistered(self.remove_agent(now, id, AgentEndReason::Unregistered)))
    }

    /// Removes an agent and returns its tasks to the queue.
    pub(super) fn remove_agent(&mut self, now: Timestamp, id: &AgentId, reason: AgentEndReason) -> RemovedAgent {
        let outcome = match reason {
            AgentEndReason::Unregistered => AttemptOutcome::AgentUnregistered,
            AgentEndReason::Lost => AttemptOutcome::AgentLost,
            AgentEndReason::AllocationEnded => AttemptOutcome::AllocationEnded,
        };
        let held: Vec<_> = self.held_by(id).into_iter().map(|task| task.spec.task.clone()).collect();
        let tasks = held.iter().map(|task| self.end_unreported(now, task, outcome)).collect();
        let agent = self.agent_with(id).expect("an agent").clone();
        if let Some(size) = agent.registration.takes {
            self.ledger.release_slot(&agent.registration.node, size);
        }
        self.agents.retain(|other| other.id() != id);
        RemovedAgent { agent: id.clone(), reason, tasks }
    }

    /// Removes the agents whose allocation is no longer active.
    pub(super) fn remove_agents_without_allocation(&mut self, now: Timestamp) {
        let is_without = |agent: &&Agent| {
            agent.request().allocation.is_some_and(|allocation| {
                let view = self.ledger.allocation(now, allocation);
                view.is_none_or(|view| view.allocation.state() != State::Active)
            })
        };
        let leaving: Vec<AgentId> = self.agents.iter().filter(is_without).map(|agent| agent.id().clone()).collect();
        for id in leaving {
            self.remove_agent(now, &id, AgentEndReason::AllocationEnded);
        }
    }

    pub(super) fn set_quota(&mut self, agent_type: Option<&AgentType>, agents: Option<u64>) {
        let Some(agent_type) = agent_type else {
            self.quota = agents;
            return;
        };
        self.type_quotas.retain(|(other, _)| other != agent_type);
        self.type_quotas.extend(agents.map(|agents| (agent_type.clone(), agents)));
    }

    pub(super) fn quota_of(&self, agent_type: &AgentType) -> Option<u64> {
        self.type_quotas.iter().find(|(other, _)| other == agent_type).map(|(_, quota)| *quota)
    }

    pub(super) fn agent_with(&self, id: &AgentId) -> Option<&Agent> {
        self.agents.iter().find(|agent| agent.id() == id)
    }

    /// The tasks that an agent holds, in the order of their leases.
    pub(super) fn held_by(&self, id: &AgentId) -> Vec<&Task> {
        let is_held = |task: &&Task| task.lease().is_some_and(|lease| lease.agent == *id);
        let mut held: Vec<&Task> = self.tasks.iter().map(|entry| &entry.task).filter(is_held).collect();
        held.sort_by_key(|task| task.lease().map(|lease| lease.fencing_token));
        held
    }

    /// How many more tasks it can hold.
    pub(super) fn free_slots_of(&self, agent: &Agent) -> usize {
        (agent.request().tasks_max as usize).saturating_sub(self.held_by(agent.id()).len())
    }

    pub(super) fn lost_at(&self, agent: &Agent) -> Timestamp {
        agent.last_heartbeat_at().after(Millis(3 * self.settings.heartbeat_ms.0))
    }

    pub(super) fn state_of(&self, now: Timestamp, agent: &Agent) -> AgentState {
        let is_late = now.since(agent.last_heartbeat_at()).0 >= 2 * self.settings.heartbeat_ms.0;
        match (is_late, self.held_by(agent.id()).len(), self.free_slots_of(agent)) {
            (true, _, _) => AgentState::Unresponsive,
            (false, _, 0) => AgentState::Full,
            (false, 0, _) => AgentState::Idle,
            (false, _, _) => AgentState::Busy,
        }
    }

    pub(super) fn health_of(&self, now: Timestamp, agent: &Agent) -> Health {
        let load = part(self.free_slots_of(agent) as u64, u64::from(agent.request().tasks_max));
        let heartbeat = agent.regularity(now, self.settings.heartbeat_ms);
        let recent = agent.recent(now);
        if recent.is_empty() {
            return Health { score: 500_000, success: None, response_time: None, load, heartbeat };
        }
        let tasks = recent.len() as u64;
        let success = part(recent.iter().filter(|ended| ended.is_success).count() as u64, tasks);
        let target = self.settings.response_target_ms.0;
        let mean = mean_duration(&recent).0;
        let response_time = part(target.saturating_sub(mean), target);
        let score = (40 * success + 30 * response_time + 20 * load + 10 * heartbeat) / 100;
        Health { score, success: Some(success), response_time: Some(response_time), load, heartbeat }
    }
}

/// The mean duration of some tasks.
pub(super) fn mean_duration(ended: &[&FinishedTask]) -> Millis {
    let sum = ended.iter().fold(0_u64, |sum, ended| sum.saturating_add(ended.duration.0));
    Millis(sum / ended.len() as u64)
}

/// A part of a whole in millionths, rounded down.
fn part(part: u64, whole: u64) -> u32 {
    u32::try_from(u128::from(part) * 1_000_000 / u128::from(whole)).expect("at most all of it")
}

/// The names of the arguments that differ.
fn differences(one: &AgentRequest, other: &AgentRequest) -> Vec<&'static str> {
    let mut names = Vec::new();
    let mut note = |name, is_same: bool| names.extend((!is_same).then_some(name));
    note("agent_id", one.agent == other.agent);
    note("agent_type", one.agent_type == other.agent_type);
    note("capabilities", one.capabilities == other.capabilities);
    note("max_concurrent", one.tasks_max == other.tasks_max);
    note("allocation_id", one.allocation == other.allocation);
    note("metadata", one.metadata == other.metadata);
    names
}
