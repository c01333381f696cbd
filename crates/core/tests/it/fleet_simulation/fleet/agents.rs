//! Agents of the reference: who is taken on and who leaves, when they were heard of, and how well they do.

use super::Fleet;
use cortex_core::allocation::State;
use cortex_core::command::Denied;
use cortex_core::fleet::agent::{AgentEnd, AgentRequest, Registration};
use cortex_core::fleet::command::{AgentLeft, FleetDenied, FleetOutcome};
use cortex_core::fleet::health::Health;
use cortex_core::fleet::task::{AttemptOutcome, Task};
use cortex_core::fleet::view::AgentState;
use cortex_core::ids::{AgentId, AgentType};
use cortex_core::time::{Millis, Timestamp};
use cortex_core::units::WorkerSize;
use std::sync::Arc;

/// Over how long an agent's work and its beats are looked back upon.
const LOOK_BACK_MS: u64 = 60_000;
/// How many of its tasks are looked at.
const TASKS_LOOKED_AT: usize = 100;

/// How a task ended in an agent's hands.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub(super) at: Timestamp,
    pub(super) is_success: bool,
    pub(super) duration: Millis,
}

#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub(super) registration: Arc<Registration>,
    pub(super) registered_at: Timestamp,
    /// Each sign of life, from the one on that beats are due from.
    pub(super) beats: Vec<Timestamp>,
    /// Each task that ended in its hands, oldest first.
    pub(super) ended: Vec<Ended>,
}

impl Agent {
    pub(super) fn id(&self) -> &AgentId {
        &self.registration.request.agent
    }

    pub(super) fn request(&self) -> &AgentRequest {
        &self.registration.request
    }

    pub(super) fn heard_at(&self) -> Timestamp {
        *self.beats.iter().max().expect("an agent is heard when it registers")
    }

    /// The tasks that ended in its hands over the last minute, if it were now.
    pub(super) fn lately(&self, now: Timestamp) -> Vec<&Ended> {
        let newest = self.ended.iter().rev().take(TASKS_LOOKED_AT);
        newest.filter(|ended| now.since(ended.at).0 < LOOK_BACK_MS).collect()
    }

    /// Beats seen against beats due: of the intervals that are over, those of the last minute, and at least one.
    fn regularity(&self, now: Timestamp, interval: Millis) -> u32 {
        let since = self.beats[0];
        let over = now.since(since).0 / interval.0;
        let looked_at = over.min((LOOK_BACK_MS / interval.0).clamp(1, 63));
        if looked_at == 0 {
            return 1_000_000;
        }
        let has_beat = |number: &u64| self.beats.iter().any(|beat| beat.since(since).0 / interval.0 == *number);
        part((over - looked_at..over).filter(has_beat).count() as u64, looked_at)
    }
}

impl Fleet {
    /// Notes a sign of life of an agent, if there is such an agent.
    pub(crate) fn hear(&mut self, now: Timestamp, id: &AgentId) {
        if let Some(agent) = self.agents.iter_mut().find(|agent| agent.id() == id) {
            agent.beats.push(now);
        }
    }

