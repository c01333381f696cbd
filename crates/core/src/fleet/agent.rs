//! Agents: workers that register themselves, send heartbeats and are leased tasks.

use super::super::allocation::Metadata;
use super::super::ids::{AgentId, AgentType, AllocationId, Capability, NodeId};
use super::super::table::{Keyed, Slot};
use super::super::time::{Millis, Timestamp};
use super::super::units::WorkerSize;
use super::task::differing;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// The period whose ended tasks count towards an agent's health: a minute, as in the health score that this follows.
pub(super) const HEALTH_WINDOW: Millis = Millis::from_seconds(60);

/// The maximum number of ended tasks that count towards an agent's health, as in the health score that this follows.
pub(super) const HEALTH_TASKS_MAX: usize = 100;

/// The capabilities that an agent has, or that a task needs: distinct and in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<Capability>", into = "Vec<Capability>")]
pub struct Capabilities(
    /// `None` for the empty set, which most tasks have; one pointer otherwise, since every queued task has a set.
    Option<Arc<Vec<Capability>>>,
);

impl Capabilities {
    /// Collects capabilities; duplicates count once.
    #[must_use]
    pub fn new(capabilities: impl IntoIterator<Item = Capability>) -> Self {
        let distinct: BTreeSet<Capability> = capabilities.into_iter().collect();
        Self((!distinct.is_empty()).then(|| Arc::new(distinct.into_iter().collect())))
    }

    #[must_use]
    pub fn as_slice(&self) -> &[Capability] {
        self.0.as_deref().map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether every capability in `needed` is among these.
    pub(super) fn contains_all(&self, needed: &Self) -> bool {
        let mut own = self.as_slice().iter();
        // Both are in ascending order, so one pass is enough.
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

/// The arguments with which an agent registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentRequest {
    pub agent: AgentId,
    pub agent_type: AgentType,
    pub capabilities: Capabilities,
    /// The maximum number of tasks that it holds at a time; at least 1.
    pub tasks_max: u32,
    /// The allocation that the agent is a worker of; without one, it takes a worker slot of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation: Option<AllocationId>,
    pub metadata: Metadata,
}

impl AgentRequest {
    /// Returns the names of the arguments that differ in another request.
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

/// An agent's registration. It never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    pub request: AgentRequest,
    /// The node of its worker slot.
    pub node: NodeId,
    /// The capacity it takes there; `None` for a worker of an allocation, whose capacity the allocation takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takes: Option<WorkerSize>,
}

/// Why an agent was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentEndReason {
    Unregistered,
    /// It missed three heartbeats.
    Lost,
    /// The allocation that it was a worker of ended.
    AllocationEnded,
}

/// A task that ended under an agent, as its health counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FinishedTask {
    pub(super) at: Timestamp,
    pub(super) is_success: bool,
    pub(super) duration: Millis,
}

/// A registered agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Agent {
    pub(super) registration: Arc<Registration>,
    /// The registration number: agents are numbered from 0 in the order of registration.
    pub(super) number: u64,
    pub(super) registered_at: Timestamp,
    pub(super) tasks: BTreeSet<Slot>,
    /// The tasks that ended under it recently, oldest first.
    pub(super) recent_tasks: VecDeque<FinishedTask>,
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

    /// How many more tasks it can hold.
    pub(super) fn free_slots(&self) -> usize {
        (self.request().tasks_max as usize).saturating_sub(self.tasks.len())
    }

    /// Records an ended task, and drops those that ended more than [`HEALTH_WINDOW`] before it.
    pub(super) fn record_finished(&mut self, finished: FinishedTask) {
        self.recent_tasks.retain(|earlier| earlier.at.after(HEALTH_WINDOW) > finished.at);
        if self.recent_tasks.len() == HEALTH_TASKS_MAX {
            self.recent_tasks.pop_front();
        }
        self.recent_tasks.push_back(finished);
    }
}
