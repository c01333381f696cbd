//! Heartbeats of agents, and what follows from them: which agents are late or lost, and their weights when a task is
//! assigned.
//!
//! A heartbeat is not an event, so nothing here is durable. After a restart, all agents count as seen just now.

use super::super::ids::AgentId;
use super::super::table::Slot;
use super::super::time::Timestamp;
use super::Fleet;
use super::health::{self, HeartbeatHistory};
use super::load_balancer::LoadBalancer;
use std::collections::BTreeSet;

/// The heartbeats of one agent.
#[derive(Clone, Copy, Debug)]
struct HeartbeatEntry {
    history: HeartbeatHistory,
    /// When its health changes next without an event.
    changes_at: Timestamp,
}

/// The heartbeats of all agents.
#[derive(Clone, Debug, Default)]
pub(super) struct Heartbeats {
    /// Indexed by the slot of the agent.
    entries: Vec<Option<HeartbeatEntry>>,
    /// The agents by last heartbeat, oldest first, then by registration number.
    by_last_heartbeat: BTreeSet<(Timestamp, u64, Slot)>,
    /// When the health of an agent changes without an event.
    health_changes: BTreeSet<(Timestamp, Slot)>,
    pub(super) load_balancer: LoadBalancer,
    /// Agents that get no further tasks, registered or not; set by their supervisor.
    pub(super) draining: BTreeSet<AgentId>,
}

impl Heartbeats {
    fn entry(&self, slot: Slot) -> Option<HeartbeatEntry> {
        self.entries.get(slot.index()).copied().flatten()
    }
}

impl Fleet {
    /// Returns the heartbeats of an agent.
    pub(super) fn heartbeat_history(&self, slot: Slot) -> HeartbeatHistory {
        // Each agent has an entry from its registration on.
        let entry = self.heartbeats.0.entry(slot);
        entry.map_or_else(|| HeartbeatHistory::new(self.agents[slot].registered_at), |entry| entry.history)
    }

    /// Starts to track the heartbeats of an agent.
    pub(super) fn track(&mut self, slot: Slot, now: Timestamp) {
        self.heartbeats.0.load_balancer.insert(slot, &self.agents[slot]);
        self.set_heartbeat_history(slot, HeartbeatHistory::new(now), now);
    }

    /// Stops tracking an agent.
    pub(super) fn untrack(&mut self, slot: Slot) {
        let (agent, heartbeats) = (&self.agents[slot], &mut self.heartbeats.0);
        heartbeats.load_balancer.remove(agent);
        if let Some(entry) = heartbeats.entry(slot) {
            heartbeats.by_last_heartbeat.remove(&(entry.history.last_heartbeat_at, agent.number, slot));
            heartbeats.health_changes.remove(&(entry.changes_at, slot));
            heartbeats.entries[slot.index()] = None;
        }
    }

    /// Records a heartbeat.
    pub(super) fn record_heartbeat(&mut self, slot: Slot, now: Timestamp) {
        let mut history = self.heartbeat_history(slot);
        history.record(now, self.settings.heartbeat_ms);
        self.set_heartbeat_history(slot, history, now);
    }

    /// Counts all agents as seen at `now`, because heartbeats could not be received before.
    pub(super) fn presume_alive(&mut self, now: Timestamp) {
        let slots: Vec<Slot> = self.agents_by_id.values().copied().collect();
        for slot in slots {
            self.set_heartbeat_history(slot, HeartbeatHistory::new(now), now);
        }
    }

    /// Updates the weights of agents to `now`. The cost is in proportion to the agents whose health changed.
    pub(super) fn observe_heartbeats(&mut self, now: Timestamp) {
        while let Some((_, slot)) = self.heartbeats.0.health_changes.first().copied().filter(|(at, _)| *at <= now) {
            self.update_weight(slot, now);
        }
    }

    /// Recomputes the weight of an agent, and when its health changes next.
    pub(super) fn update_weight(&mut self, slot: Slot, now: Timestamp) {
        self.set_heartbeat_history(slot, self.heartbeat_history(slot), now);
    }

    fn set_heartbeat_history(&mut self, slot: Slot, history: HeartbeatHistory, now: Timestamp) {
        let (agent, heartbeats) = (&self.agents[slot], &mut self.heartbeats.0);
        let interval = self.settings.heartbeat_ms;
        let is_draining = heartbeats.draining.contains(&agent.request().agent);
        let is_available = agent.free_slots() > 0 && !is_draining && history.late_at(interval) > now;
        // An available agent has a weight of at least 1, however low its health is.
        let weight = if is_available { health::health(agent, &history, &self.settings, now).score.max(1) } else { 0 };
        heartbeats.load_balancer.set_weight(agent, weight);

        let changes_at = health::changes_at(agent, &history, &self.settings, now);
        if let Some(before) = heartbeats.entry(slot) {
            heartbeats.by_last_heartbeat.remove(&(before.history.last_heartbeat_at, agent.number, slot));
            heartbeats.health_changes.remove(&(before.changes_at, slot));
        }
        heartbeats.by_last_heartbeat.insert((history.last_heartbeat_at, agent.number, slot));
        heartbeats.health_changes.insert((changes_at, slot));
        if heartbeats.entries.len() <= slot.index() {
            heartbeats.entries.resize(slot.index() + 1, None);
        }
        heartbeats.entries[slot.index()] = Some(HeartbeatEntry { history, changes_at });
    }

    /// The agents that are lost at `now`, the one with the oldest heartbeat first.
    pub(super) fn lost(&self, now: Timestamp) -> impl Iterator<Item = Slot> + '_ {
        let interval = self.settings.heartbeat_ms;
        let slots = self.heartbeats.0.by_last_heartbeat.iter().map(|(_, _, slot)| *slot);
        slots.take_while(move |slot| self.heartbeat_history(*slot).lost_at(interval) <= now)
    }

    /// When the next agent is lost, unless it sends a heartbeat.
    pub(super) fn next_lost_at(&self) -> Option<Timestamp> {
        let (_, _, slot) = self.heartbeats.0.by_last_heartbeat.first()?;
        Some(self.heartbeat_history(*slot).lost_at(self.settings.heartbeat_ms))
    }

    /// The sizes of the three indexes, for `check`.
    pub(super) fn tracked_counts(&self) -> [usize; 3] {
        let Heartbeats { entries, by_last_heartbeat, health_changes, .. } = &self.heartbeats.0;
        [entries.iter().flatten().count(), by_last_heartbeat.len(), health_changes.len()]
    }
}
