//! The scaling state: demand history, scaling policy and past scalings, which the planner reads.

use super::cluster::Cluster;
use super::command::{Decision, Denied, Outcome};
use super::demand::{DemandBin, DemandHistory};
use super::event::Event;
use super::ids::NodeId;
use super::image::InvalidImage;
use super::policy::{Policy, PolicyName};
use super::time::Timestamp;
use super::units::Resources;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;

/// The most scalings that are kept.
pub const SCALINGS_MAX: usize = 256;

/// The most characters that are kept of a scaling's reason.
pub const SCALING_REASON_CHARACTERS_MAX: usize = 1_000;

/// A change of the target number of workers or agents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaling {
    /// The policy that led to it.
    pub policy: PolicyName,
    /// The number of worker slots before.
    pub workers_from: u64,
    /// The number of worker slots after.
    pub workers_to: u64,
    /// The number of agents before.
    pub agents_from: u64,
    /// The target number of agents.
    pub agents_to: u64,
    /// At most [`SCALING_REASON_CHARACTERS_MAX`] characters.
    pub reason: Arc<str>,
}

/// A scaling with the time at which it happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PastScaling {
    pub at: Timestamp,
    pub scaling: Scaling,
}

/// The part of the state that the planner reads and writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScalingState {
    policy: Policy,
    demand: DemandHistory,
    /// Oldest first.
    scalings: VecDeque<PastScaling>,
}

impl Cluster {
    pub(super) fn apply_to_scaling_state(&mut self, at: Timestamp, event: &Event) {
        match event {
            Event::DemandCounted { bin } => self.scaling_state.demand.add(bin),
            Event::ScalingPolicySet { policy } => self.scaling_state.policy = *policy,
            Event::ScalingNoted { scaling } => {
                if self.scaling_state.scalings.len() == SCALINGS_MAX {
                    self.scaling_state.scalings.pop_front();
                }
                self.scaling_state.scalings.push_back(PastScaling { at, scaling: scaling.clone() });
            }
            event => self.apply_to_fleet(at, event),
        }
    }

    pub(super) fn count_demand(&self, bins: &[DemandBin]) -> Decision {
        let additions = bins.iter().filter_map(|bin| self.scaling_state.demand.addition(bin));
        Decision { events: additions.map(|bin| Event::DemandCounted { bin }).collect(), outcome: Outcome::Done }
    }

    pub(super) fn scale(&self, scaling: &Scaling) -> Result<Decision, Denied> {
        let node = NodeId::local();
        let capacity = self.nodes.get(&node).ok_or(Denied::NoNode)?.capacity;
        let mut decision = self.set_capacity(&node, Resources { workers: scaling.workers_to, ..capacity })?;
        let reason = scaling.reason.chars().take(SCALING_REASON_CHARACTERS_MAX).collect::<String>();
        let scaling = Scaling { reason: Arc::from(reason), ..scaling.clone() };
        decision.events.push(Event::ScalingNoted { scaling });
        Ok(decision)
    }

    pub(super) fn set_policy(&self, policy: Policy) -> Decision {
        let previous = self.scaling_state.policy;
        let event = (previous != policy).then_some(Event::ScalingPolicySet { policy });
        let outcome = Outcome::PolicySet { previous, current: policy };
        Decision { events: event.into_iter().collect(), outcome }
    }

    /// Returns the current scaling policy.
    #[must_use]
    pub const fn policy(&self) -> Policy {
        self.scaling_state.policy
    }

    /// Returns the bins of the last 14 days that are not empty and begin after this moment, oldest first.
    pub fn demand_bins(&self, after: Option<Timestamp>) -> impl Iterator<Item = &DemandBin> {
        self.scaling_state.demand.since(after)
    }

    /// Returns the last scalings, newest first.
    pub fn scalings(&self) -> impl ExactSizeIterator<Item = &PastScaling> {
        self.scaling_state.scalings.iter().rev()
    }

    /// Returns the scaling state as JSON, or `None` if it is the default.
    #[must_use]
    pub fn scaling_state_image(&self) -> Option<String> {
        // Every field can be written as JSON.
        (self.scaling_state != ScalingState::default())
            .then(|| serde_json::to_string(&self.scaling_state).unwrap_or_default())
    }

    pub(super) fn restore_scaling_state(&mut self, image: &str) -> Result<(), InvalidImage> {
        let unreadable = |error: &dyn ToString| InvalidImage::ScalingStateUnreadable(error.to_string());
        let restored: ScalingState = serde_json::from_str(image).map_err(|error| unreadable(&error))?;
        if let Some(broken) = restored.violation() {
            return Err(unreadable(&broken));
        }
        self.scaling_state = restored;
        Ok(())
    }

    pub(super) fn scaling_state_violations(&self, broken: &mut Vec<String>) {
        broken.extend(self.scaling_state.violation().map(str::to_owned));
    }
}

impl ScalingState {
    fn violation(&self) -> Option<&'static str> {
        let is_in_order = self.scalings.iter().is_sorted_by_key(|past| past.at);
        if !self.demand.is_sound() {
            Some("the demand bins are not in order, or too many")
        } else if self.scalings.len() > SCALINGS_MAX || !is_in_order {
            Some("the scalings are not in order, or too many")
        } else {
            None
        }
    }
}