    /// Nobody could be heard: all count as heard now.
    pub(crate) fn presume_alive(&mut self, now: Timestamp) {
        for agent in &mut self.agents {
            agent.beats = vec![now];
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
        self.let_go_of_agents_without_allocation(now);
        let registration = Arc::new(Registration { request: request.clone(), node, takes });
        self.agents.push(Agent { registration, registered_at: now, beats: vec![now], ended: Vec::new() });
        Ok(FleetOutcome::Registered { is_new: true, reclaimed })
    }

    pub(super) fn unregister(&mut self, now: Timestamp, id: &AgentId) -> Result<FleetOutcome, Denied> {
        if self.agent_with(id).is_none() {
            return Err(FleetDenied::UnknownAgent(id.clone()).into());
        }
        Ok(FleetOutcome::Unregistered(self.let_go(now, id, AgentEnd::Unregistered)))
    }

    /// Takes an agent off the books. What it holds goes back.
    pub(super) fn let_go(&mut self, now: Timestamp, id: &AgentId, reason: AgentEnd) -> AgentLeft {
        let outcome = match reason {
            AgentEnd::Unregistered => AttemptOutcome::AgentUnregistered,
            AgentEnd::Lost => AttemptOutcome::AgentLost,
            AgentEnd::AllocationEnded => AttemptOutcome::AllocationEnded,
        };
        let held: Vec<_> = self.held_by(id).into_iter().map(|task| task.spec.task.clone()).collect();
        let tasks = held.iter().map(|task| self.lose(now, task, outcome)).collect();
        let agent = self.agent_with(id).expect("an agent").clone();
        if let Some(size) = agent.registration.takes {
            self.ledger.release_slot(&agent.registration.node, size);
        }
        self.agents.retain(|other| other.id() != id);
        AgentLeft { agent: id.clone(), reason, tasks }
    }

    /// Lets those go that belonged to an allocation which is over, or on its way.
    pub(super) fn let_go_of_agents_without_allocation(&mut self, now: Timestamp) {
        let is_without = |agent: &&Agent| {
            agent.request().allocation.is_some_and(|allocation| {
                let view = self.ledger.allocation(now, allocation);
                view.is_none_or(|view| view.allocation.state() != State::Active)
            })
        };
        let leaving: Vec<AgentId> = self.agents.iter().filter(is_without).map(|agent| agent.id().clone()).collect();
        for id in leaving {
            self.let_go(now, &id, AgentEnd::AllocationEnded);
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

    /// What an agent holds, in the order in which it was given that.
    pub(super) fn held_by(&self, id: &AgentId) -> Vec<&Task> {
        let is_held = |task: &&Task| task.lease().is_some_and(|lease| lease.agent == *id);
        let mut held: Vec<&Task> = self.tasks.iter().map(|entry| &entry.task).filter(is_held).collect();
        held.sort_by_key(|task| task.lease().map(|lease| lease.fencing_token));
        held
    }

    /// How many tasks more it may hold.
    pub(super) fn room_of(&self, agent: &Agent) -> usize {
        (agent.request().tasks_max as usize).saturating_sub(self.held_by(agent.id()).len())
    }

    pub(super) fn lost_at(&self, agent: &Agent) -> Timestamp {
        agent.heard_at().after(Millis(3 * self.settings.heartbeat_ms.0))
    }

    pub(super) fn state_of(&self, now: Timestamp, agent: &Agent) -> AgentState {
        let is_silent = now.since(agent.heard_at()).0 >= 2 * self.settings.heartbeat_ms.0;
        match (is_silent, self.held_by(agent.id()).len(), self.room_of(agent)) {
            (true, _, _) => AgentState::Unresponsive,
            (false, _, 0) => AgentState::Full,
            (false, 0, _) => AgentState::Idle,
            (false, _, _) => AgentState::Busy,
        }
    }

    pub(super) fn health_of(&self, now: Timestamp, agent: &Agent) -> Health {
        let load = part(self.room_of(agent) as u64, u64::from(agent.request().tasks_max));
        let heartbeat = agent.regularity(now, self.settings.heartbeat_ms);
        let lately = agent.lately(now);
        if lately.is_empty() {
            return Health { score: 500_000, success: None, response_time: None, load, heartbeat };
        }
        let tasks = lately.len() as u64;
        let success = part(lately.iter().filter(|ended| ended.is_success).count() as u64, tasks);
        let target = self.settings.response_target_ms.0;
        let mean = mean_duration(&lately).0;
        let response_time = part(target.saturating_sub(mean), target);
        let score = (40 * success + 30 * response_time + 20 * load + 10 * heartbeat) / 100;
        Health { score, success: Some(success), response_time: Some(response_time), load, heartbeat }
    }
}

/// How long some tasks took in the mean.
pub(super) fn mean_duration(ended: &[&Ended]) -> Millis {
    let sum = ended.iter().fold(0_u64, |sum, ended| sum.saturating_add(ended.duration.0));
    Millis(sum / ended.len() as u64)
}

/// A part of a whole in millionths, rounded down.
fn part(part: u64, whole: u64) -> u32 {
    u32::try_from(u128::from(part) * 1_000_000 / u128::from(whole)).expect("at most all of it")
}

/// The arguments in which two requests differ, by their names on the wire.
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
