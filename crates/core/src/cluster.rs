//! The state of the cluster: nodes, live allocations, records of ended ones, and the indexes over them.
//!
//! Only [`Cluster::apply`] changes the state, one event at a time. `decide` chooses the events, `view` reads the
//! state, and `check` lists the invariants that must hold between events.

use super::allocation::{Allocation, Phase, Reservation, State};
use super::deadlines::Deadlines;
use super::event::{Event, Limits, Recorded};
use super::fleet::Fleet;
use super::grace::{Grace, Graces};
use super::ids::{AllocationId, FencingToken, NodeId, RequestId, ServerInstanceId};
use super::job::Job;
use super::node::Node;
use super::provisioning::Provisioning;
use super::scaling_state::ScalingState;
use super::sequence_index::SequenceIndex;
use super::table::{Keyed, Slot, Table};
use super::time::Timestamp;
use foldhash::HashMap;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// An allocation with the slot of its job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AllocationRecord {
    pub(super) allocation: Allocation,
    /// The slot in [`Cluster::jobs`].
    pub(super) job: Slot,
}

impl Keyed for AllocationRecord {
    type Key = AllocationId;

    fn key(&self) -> &AllocationId {
        &self.allocation.reservation.allocation
    }
}

/// The state of the lease machine.
///
/// Two clusters are equal if the same events led to the same state and [`Cluster::observe`] has reached the same time
/// in both. Maps that are iterated are ordered, so that a replay takes the same steps; hash maps are only looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    pub(super) limits: Limits,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    /// Live allocations and the records of ended ones.
    pub(super) records: Table<AllocationRecord>,
    /// The same, oldest first.
    pub(super) records_by_token: SequenceIndex<FencingToken>,
    /// The ended allocations, in the order in which they ended.
    pub(super) ended_order: VecDeque<Slot>,
    pub(super) by_request: HashMap<RequestId, Slot>,
    pub(super) jobs: Table<Job>,
    /// The number of ended allocations that never became active.
    pub(super) failed: u64,
    /// Nominal deadlines of the live allocations that have one.
    pub(super) deadlines: Deadlines,
    /// The live allocations that are being released, oldest first.
    pub(super) releasing: Vec<(FencingToken, Slot)>,
    pub(super) graces: Graces,
    pub(super) next_token: FencingToken,
    pub(super) next_instance: ServerInstanceId,
    pub(super) fleet: Fleet,
    /// Demand, scaling policy and past scalings.
    pub(super) scaling_state: ScalingState,
    /// What has to be started and stopped for leases. Not part of the state: no event changes it.
    pub(super) provisioning: Provisioning,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            nodes: BTreeMap::new(),
            records: Table::default(),
            records_by_token: SequenceIndex::default(),
            ended_order: VecDeque::new(),
            by_request: HashMap::default(),
            jobs: Table::default(),
            failed: 0,
            deadlines: Deadlines::default(),
            releasing: Vec::new(),
            graces: Graces::default(),
            next_token: FencingToken::FIRST,
            next_instance: ServerInstanceId::FIRST,
            fleet: Fleet::default(),
            scaling_state: ScalingState::default(),
            provisioning: Provisioning::default(),
        }
    }
}

