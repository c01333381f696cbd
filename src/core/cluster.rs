//! The books: nodes, live leases, records of ended ones, and the indexes over them.
//!
//! [`Cluster::apply`] is the only thing that changes them, one event at a time. What decides on events is in `decide`,
//! what reads the books is in `view`, and what must hold between events is in `check`.

use super::allocation::{Allocation, Phase, Reservation, State};
use super::event::{Event, Limits, Recorded};
use super::ids::{AllocationId, FencingToken, JobId, NodeId, RequestId, ServerInstanceId, ServerName, WorkerNumber};
use super::ports::{Port, PortBook};
use super::time::Timestamp;
use super::units::Resources;
use foldhash::HashMap;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// A running MCP server, shared by the allocations that hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) instance: ServerInstanceId,
    pub(super) port: Port,
    /// How many live allocations hold it.
    pub(super) holders: u64,
    /// How many of those are counted in [`Overdue`].
    pub(super) overdue_holders: u64,
}

/// What the leases past their deadline hold, as far as [`Cluster::observe`] has looked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Overdue {
    pub(super) leases: u64,
    pub(super) resources: Resources,
    /// Servers that nobody but such leases holds.
    pub(super) idle_servers: u64,
}

/// One machine's part of the books.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) capacity: Resources,
    pub(super) leased: Resources,
    pub(super) ports: PortBook,
    pub(super) servers: BTreeMap<ServerName, Server>,
    pub(super) overdue: Overdue,
}

/// What is known of a job while an allocation of it is live or on record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Job {
    /// Its live allocations.
    pub(super) live: u64,
    /// The number of its next worker. It starts again from 0 when nothing of the job is live.
    pub(super) next_worker: WorkerNumber,
    /// Its allocations, live and on record, oldest first.
    pub(super) allocations: BTreeMap<FencingToken, AllocationId>,
}

/// A time in which what ran out during an outage is not yet expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grace {
    pub(super) since: Timestamp,
    pub(super) until: Timestamp,
}

/// The state of the lease machine.
///
/// Two clusters are equal if they hold the same books and have looked equally far for expired leases.
/// Maps that are walked are ordered, so that a replay takes the same steps; the hashed ones are only looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    pub(super) limits: Limits,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    /// Live allocations and the records of ended ones.
    pub(super) allocations: HashMap<AllocationId, Box<Allocation>>,
    /// The live ones, oldest first.
    pub(super) live: BTreeMap<FencingToken, AllocationId>,
    /// The ended ones, oldest first.
    pub(super) ended: BTreeMap<FencingToken, AllocationId>,
    /// The ended ones in the order in which they ended.
    pub(super) ended_order: VecDeque<AllocationId>,
    pub(super) by_request: HashMap<RequestId, AllocationId>,
    pub(super) jobs: HashMap<JobId, Job>,
    /// How many of the live ones are not yet active.
    pub(super) pending: u64,
    /// How many of the ended ones never became active.
    pub(super) failed: u64,
    /// Nominal deadlines of the live allocations that have one.
    pub(super) deadlines: BTreeMap<(Timestamp, FencingToken), AllocationId>,
    /// Leases with a nominal deadline up to here are counted in their node's [`Overdue`].
    pub(super) observed: Timestamp,
    pub(super) grace: Option<Grace>,
    pub(super) next_token: FencingToken,
    pub(super) next_instance: ServerInstanceId,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            nodes: BTreeMap::new(),
            allocations: HashMap::default(),
            live: BTreeMap::new(),
            ended: BTreeMap::new(),
            ended_order: VecDeque::new(),
            by_request: HashMap::default(),
            jobs: HashMap::default(),
            pending: 0,
            failed: 0,
            deadlines: BTreeMap::new(),
            observed: Timestamp::MIN,
            grace: None,
            next_token: FencingToken::FIRST,
            next_instance: ServerInstanceId::FIRST,
        }
    }
}

