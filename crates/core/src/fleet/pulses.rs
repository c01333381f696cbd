//! When agents were heard of, and what follows from it: which are late or lost, and what each weighs when a task is pushed.
//!
//! A heartbeat is no event, so nothing here is part of the books. After a restart all agents count as heard of just now.

use super::super::ids::AgentId;
use super::super::table::Slot;
use super::super::time::Timestamp;
use super::Fleet;
use super::balance::Balance;
use super::health::{self, Pulse};
use std::collections::BTreeSet;

/// What is known of the pulse of an agent.
#[derive(Clone, Copy, Debug)]
struct Heard {
    pulse: Pulse,
    /// When its health changes by itself.
    changes_at: Timestamp,
}

/// The pulses of all agents.
#[derive(Clone, Debug, Default)]
pub(super) struct Pulses {
    /// By the slot of the agent.
    heard: Vec<Option<Heard>>,
    /// The longest silent first, then as they registered.
    silence: BTreeSet<(Timestamp, u64, Slot)>,
    /// Whose health changes by itself, and when.
    changes: BTreeSet<(Timestamp, Slot)>,
    pub(super) balance: Balance,
    /// Those that are to be given nothing more, whether or not they are registered. Whoever runs them says so.
    pub(super) draining: BTreeSet<AgentId>,
}

impl Pulses {
    fn heard(&self, slot: Slot) -> Option<Heard> {
        self.heard.get(slot.index()).copied().flatten()
    }
}

impl Fleet {
    /// The pulse of an agent.
    pub(super) fn pulse(&self, slot: Slot) -> Pulse {
        // Each has one from its registration on.
        let heard = self.pulses.0.heard(slot);
        heard.map_or_else(|| Pulse::new(self.agents[slot].registered_at), |heard| heard.pulse)
    }

    /// Begins to listen for an agent.
    pub(super) fn track(&mut self, slot: Slot, now: Timestamp) {
        self.pulses.0.balance.insert(slot, &self.agents[slot]);
        self.set_pulse(slot, Pulse::new(now), now);
    }

    /// Listens for an agent no more.
    pub(super) fn untrack(&mut self, slot: Slot) {
        let (agent, pulses) = (&self.agents[slot], &mut self.pulses.0);
        pulses.balance.remove(agent);
        if let Some(heard) = pulses.heard(slot) {
            pulses.silence.remove(&(heard.pulse.heard_at, agent.number, slot));
            pulses.changes.remove(&(heard.changes_at, slot));
            pulses.heard[slot.index()] = None;
        }
    }

    /// Notes that an agent is alive.
    pub(super) fn hear(&mut self, slot: Slot, now: Timestamp) {
        let mut pulse = self.pulse(slot);
        pulse.beat(now, self.settings.heartbeat_ms);
        self.set_pulse(slot, pulse, now);
    }

    /// Takes all agents for heard of just now: nobody could be heard before.
    pub(super) fn presume_alive(&mut self, now: Timestamp) {
        let slots: Vec<Slot> = self.agents_by_id.values().copied().collect();
        for slot in slots {
            self.set_pulse(slot, Pulse::new(now), now);
        }
    }

    /// Brings what agents weigh up to `now`. The cost is in proportion to those whose health changed by itself.
    pub(super) fn observe_pulses(&mut self, now: Timestamp) {
        while let Some((_, slot)) = self.pulses.0.changes.first().copied().filter(|(at, _)| *at <= now) {
            self.weigh(slot, now);
        }
    }

    /// Works out what an agent weighs, and when that changes by itself.
    pub(super) fn weigh(&mut self, slot: Slot, now: Timestamp) {
        self.set_pulse(slot, self.pulse(slot), now);
    }

    fn set_pulse(&mut self, slot: Slot, pulse: Pulse, now: Timestamp) {
        let (agent, pulses) = (&self.agents[slot], &mut self.pulses.0);
        let interval = self.settings.heartbeat_ms;
        let is_draining = pulses.draining.contains(&agent.request().agent);
        let is_able = agent.room() > 0 && !is_draining && pulse.late_at(interval) > now;
        // Whoever can be given a task weighs something, however badly it does.
        let weight = if is_able { health::health(agent, &pulse, &self.settings, now).score.max(1) } else { 0 };
        pulses.balance.set(agent, weight);

        let changes_at = health::changes_at(agent, &pulse, &self.settings, now);
        if let Some(before) = pulses.heard(slot) {
            pulses.silence.remove(&(before.pulse.heard_at, agent.number, slot));
            pulses.changes.remove(&(before.changes_at, slot));
        }
        pulses.silence.insert((pulse.heard_at, agent.number, slot));
        pulses.changes.insert((changes_at, slot));
        if pulses.heard.len() <= slot.index() {
            pulses.heard.resize(slot.index() + 1, None);
        }
        pulses.heard[slot.index()] = Some(Heard { pulse, changes_at });
    }

    /// The agents that are lost at `now`, the longest silent first.
    pub(super) fn lost(&self, now: Timestamp) -> impl Iterator<Item = Slot> + '_ {
        let interval = self.settings.heartbeat_ms;
        let silent = self.pulses.0.silence.iter().map(|(_, _, slot)| *slot);
        silent.take_while(move |slot| self.pulse(*slot).lost_at(interval) <= now)
    }

    /// When the next agent is lost unless it is heard of.
    pub(super) fn next_lost_at(&self) -> Option<Timestamp> {
        let (_, _, slot) = self.pulses.0.silence.first()?;
        Some(self.pulse(*slot).lost_at(self.settings.heartbeat_ms))
    }

    /// How many agents are listened for, for the check.
    pub(super) fn tracked(&self) -> [usize; 3] {
        let Pulses { heard, silence, changes, .. } = &self.pulses.0;
        [heard.iter().flatten().count(), silence.len(), changes.len()]
    }
}