impl Cluster {
    /// Changes the state by one event.
    ///
    /// # Panics
    /// If the event does not follow from the state. [`Cluster::decide`] never returns such an event, and a log that
    /// holds one belongs to another state. Continuing would grant resources that are already held.
    pub fn apply(&mut self, recorded: &Recorded) {
        let at = recorded.at;
        match &recorded.event {
            Event::CapacitySet { node, capacity } => {
                self.nodes.entry(node.clone()).or_default().capacity = *capacity;
            }
            Event::LimitsSet { limits } => {
                self.limits = *limits;
                self.trim_to_count();
                self.fleet.trim(*limits);
            }
            Event::Reserved { reservation } => self.reserve(at, reservation),
            Event::Activated { allocation } => {
                self.change(*allocation, |lease| {
                    assert_eq!(lease.phase, Phase::Pending, "{allocation} was activated before");
                    lease.phase = Phase::Active { activated_at: at, runs_from: at };
                });
            }
            Event::ActivationFailed { allocation, error } => {
                self.end(*allocation, |lease| {
                    assert_eq!(lease.phase, Phase::Pending, "{allocation} was activated before");
                    Phase::Failed { error: Arc::clone(error), failed_at: at }
                });
            }
            Event::Renewed { allocation, ttl_seconds } => {
                self.change(*allocation, |lease| {
                    let Phase::Active { runs_from, .. } = &mut lease.phase else {
                        panic!("{allocation} is {} and cannot be renewed", lease.state())
                    };
                    *runs_from = at;
                    lease.ttl_seconds = *ttl_seconds;
                });
            }
            Event::Releasing { allocation, reason } => {
                self.change(*allocation, |lease| {
                    assert_ne!(lease.state(), State::Releasing, "{allocation} is already being released");
                    lease.phase = Phase::Releasing { activated_at: lease.activated_at(), reason: *reason };
                });
            }
            Event::Released { allocation } => {
                self.end(*allocation, |lease| {
                    let Phase::Releasing { activated_at, reason } = lease.phase else {
                        panic!("{} is {} and is not being released", lease.reservation.allocation, lease.state())
                    };
                    Phase::Released { activated_at, reason, released_at: at }
                });
            }
            Event::OutageNoted { since, grace_ms, spread_ms } => {
                self.graces.add(at, Grace { since: *since, until: at.after(*grace_ms), spread: *spread_ms });
            }
            Event::HistoryTrimmed { ended_before } => {
                self.trim_to_age(*ended_before);
                self.fleet.trim_to_age(*ended_before);
            }
            event => self.apply_to_scaling_state(at, event),
        }
    }

    /// Sets what has to be started and stopped for leases from now on.
    pub fn set_provisioning(&mut self, provisioning: Provisioning) {
        self.provisioning = provisioning;
    }

    /// Returns what [`Cluster::set_provisioning`] last set.
    #[must_use]
    pub const fn provisioning(&self) -> &Provisioning {
        &self.provisioning
    }

    /// Counts the leases whose deadline has passed by `now` as overdue, and advances the order of the queue and the
    /// weights of the agents to `now`. The cost is proportional to what has changed since the last call. Decisions
    /// about the fleet use the time of the last call.
    pub fn observe(&mut self, now: Timestamp) {
        let horizon = self.expiry_horizon(now).max(self.deadlines.observed);
        for (_, slot) in self.deadlines.newly_overdue(horizon) {
            let reservation = &self.records[slot].allocation.reservation;
            if let Some(node) = self.nodes.get_mut(&reservation.node) {
                node.count_overdue(reservation);
            }
        }
        self.deadlines.observed = horizon;
        self.fleet.observe(now);
    }

    /// Returns the moment up to which nominal deadlines have passed: `now`, unless an outage ended shortly before.
    pub(super) fn expiry_horizon(&self, now: Timestamp) -> Timestamp {
        self.graces.horizon(now)
    }

    /// Returns when a nominal deadline takes effect: later if the grace after an outage covers it.
    pub(super) fn deadline_with_grace(&self, nominal: Timestamp) -> Timestamp {
        self.graces.deadline(nominal)
    }

    fn reserve(&mut self, at: Timestamp, reservation: &Arc<Reservation>) {
        let token = reservation.fencing_token;
        assert!(token >= self.next_token, "fencing token {token} was assigned before");
        self.next_token = token.next();
        if let Some(newest) = reservation.servers.iter().map(|hold| hold.instance).max() {
            self.next_instance = self.next_instance.max(newest.next());
        }
        let node = self.nodes.get_mut(&reservation.node);
        node.unwrap_or_else(|| panic!("node {} does not exist", reservation.node)).reserve(reservation);

        let job = self.jobs.find_or_insert(&reservation.job, || Job::new(reservation.job.clone()));
        let allocation = Allocation {
            reservation: Arc::clone(reservation),
            created_at: at,
            ttl_seconds: reservation.ttl_seconds,
            phase: Phase::Pending,
        };
        let slot = self.records.insert(AllocationRecord { allocation, job });
        self.jobs[job].reserve(reservation, slot);
        self.records_by_token.insert(token, slot);
        if let Some(request_id) = &reservation.request_id {
            self.by_request.insert(request_id.clone(), slot);
        }
        self.schedule(slot);
    }

