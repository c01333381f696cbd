//! The simulated agents, as their operator knows them.

use cortex_core::ids::{AgentId, FencingToken, TaskId};
use cortex_core::time::Millis;
use std::collections::VecDeque;

/// The task that an agent holds.
#[derive(Clone, Debug)]
pub(super) struct HeldTask {
    pub(super) task: TaskId,
    pub(super) fencing_token: FencingToken,
    /// The time that the task waited.
    pub(super) waited: Millis,
}

/// The activity of an agent.
#[derive(Clone, Debug)]
enum Activity {
    Idle,
    Working(HeldTask),
    /// The agent vanished, and the cluster has not noticed yet.
    Vanished,
}

/// A simulated agent.
#[derive(Clone, Debug)]
struct Agent {
    id: AgentId,
    activity: Activity,
    /// Whether it unregisters after its current task.
    is_draining: bool,
}

/// The index of an agent in [`Agents`].
pub(super) type AgentSlot = usize;

/// The agents of one simulation. A slot is reused by an agent with another id.
#[derive(Clone, Debug, Default)]
pub(super) struct Agents {
    slots: Vec<Option<Agent>>,
    free: Vec<AgentSlot>,
    /// The idle agents, the longest idle first.
    idle: VecDeque<AgentSlot>,
    ids_generated: u64,
    live: u64,
    draining: u64,
    vanished: Vec<AgentSlot>,
}

impl Agents {
    /// Generates the id of the next agent.
    pub(super) fn next_id(&mut self) -> AgentId {
        self.ids_generated += 1;
        let text = format!("agent-{:06}", self.ids_generated);
        AgentId::new(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// Adds an idle agent.
    pub(super) fn add(&mut self, id: AgentId) {
        let agent = Some(Agent { id, activity: Activity::Idle, is_draining: false });
        let slot = self.free.pop().unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(agent);
        } else {
            self.slots[slot] = agent;
        }
        self.live += 1;
        self.idle.push_back(slot);
    }

    /// Returns the number of live agents, including those that are draining.
    pub(super) const fn live_count(&self) -> u64 {
        self.live
    }

    /// Returns the number of draining agents.
    pub(super) const fn draining_count(&self) -> u64 {
        self.draining
    }

    /// Returns whether the cluster still has agents that vanished.
    pub(super) const fn has_vanished(&self) -> bool {
        !self.vanished.is_empty()
    }

    /// Returns the number of working agents.
    pub(super) fn working_count(&self) -> u64 {
        self.live - self.idle.len() as u64
    }

    /// Returns the ids of the live agents.
    pub(super) fn live_ids(&self) -> impl Iterator<Item = &AgentId> {
        let alive = self.slots.iter().flatten().filter(|agent| !matches!(agent.activity, Activity::Vanished));
        alive.map(|agent| &agent.id)
    }

    /// Returns the longest idle agent.
    pub(super) fn first_idle(&self) -> Option<(AgentSlot, &AgentId)> {
        let slot = *self.idle.front()?;
        Some((slot, &self.slots[slot].as_ref()?.id))
    }

    /// Assigns a task to the longest idle agent.
    pub(super) fn assign_first_idle(&mut self, held: HeldTask) {
        if let Some(slot) = self.idle.pop_front() {
            self.assign(slot, held);
        }
    }

    /// Assigns a task to an agent that has just finished one.
    pub(super) fn assign(&mut self, slot: AgentSlot, held: HeldTask) {
        if let Some(agent) = &mut self.slots[slot] {
            agent.activity = Activity::Working(held);
        }
    }

    /// Finishes the task with this token: returns the task, the agent's id, and whether the agent is draining.
    /// Returns `None` if the agent vanished before, or holds another task.
    pub(super) fn finish(&mut self, slot: AgentSlot, token: FencingToken) -> Option<(HeldTask, AgentId, bool)> {
        let agent = self.slots.get_mut(slot)?.as_mut()?;
        if !matches!(&agent.activity, Activity::Working(held) if held.fencing_token == token) {
            return None;
        }
        let Activity::Working(held) = std::mem::replace(&mut agent.activity, Activity::Idle) else { return None };
        Some((held, agent.id.clone(), agent.is_draining))
    }

    /// Marks an agent that has finished a task as idle.
    pub(super) fn mark_idle(&mut self, slot: AgentSlot) {
        self.idle.push_back(slot);
    }

    /// Removes an agent that has finished a task.
    pub(super) fn remove(&mut self, slot: AgentSlot) {
        if let Some(agent) = self.slots[slot].take() {
            self.live -= 1;
            self.draining -= u64::from(agent.is_draining);
            self.free.push(slot);
        }
    }

    /// Removes the longest idle agent.
    pub(super) fn remove_first_idle(&mut self) -> Option<AgentId> {
        let slot = self.idle.pop_front()?;
        let id = self.slots[slot].as_ref()?.id.clone();
        self.remove(slot);
        Some(id)
    }

    /// Drains up to this number of working agents, from the last slot on.
    pub(super) fn drain(&mut self, agents: u64) {
        let is_working = |agent: &&mut Agent| matches!(agent.activity, Activity::Working(_)) && !agent.is_draining;
        for agent in self.slots.iter_mut().rev().flatten().filter(is_working).take(as_count(agents)) {
            agent.is_draining = true;
            self.draining += 1;
        }
    }

    /// Cancels the draining of up to this number of agents.
    pub(super) fn cancel_drain(&mut self, agents: u64) {
        for agent in self.slots.iter_mut().flatten().filter(|agent| agent.is_draining).take(as_count(agents)) {
            agent.is_draining = false;
            self.draining -= 1;
        }
    }

    /// Makes up to this number of agents vanish with the tasks they hold, from the first slot on. Returns the number.
    pub(super) fn vanish(&mut self, agents: u64) -> u64 {
        let mut count = 0;
        for (slot, agent) in self.slots.iter_mut().enumerate() {
            let Some(agent) = agent.as_mut().filter(|agent| !matches!(agent.activity, Activity::Vanished)) else {
                continue;
            };
            if count == agents {
                break;
            }
            if matches!(agent.activity, Activity::Idle) {
                self.idle.retain(|idle| *idle != slot);
            }
            self.draining -= u64::from(std::mem::take(&mut agent.is_draining));
            agent.activity = Activity::Vanished;
            self.vanished.push(slot);
            count += 1;
        }
        self.live -= count;
        count
    }

    /// Removes an agent that the cluster has detected as lost.
    pub(super) fn remove_lost(&mut self, id: &AgentId) {
        let slots = &mut self.slots;
        let is_lost = |slot: &AgentSlot| slots[*slot].as_ref().is_some_and(|agent| agent.id == *id);
        if let Some(found) = self.vanished.iter().position(is_lost) {
            let slot = self.vanished.swap_remove(found);
            slots[slot] = None;
            self.free.push(slot);
        }
    }
}

fn as_count(agents: u64) -> usize {
    usize::try_from(agents).unwrap_or(usize::MAX)
}