impl Cluster {
    /// Changes the books by one event.
    ///
    /// # Panics
    /// If the event does not follow from the books: [`Cluster::decide`] gives no such event, and a history that has one
    /// is not a history of these books. Going on would hand out what is held.
    pub fn apply(&mut self, recorded: &Recorded) {
        let at = recorded.at;
        match &recorded.event {
            Event::CapacitySet { node, capacity } => {
                self.nodes.entry(node.clone()).or_default().capacity = *capacity;
            }
            Event::LimitsSet { limits } => {
                self.limits = *limits;
                self.trim_to_count();
            }
            Event::Reserved { reservation } => self.reserve(at, reservation),
            Event::Activated { allocation } => {
                self.reschedule(*allocation, |lease| {
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
                self.reschedule(*allocation, |lease| {
                    let Phase::Active { runs_from, .. } = &mut lease.phase else {
                        panic!("{allocation} is {} and cannot be renewed", lease.state())
                    };
                    *runs_from = at;
                    lease.ttl_seconds = *ttl_seconds;
                });
            }
            Event::Releasing { allocation, reason } => {
                self.reschedule(*allocation, |lease| {
                    assert_ne!(lease.state(), State::Releasing, "{allocation} is being released already");
                    lease.phase = Phase::Releasing { activated_at: lease.activated_at(), reason: *reason };
                });
            }
            Event::Released { allocation } => {
                self.end(*allocation, |lease| {
                    let Phase::Releasing { activated_at, reason } = lease.phase else {
                        panic!("{} is {} and was not being released", lease.reservation.allocation, lease.state())
                    };
                    Phase::Released { activated_at, reason, released_at: at }
                });
            }
            Event::OutageNoted { since, grace_ms } => {
                self.grace = Some(Grace { since: *since, until: at.after(*grace_ms) });
            }
            Event::HistoryTrimmed { ended_before } => self.trim_to_age(*ended_before),
        }
    }

    /// Counts the leases whose deadline has passed by `now` as overdue. The cost is in proportion to those not counted before.
    pub fn observe(&mut self, now: Timestamp) {
        let horizon = self.expiry_horizon(now);
        while let Some((deadline, _)) = self.first_deadline_after(self.observed)
            && deadline <= horizon
        {
            // All that run out at the same moment are counted together, since `observed` moves past that moment.
            let same = (deadline, FencingToken::new(0))..=(deadline, FencingToken::new(u64::MAX));
            let leases: Vec<AllocationId> = self.deadlines.range(same).map(|(_, id)| *id).collect();
            for id in leases {
                let reservation = Arc::clone(&self.allocations[&id].reservation);
                self.count_overdue(&reservation, true);
            }
            self.observed = deadline;
        }
        self.observed = self.observed.max(horizon);
    }

    /// The moment up to which nominal deadlines count: now, or the last moment before an outage while its grace lasts.
    pub(super) fn expiry_horizon(&self, now: Timestamp) -> Timestamp {
        match self.grace {
            Some(grace) if now < grace.until => grace.since,
            _ => now,
        }
    }

    /// A nominal deadline as it counts: one that falls in a grace is at the end of that grace.
    pub(super) fn deadline_with_grace(&self, nominal: Timestamp) -> Timestamp {
        match self.grace {
            Some(grace) if nominal > grace.since && nominal < grace.until => grace.until,
            _ => nominal,
        }
    }

    pub(super) fn first_deadline_after(&self, moment: Timestamp) -> Option<(Timestamp, AllocationId)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let later = (Excluded((moment, FencingToken::new(u64::MAX))), Unbounded);
        self.deadlines.range(later).next().map(|((deadline, _), id)| (*deadline, *id))
    }

    fn reserve(&mut self, at: Timestamp, reservation: &Arc<Reservation>) {
        let token = reservation.fencing_token;
        assert!(token >= self.next_token, "fencing token {token} was given before");
        self.next_token = token.next();
        if let Some(request_id) = &reservation.request_id {
            self.by_request.insert(request_id.clone(), reservation.allocation);
        }

        let job = self.jobs.entry(reservation.job.clone()).or_default();
        job.live += 1;
        job.next_worker = WorkerNumber(reservation.workers.first.0 + reservation.workers.count());
        job.allocations.insert(token, reservation.allocation);

        let node =
            self.nodes.get_mut(&reservation.node).unwrap_or_else(|| panic!("there is no node {}", reservation.node));
        node.leased += reservation.workers.resources();
        for port in &reservation.workers.ports {
            node.ports.take(*port);
        }
        for hold in &reservation.servers {
            if let Some(server) = node.servers.get_mut(&hold.name) {
                assert_eq!((server.instance, server.port), (hold.instance, hold.port), "{} runs elsewhere", hold.name);
                // A server that only overdue leases held is idle no more.
                if server.holders == server.overdue_holders {
                    node.overdue.idle_servers -= 1;
                }
                server.holders += 1;
            } else {
                node.ports.take(hold.port);
                let server = Server { instance: hold.instance, port: hold.port, holders: 1, overdue_holders: 0 };
                node.servers.insert(hold.name.clone(), server);
                self.next_instance = self.next_instance.max(hold.instance.next());
            }
        }

        let allocation = Allocation {
            reservation: Arc::clone(reservation),
            created_at: at,
            ttl_seconds: reservation.ttl_seconds,
            phase: Phase::Pending,
        };
        if let Some(deadline) = allocation.nominal_deadline() {
            self.schedule(deadline, reservation);
        }
        self.pending += 1;
        self.live.insert(token, reservation.allocation);
        let before = self.allocations.insert(reservation.allocation, Box::new(allocation));
        assert!(before.is_none(), "{} exists already", reservation.allocation);
    }

    /// Changes a live allocation, and its place among the deadlines with it.
    fn reschedule(&mut self, id: AllocationId, change: impl FnOnce(&mut Allocation)) {
        let lease = self.live_mut(id);
        let (before, was_pending) = (lease.nominal_deadline(), lease.phase == Phase::Pending);
        change(lease);
        let after = lease.nominal_deadline();
        let reservation = Arc::clone(&lease.reservation);
        self.pending -= u64::from(was_pending);
        if before != after {
            self.unschedule(before, &reservation);
            if let Some(deadline) = after {
                self.schedule(deadline, &reservation);
            }
        }
    }

    fn live_mut(&mut self, id: AllocationId) -> &mut Allocation {
        match self.allocations.get_mut(&id) {
            Some(lease) if lease.state().is_live() => lease,
            _ => panic!("{id} is not live"),
        }
    }

    fn schedule(&mut self, deadline: Timestamp, reservation: &Reservation) {
        self.deadlines.insert((deadline, reservation.fencing_token), reservation.allocation);
        if deadline <= self.observed {
            self.count_overdue(reservation, true);
        }
    }

    fn unschedule(&mut self, deadline: Option<Timestamp>, reservation: &Reservation) {
        if let Some(deadline) = deadline {
            self.deadlines.remove(&(deadline, reservation.fencing_token));
            if deadline <= self.observed {
                self.count_overdue(reservation, false);
            }
        }
    }

    fn count_overdue(&mut self, reservation: &Reservation, in_: bool) {
        let Some(node) = self.nodes.get_mut(&reservation.node) else { return };
        let (overdue, servers) = (&mut node.overdue, &mut node.servers);
        let idle_before = overdue.idle_servers;
        let mut became_idle = 0;
        let mut became_busy = 0;
        for hold in &reservation.servers {
            let Some(server) = servers.get_mut(&hold.name) else { continue };
            let was_idle = server.holders == server.overdue_holders;
            if in_ {
                server.overdue_holders += 1;
            } else {
                server.overdue_holders -= 1;
            }
            let is_idle = server.holders == server.overdue_holders;
            became_idle += u64::from(is_idle && !was_idle);
            became_busy += u64::from(was_idle && !is_idle);
        }
        overdue.idle_servers = idle_before + became_idle - became_busy;
        if in_ {
            overdue.leases += 1;
            overdue.resources += reservation.workers.resources();
        } else {
            overdue.leases -= 1;
            overdue.resources -= reservation.workers.resources();
        }
    }

    /// Gives back all that a live allocation holds and moves it to the records.
    fn end(&mut self, id: AllocationId, phase: impl FnOnce(&Allocation) -> Phase) {
        let lease = self.live_mut(id);
        let (deadline, was_pending) = (lease.nominal_deadline(), lease.phase == Phase::Pending);
        lease.phase = phase(lease);
        let has_failed = matches!(lease.phase, Phase::Failed { .. });
        let reservation = Arc::clone(&lease.reservation);
        let token = reservation.fencing_token;
        self.unschedule(deadline, &reservation);
        self.pending -= u64::from(was_pending);
        self.failed += u64::from(has_failed);

        if let Some(node) = self.nodes.get_mut(&reservation.node) {
            node.leased -= reservation.workers.resources();
            for port in &reservation.workers.ports {
                node.ports.give_back(*port);
            }
            for hold in &reservation.servers {
                let Some(server) = node.servers.get_mut(&hold.name) else { continue };
                server.holders -= 1;
                if server.holders == 0 {
                    node.servers.remove(&hold.name);
                    node.ports.give_back(hold.port);
                } else if server.holders == server.overdue_holders {
                    node.overdue.idle_servers += 1;
                }
            }
        }
        if let Some(job) = self.jobs.get_mut(&reservation.job) {
            job.live -= 1;
            if job.live == 0 {
                job.next_worker = WorkerNumber::default();
            }
        }

        self.live.remove(&token);
        self.ended.insert(token, id);
        self.ended_order.push_back(id);
        self.trim_to_count();
    }

    fn trim_to_count(&mut self) {
        while self.ended_order.len() as u64 > self.limits.history_records_max {
            self.forget_oldest();
        }
    }

    fn trim_to_age(&mut self, ended_before: Timestamp) {
        while let Some(id) = self.ended_order.front()
            && self.allocations[id].ended_at().is_some_and(|at| at < ended_before)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some(id) = self.ended_order.pop_front() else { return };
        let Some(record) = self.allocations.remove(&id) else { return };
        self.failed -= u64::from(matches!(record.phase, Phase::Failed { .. }));
        let reservation = &record.reservation;
        let token = reservation.fencing_token;
        self.ended.remove(&token);
        if let Some(request_id) = &reservation.request_id
            && self.by_request.get(request_id) == Some(&id)
        {
            self.by_request.remove(request_id);
        }
        if let Entry::Occupied(mut job) = self.jobs.entry(reservation.job.clone()) {
            job.get_mut().allocations.remove(&token);
            if job.get().allocations.is_empty() {
                job.remove();
            }
        }
    }
}
