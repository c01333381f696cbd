//! Decisions on agents: registration and removal.

use super::super::super::allocation::{Allocation, EndReason, State};
use super::super::super::availability::Availability;
use super::super::super::cluster::Cluster;
use super::super::super::command::{Decision, Denied};
use super::super::super::decide::ReclaimPlan;
use super::super::super::event::Event;
use super::super::super::ids::{AgentId, AgentType, AllocationId, NodeId};
use super::super::super::table::Slot;
use super::super::super::time::Timestamp;
use super::super::super::units::WorkerSize;
use super::super::Fleet;
use super::super::agent::{AgentEndReason, AgentRequest, Registration};
use super::super::command::{FleetDenied, FleetOutcome};
use super::decision;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Cluster {
    pub(super) fn register(
        &self,
        now: Timestamp,
        request: &AgentRequest,
        size: WorkerSize,
    ) -> Result<Decision, Denied> {
        let fleet = &self.fleet;
        if let Some(slot) = fleet.agents.find(&request.agent) {
            let (agent, known) = (request.agent.clone(), fleet.agents[slot].request());
            if known != request {
                return Err(FleetDenied::AgentExists { agent, differs: known.differences(request) }.into());
            }
            return Ok(decision(None, FleetOutcome::Registered { is_new: false, reclaimed: Vec::new() }));
        }
        if fleet.heartbeats.0.draining.contains(&request.agent) {
            return Err(FleetDenied::Draining(request.agent.clone()).into());
        }
        if let Some(reached) = fleet.quota_reached(&request.agent_type) {
            return Err(reached.into());
        }
        let mut events = Vec::with_capacity(1);
        let mut reclaimed = Vec::new();
        let (node, takes) = match request.allocation {
            Some(allocation) => (self.node_for_agent_of(now, allocation)?, None),
            None => {
                let (node, leases) = self.find_worker_slot(now, size).map_err(|denied| match denied {
                    Denied::InsufficientCapacity { shortage, .. } => FleetDenied::NoWorker(shortage).into(),
                    denied => denied,
                })?;
                reclaimed.extend(
                    leases.iter().map(|lease| self.push_end_events(&mut events, now, lease, EndReason::Expired)),
                );
                (node, Some(size))
            }
        };
        let request = AgentRequest { agent_type: fleet.shared_type(&request.agent_type), ..request.clone() };
        events.push(Event::AgentRegistered {
            registration: Arc::new(Registration { request, node: node.clone(), takes }),
        });
        Ok(decision(events, FleetOutcome::Registered { is_new: true, reclaimed }))
    }

    /// Returns the node of an active allocation with a worker that has no agent yet.
    fn node_for_agent_of(&self, now: Timestamp, allocation: AllocationId) -> Result<&NodeId, Denied> {
        let lease = self.find(allocation).ok_or(Denied::UnknownAllocation(allocation))?;
        let is_over = self.deadline(lease).is_none_or(|deadline| deadline <= now);
        if lease.state() != State::Active || is_over {
            return Err(FleetDenied::AllocationNotActive(allocation).into());
        }
        let workers = lease.reservation.workers.count();
        let agents = self.fleet.by_allocation.get(&allocation).map_or(0, BTreeSet::len) as u64;
        if agents >= workers {
            return Err(FleetDenied::AllocationFull { allocation, workers }.into());
        }
        Ok(&lease.reservation.node)
    }

    /// Returns a node with capacity for one more worker, and the expired leases to reclaim for it.
    fn find_worker_slot(&self, now: Timestamp, size: WorkerSize) -> Result<(&NodeId, Vec<&Allocation>), Denied> {
        let node = self.first_node()?;
        let mut availability = Availability::for_agent(self, node, size);
        let ReclaimPlan { reclaimed, pending_shortage } = self.plan_reclaim(now, &mut availability)?;
        match pending_shortage {
            Some(shortage) => Err(Denied::InsufficientCapacity { shortage, retry_at: None }),
            None => Ok((node.id, reclaimed)),
        }
    }

    pub(super) fn unregister(&self, now: Timestamp, agent: &AgentId) -> Result<Decision, Denied> {
        let slot = self.fleet.find_agent(agent)?;
        let mut events = Vec::new();
        let removed = self.fleet.agent_removal(&mut events, now, slot, AgentEndReason::Unregistered);
        Ok(decision(events, FleetOutcome::Unregistered(removed)))
    }

    /// Adds the events that remove the agents of an allocation that ends.
    pub(in super::super::super) fn remove_agents_of(
        &self,
        events: &mut Vec<Event>,
        now: Timestamp,
        allocation: AllocationId,
    ) {
        let mut leaving: Vec<Slot> = self.fleet.by_allocation.get(&allocation).into_iter().flatten().copied().collect();
        // In the order of registration: the order of slots differs after a restore from a snapshot.
        leaving.sort_by_key(|slot| self.fleet.agents[*slot].number);
        for slot in leaving {
            self.fleet.agent_removal(events, now, slot, AgentEndReason::AllocationEnded);
        }
    }
}

impl Fleet {
    /// Returns the denial if a quota is reached for another agent of this type.
    pub(in super::super) fn quota_reached(&self, agent_type: &AgentType) -> Option<FleetDenied> {
        let active = self.agents.len() as u64;
        if let Some(quota) = self.quota.filter(|quota| active >= *quota) {
            return Some(FleetDenied::QuotaReached { agent_type: None, active, quota });
        }
        let active = self.types.get(agent_type).copied().unwrap_or(0);
        let quota = self.quotas.get(agent_type).copied().filter(|quota| active >= *quota)?;
        Some(FleetDenied::QuotaReached { agent_type: Some(agent_type.clone()), active, quota })
    }

    /// Returns an equal type that shares its text with registered agents, if there are any of it.
    fn shared_type(&self, agent_type: &AgentType) -> AgentType {
        self.types.get_key_value(agent_type).map_or_else(|| agent_type.clone(), |(known, _)| known.clone())
    }
}
