//! Picks the agent for an assigned task: a weighted choice among the agents that can take it.
//!
//! Agents of the same type with the same capabilities form a group, with their weights stored contiguously, so that a
//! choice among thousands reads little memory. An agent that can take nothing now has weight 0. Weights follow the
//! heartbeats, so they are not durable.

use super::super::ids::AgentType;
use super::super::table::Slot;
use super::agent::{Agent, Capabilities};
use super::task::Selector;
use std::collections::BTreeMap;

type Profile = (AgentType, Capabilities);

/// Agents of the same type with the same capabilities.
#[derive(Clone, Debug, Default)]
pub(super) struct AgentGroup {
    /// The agents by registration number, so that a restored state picks the same agent for a random value.
    pub(super) agents: Vec<(u64, Slot)>,
    /// The weight of each agent, in the same order.
    pub(super) weights: Vec<u32>,
    /// The sum of the weights.
    pub(super) total: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct LoadBalancer {
    groups: BTreeMap<Profile, AgentGroup>,
}

impl AgentGroup {
    /// Finds the index of an agent, or the index at which to insert it.
    fn position(&self, agent: &Agent) -> Result<usize, usize> {
        self.agents.binary_search_by_key(&agent.number, |(number, _)| *number)
    }
}

impl LoadBalancer {
    /// Adds an agent to its group, with weight 0.
    pub(super) fn insert(&mut self, slot: Slot, agent: &Agent) {
        let group = self.groups.entry(profile(agent)).or_default();
        if let Err(position) = group.position(agent) {
            group.agents.insert(position, (agent.number, slot));
            group.weights.insert(position, 0);
        }
    }

    /// Removes an agent from its group.
    pub(super) fn remove(&mut self, agent: &Agent) {
        let profile = profile(agent);
        let Some(group) = self.groups.get_mut(&profile) else { return };
        if let Ok(position) = group.position(agent) {
            group.agents.remove(position);
            group.total -= u64::from(group.weights.remove(position));
        }
        if group.agents.is_empty() {
            self.groups.remove(&profile);
        }
    }

    /// Sets the weight of an agent.
    pub(super) fn set_weight(&mut self, agent: &Agent, weight: u32) {
        let Some(group) = self.groups.get_mut(&profile(agent)) else { return };
        if let Ok(position) = group.position(agent) {
            let before = std::mem::replace(&mut group.weights[position], weight);
            group.total = group.total - u64::from(before) + u64::from(weight);
        }
    }

    /// Returns the weight of an agent.
    pub(super) fn weight(&self, agent: &Agent) -> u32 {
        let group = self.groups.get(&profile(agent));
        group.and_then(|group| Some(group.weights[group.position(agent).ok()?])).unwrap_or(0)
    }

    /// The groups whose agents may take a task with this selector.
    pub(super) fn eligible<'a>(&'a self, selector: &'a Selector) -> impl Iterator<Item = &'a AgentGroup> {
        self.groups
            .iter()
            .filter(|((agent_type, capabilities), _)| selector.admits(agent_type, capabilities))
            .map(|(_, group)| group)
    }

    /// Whether any registered agent may take a task with this selector, now or later.
    pub(super) fn has_eligible(&self, selector: &Selector) -> bool {
        self.eligible(selector).next().is_some()
    }

    /// Picks one of the agents that can take the task now, each in proportion to its weight; `None` if all are 0.
    pub(super) fn pick(&self, selector: &Selector, random: u64) -> Option<Slot> {
        let total: u64 = self.eligible(selector).map(|group| group.total).sum();
        // At most `total - 1`; each number is equally likely, except for one part in 2^64.
        let mut offset = u64::try_from((u128::from(random) * u128::from(total)) >> u64::BITS).ok()?;
        for group in self.eligible(selector) {
            if offset >= group.total {
                offset -= group.total;
                continue;
            }
            for ((_, slot), weight) in group.agents.iter().zip(&group.weights) {
                if offset < u64::from(*weight) {
                    return Some(*slot);
                }
                offset -= u64::from(*weight);
            }
        }
        // All weights are 0.
        None
    }

    /// The groups, for `check`.
    pub(super) fn groups(&self) -> impl Iterator<Item = &AgentGroup> {
        self.groups.values()
    }
}

fn profile(agent: &Agent) -> Profile {
    (agent.request().agent_type.clone(), agent.request().capabilities.clone())
}
