//! What the books have for the planner: the demand there was, the policy to go by, and what was scaled.

use super::cluster::Cluster;
use super::command::{Decision, Outcome};
use super::demand::{DemandBin, DemandHistory};
use super::event::Event;
use super::image::NotAnImage;
use super::policy::{Policy, PolicyName};
use super::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;

/// How many scalings are kept at most.
pub const SCALINGS_MAX: usize = 256;

/// How many characters of its reasons are kept of a scaling.
pub const SCALING_REASON_CHARACTERS_MAX: usize = 1_000;

/// A change of how many workers or agents there should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaling {
    /// By which policy.
    pub policy: PolicyName,
    /// How many worker slots there were.
    pub workers_from: u64,
    /// How many there are since.
    pub workers_to: u64,
    /// How many agents there were.
    pub agents_from: u64,
    /// How many there should be since.
    pub agents_to: u64,
    /// Why, at most [`SCALING_REASON_CHARACTERS_MAX`] characters.
    pub reason: Arc<str>,
}

/// A scaling with the moment of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PastScaling {
    /// When.
    pub at: Timestamp,
    /// What.
    pub scaling: Scaling,
}

/// The part of the books that the planner goes by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Planned {
    policy: Policy,
    demand: DemandHistory,
    /// Oldest first.
    scalings: VecDeque<PastScaling>,
}

impl Cluster {
    pub(super) fn apply_to_planned(&mut self, at: Timestamp, event: &Event) {
        match event {
            Event::DemandCounted { bin } => self.planned.demand.add(bin),
            Event::ScalingPolicySet { policy } => self.planned.policy = *policy,
            Event::ScalingNoted { scaling } => {
                if self.planned.scalings.len() == SCALINGS_MAX {
                    self.planned.scalings.pop_front();
                }
                self.planned.scalings.push_back(PastScaling { at, scaling: scaling.clone() });
            }
            event => self.apply_to_fleet(at, event),
        }
    }

    pub(super) fn count_demand(&self, bins: &[DemandBin]) -> Decision {
        let additions = bins.iter().filter_map(|bin| self.planned.demand.addition(bin));
        Decision { events: additions.map(|bin| Event::DemandCounted { bin }).collect(), outcome: Outcome::Done }
    }

    pub(super) fn note_scaling(scaling: &Scaling) -> Decision {
        let reason = scaling.reason.chars().take(SCALING_REASON_CHARACTERS_MAX).collect::<String>();
        let scaling = Scaling { reason: Arc::from(reason), ..scaling.clone() };
        Decision { events: vec![Event::ScalingNoted { scaling }], outcome: Outcome::Done }
    }

    pub(super) fn set_policy(&self, policy: Policy) -> Decision {
        let is_new = self.planned.policy != policy;
        let event = is_new.then_some(Event::ScalingPolicySet { policy });
        Decision { events: event.into_iter().collect(), outcome: Outcome::Done }
    }

    /// The policy that the planner goes by.
    #[must_use]
    pub const fn policy(&self) -> Policy {
        self.planned.policy
    }

    /// The bins of the last 14 days in which anything was asked for and that begin after this moment, oldest first.
    pub fn demand_bins(&self, after: Option<Timestamp>) -> impl Iterator<Item = &DemandBin> {
        self.planned.demand.since(after)
    }

    /// The last scalings, the newest first.
    pub fn scalings(&self) -> impl ExactSizeIterator<Item = &PastScaling> {
        self.planned.scalings.iter().rev()
    }

    /// What the books have for the planner as JSON; nothing if there never was anything.
    #[must_use]
    pub fn planned_image(&self) -> Option<String> {
        // All that it is made of has a text.
        (self.planned != Planned::default()).then(|| serde_json::to_string(&self.planned).unwrap_or_default())
    }

    pub(super) fn restore_planned(&mut self, image: &str) -> Result<(), NotAnImage> {
        let unreadable = |error: &dyn ToString| NotAnImage::PlannedUnreadable(error.to_string());
        let planned: Planned = serde_json::from_str(image).map_err(|error| unreadable(&error))?;
        if let Some(broken) = planned.violation() {
            return Err(unreadable(&broken));
        }
        self.planned = planned;
        Ok(())
    }

    pub(super) fn planned_violations(&self, broken: &mut Vec<String>) {
        broken.extend(self.planned.violation().map(str::to_owned));
    }
}

impl Planned {
    fn violation(&self) -> Option<&'static str> {
        let is_in_order = self.scalings.iter().is_sorted_by_key(|past| past.at);
        if !self.demand.is_sound() {
            Some("the bins of demand are not in order, or too many")
        } else if self.scalings.len() > SCALINGS_MAX || !is_in_order {
            Some("the scalings are not in order, or too many")
        } else {
            None
        }
    }
}