    /// Changes a live allocation and updates the index of deadlines.
    fn change(&mut self, id: AllocationId, change: impl FnOnce(&mut Allocation)) {
        let slot = self.live_slot(id);
        self.unschedule(slot);
        change(&mut self.records[slot].allocation);
        self.schedule(slot);
    }

    /// Frees everything that a live allocation holds and moves the allocation to the records.
    fn end(&mut self, id: AllocationId, phase: impl FnOnce(&Allocation) -> Phase) {
        let slot = self.live_slot(id);
        self.unschedule(slot);
        let AllocationRecord { allocation, job } = &mut self.records[slot];
        allocation.phase = phase(allocation);
        self.failed += u64::from(allocation.state() == State::Failed);

        let reservation = &allocation.reservation;
        if let Some(node) = self.nodes.get_mut(&reservation.node) {
            node.release(reservation);
        }
        if let Some(request_id) = reservation.request_id.as_ref().filter(|_| allocation.frees_request_id()) {
            self.by_request.remove(request_id);
        }
        self.jobs[*job].end();
        self.records_by_token.end(reservation.fencing_token);
        self.ended_order.push_back(slot);
        self.trim_to_count();
    }

    /// Returns the slot of a live allocation.
    ///
    /// # Panics
    /// If the allocation is not live.
    fn live_slot(&self, id: AllocationId) -> Slot {
        match self.records.find(&id) {
            Some(slot) if self.records[slot].allocation.state().is_live() => slot,
            _ => panic!("{id} is not live"),
        }
    }

    /// Adds a lease to the index of deadlines, or to the list of leases that are being released. A lease whose
    /// deadline has passed already counts as overdue.
    pub(super) fn schedule(&mut self, slot: Slot) {
        let lease = &self.records[slot].allocation;
        if lease.state() == State::Releasing {
            let (Ok(position) | Err(position)) = self.releasing_position(lease.reservation.fencing_token);
            self.releasing.insert(position, (lease.reservation.fencing_token, slot));
        }
        if self.deadlines.insert(lease, slot)
            && let Some(node) = self.nodes.get_mut(&lease.reservation.node)
        {
            node.count_overdue(&lease.reservation);
        }
    }

    /// Removes what [`Self::schedule`] added, and no longer counts the lease as overdue.
    fn unschedule(&mut self, slot: Slot) {
        let lease = &self.records[slot].allocation;
        if lease.state() == State::Releasing
            && let Ok(position) = self.releasing_position(lease.reservation.fencing_token)
        {
            self.releasing.remove(position);
        }
        let lease = &self.records[slot].allocation;
        if self.deadlines.remove(lease)
            && let Some(node) = self.nodes.get_mut(&lease.reservation.node)
        {
            node.discount_overdue(&lease.reservation);
        }
    }

    fn releasing_position(&self, token: FencingToken) -> Result<usize, usize> {
        self.releasing.binary_search_by_key(&token, |(token, _)| *token)
    }

    fn trim_to_count(&mut self) {
        while self.ended_order.len() as u64 > self.limits.history_records_max {
            self.forget_oldest();
        }
    }

    fn trim_to_age(&mut self, ended_before: Timestamp) {
        while let Some(slot) = self.ended_order.front()
            && self.records[*slot].allocation.ended_at().is_some_and(|at| at < ended_before)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some(slot) = self.ended_order.pop_front() else { return };
        let Some(AllocationRecord { allocation, job }) = self.records.remove(slot) else { return };
        self.failed -= u64::from(allocation.state() == State::Failed);
        let reservation = &allocation.reservation;
        self.records_by_token.forget(reservation.fencing_token);
        if let Some(request_id) = &reservation.request_id
            && self.by_request.get(request_id) == Some(&slot)
        {
            self.by_request.remove(request_id);
        }
        self.jobs[job].forget(reservation.fencing_token);
        if self.jobs[job].is_empty() {
            self.jobs.remove(job);
        }
    }
}
