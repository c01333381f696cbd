//! Who gets a task that is pushed: a choice by weight among the agents that can take it.
//!
//! Agents of the same type with the same capabilities form a group, with their weights one beside the other, so that a
//! choice among thousands reads little memory. An agent that can be given nothing now weighs nothing. Weights follow the
//! heartbeats, so they are no part of the books.

use super::super::ids::AgentType;
use super::super::table::Slot;
use super::agent::{Agent, Capabilities};
use super::task::Selector;
use std::collections::BTreeMap;

/// What agents of one group have in common.
type Profile = (AgentType, Capabilities);

/// Agents that can take the same tasks.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    /// As they registered: books made anew of an image let a draw fall on the same agent.
    pub(super) agents: Vec<(u64, Slot)>,
    /// The weight of each, in the same order.
    pub(super) weights: Vec<u32>,
    /// All of them together.
    pub(super) total: u64,
}

/// All groups.
#[derive(Clone, Debug, Default)]
pub(super) struct Balance {
    groups: BTreeMap<Profile, Group>,
}

impl Group {
    /// Where an agent is, or belongs.
    fn place(&self, agent: &Agent) -> Result<usize, usize> {
        self.agents.binary_search_by_key(&agent.number, |(number, _)| *number)
    }
}

impl Balance {
    /// Takes an agent into its group, with no weight.
    pub(super) fn insert(&mut self, slot: Slot, agent: &Agent) {
        let group = self.groups.entry(profile(agent)).or_default();
        if let Err(place) = group.place(agent) {
            group.agents.insert(place, (agent.number, slot));
            group.weights.insert(place, 0);
        }
    }

    /// Takes an agent out of its group.
    pub(super) fn remove(&mut self, agent: &Agent) {
        let profile = profile(agent);
        let Some(group) = self.groups.get_mut(&profile) else { return };
        if let Ok(place) = group.place(agent) {
            group.agents.remove(place);
            group.total -= u64::from(group.weights.remove(place));
        }
        if group.agents.is_empty() {
            self.groups.remove(&profile);
        }
    }

    /// Lets an agent weigh so much.
    pub(super) fn set(&mut self, agent: &Agent, weight: u32) {
        let Some(group) = self.groups.get_mut(&profile(agent)) else { return };
        if let Ok(place) = group.place(agent) {
            let before = std::mem::replace(&mut group.weights[place], weight);
            group.total = group.total - u64::from(before) + u64::from(weight);
        }
    }

    /// What an agent weighs.
    pub(super) fn weight(&self, agent: &Agent) -> u32 {
        let group = self.groups.get(&profile(agent));
        group.and_then(|group| Some(group.weights[group.place(agent).ok()?])).unwrap_or(0)
    }

    /// The groups whose agents may take a task.
    pub(super) fn able<'a>(&'a self, selector: &'a Selector) -> impl Iterator<Item = &'a Group> {
        self.groups
            .iter()
            .filter(|((agent_type, capabilities), _)| selector.admits(agent_type, capabilities))
            .map(|(_, group)| group)
    }

    /// Whether any agent at all may take a task, now or later.
    pub(super) fn serves(&self, selector: &Selector) -> bool {
        self.able(selector).next().is_some()
    }

    /// The agent that `draw` falls on, of those that may take a task and can be given one now: each as often as it weighs.
    pub(super) fn choose(&self, selector: &Selector, draw: u64) -> Option<Slot> {
        let total: u64 = self.able(selector).map(|group| group.total).sum();
        // At most `total - 1`, and each number as often as any other but for one part in 2^64.
        let mut left = u64::try_from((u128::from(draw) * u128::from(total)) >> u64::BITS).ok()?;
        for group in self.able(selector) {
            if left >= group.total {
                left -= group.total;
                continue;
            }
            for ((_, slot), weight) in group.agents.iter().zip(&group.weights) {
                if left < u64::from(*weight) {
                    return Some(*slot);
                }
                left -= u64::from(*weight);
            }
        }
        // Nobody weighs anything.
        None
    }

    /// All groups, for the check.
    pub(super) fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.values()
    }
}

fn profile(agent: &Agent) -> Profile {
    (agent.request().agent_type.clone(), agent.request().capabilities.clone())
}
