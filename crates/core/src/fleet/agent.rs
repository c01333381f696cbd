//! An agent: a worker that registered itself, sends heartbeats and is handed tasks.

use super::super::allocation::Metadata;
use super::super::ids::{AgentId, AgentType, AllocationId, Capability, NodeId};
use super::super::table::{Keyed, Slot};
use super::super::time::{Millis, Timestamp};
use super::super::units::WorkerSize;
use super::task::differing;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// Over how long an agent's work is looked back upon to tell its health: a minute, as in the health score that this follows.
pub(super) const HEALTH_WINDOW: Millis = Millis::from_seconds(60);

/// How many ended tasks of an agent its health is told from at most, from the same place.
pub(super) const HEALTH_TASKS_MAX: usize = 100;

/// What an agent can do, or a task needs: each once, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<Capability>", into = "Vec<Capability>")]
pub struct Capabilities(
    /// Nothing if there are none, as for most tasks; one word where there are some, since every queued task has a set.
    Option<Arc<Vec<Capability>>>,
);

impl Capabilities {
    /// These capabilities, where one named twice counts once.
    #[must_use]
    pub fn new(capabilities: impl IntoIterator<Item = Capability>) -> Self {
        let distinct: BTreeSet<Capability> = capabilities.into_iter().collect();
        Self((!distinct.is_empty()).then(|| Arc::new(distinct.into_iter().collect())))
    }

    /// All of them.
    #[must_use]
    pub fn as_slice(&self) -> &[Capability] {
        self.0.as_deref().map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether each of `needed` is among them.
    #[must_use]
    pub fn cover(&self, needed: &Self) -> bool {
        let mut own = self.as_slice().iter();
        // Both are in order.
        needed.as_slice().iter().all(|capability| own.any(|own| own == capability))
    }
}

impl From<Vec<Capability>> for Capabilities {
    fn from(capabilities: Vec<Capability>) -> Self {
        Self::new(capabilities)
    }
}

impl From<Capabilities> for Vec<Capability> {
    fn from(capabilities: Capabilities) -> Self {
        capabilities.as_slice().to_vec()
    }
}

/// What an agent says of itself when it registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentRequest {
    /// Its id.
    pub agent: AgentId,
    /// What kind of agent it is.
    pub agent_type: AgentType,
    /// What it can do.
    pub capabilities: Capabilities,
    /// How many tasks it may hold at once; at least 1.
    pub tasks_max: u32,
    /// The allocation one of whose workers it is; without one, it takes a worker slot of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation: Option<AllocationId>,
    /// What it notes.
    pub metadata: Metadata,
}

impl AgentRequest {
    /// The arguments in which another request differs from it.
    pub(super) fn differences(&self, other: &Self) -> Vec<&'static str> {
        let Self { agent, agent_type, capabilities, tasks_max, allocation, metadata } = other;
        differing([
            ("agent_id", self.agent != *agent),
            ("agent_type", self.agent_type != *agent_type),
            ("capabilities", self.capabilities != *capabilities),
            ("max_concurrent", self.tasks_max != *tasks_max),
            ("allocation_id", self.allocation != *allocation),
            ("metadata", self.metadata != *metadata),
        ])
    }
}

/// An agent as it was taken on. It never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// What it said of itself.
    pub request: AgentRequest,
    /// Where its worker slot is.
    pub node: NodeId,
    /// What it takes there; nothing if it is a worker of an allocation, which takes that already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takes: Option<WorkerSize>,
}

/// Why an agent is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentEnd {
    /// It left.
    Unregistered,
    /// It missed three heartbeats.
    Lost,
    /// The allocation it belonged to ended.
    AllocationEnded,
}

/// How one task of an agent went, as far as its health goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) at: Timestamp,
    pub(super) is_success: bool,
    pub(super) duration: Millis,
}

/// An agent in the books.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Agent {
    pub(super) registration: Arc<Registration>,
    /// Its place among all that ever registered.
    pub(super) number: u64,
    pub(super) registered_at: Timestamp,
    /// The tasks it holds.
    pub(super) tasks: BTreeSet<Slot>,
    /// The tasks that ended in its hands lately, oldest first.
    pub(super) ended: VecDeque<Ended>,
}

impl Keyed for Agent {
    type Key = AgentId;

    fn key(&self) -> &AgentId {
        &self.registration.request.agent
    }
}

impl Agent {
    pub(super) fn request(&self) -> &AgentRequest {
        &self.registration.request
    }

    /// How many tasks more it may hold.
    pub(super) fn room(&self) -> usize {
        (self.request().tasks_max as usize).saturating_sub(self.tasks.len())
    }

    /// Notes how a task ended, and forgets those that ended over a minute before.
    pub(super) fn note(&mut self, ended: Ended) {
        self.ended.retain(|earlier| earlier.at.after(HEALTH_WINDOW) > ended.at);
        if self.ended.len() == HEALTH_TASKS_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(ended);
    }
}
