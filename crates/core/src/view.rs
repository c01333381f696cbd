//! Reading the state: capacity, single allocations, and lists of them.

use super::allocation::{Allocation, State};
use super::cluster::Cluster;
use super::fleet::view::FleetLoad;
use super::ids::{AllocationId, FencingToken, JobId, NodeId, ServerName};
use super::job::Job;
use super::node::{Node, Overdue};
use super::policy::Policy;
use super::sequence_index::LiveFilter;
use super::servers::Server;
use super::table::Slot;
use super::time::Timestamp;
use super::units::{Resources, WorkerSize};

/// The capacity of the cluster at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapacityView {
    /// The capacity of all nodes.
    pub total: Resources,
    /// What is leased, including leases past their deadline.
    pub leased: Resources,
    /// The part of it that leases past their deadline hold. A request that needs it gets it.
    pub reclaimable: Resources,
    /// The names of the MCP servers that are held, sorted within each node.
    pub running_servers: Vec<ServerName>,
    /// The number of live allocations, including those past their deadline.
    pub live_allocations: u64,
    /// The number of live allocations past their deadline.
    pub expired_allocations: u64,
}

impl CapacityView {
    /// Returns the total number of workers for which CPU and memory suffice: those of leases not past their deadline,
    /// plus as many of this size as still fit.
    #[must_use]
    pub fn workers_fit(&self, size: WorkerSize) -> u64 {
        let more = |total: u64, leased: u64, reclaimable: u64, each: u64| {
            total.saturating_sub(leased.saturating_sub(reclaimable)).checked_div(each).unwrap_or(u64::MAX)
        };
        let Self { total, leased, reclaimable, .. } = self;
        let by_cpu = more(
            total.cpu_millis.as_millis(),
            leased.cpu_millis.as_millis(),
            reclaimable.cpu_millis.as_millis(),
            size.cpu_millis.as_millis(),
        );
        let by_memory = more(total.memory_mb.0, leased.memory_mb.0, reclaimable.memory_mb.0, size.memory_mb.0);
        leased.workers.saturating_sub(reclaimable.workers).saturating_add(by_cpu.min(by_memory))
    }
}

/// An allocation at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllocationView {
    pub allocation: Allocation,
    pub at: Timestamp,
    /// When it expires, with the grace after an outage; `None` once it is being released or has ended.
    pub expires_at: Option<Timestamp>,
}

impl AllocationView {
    /// Returns whether the deadline has passed; false once the allocation is being released or has ended.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.expires_at.is_some_and(|deadline| deadline <= self.at)
    }
}

/// Which allocations to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub state: Option<State>,
    pub job: Option<JobId>,
}

impl Filter {
    fn admits_state(&self, state: State) -> bool {
        self.state.is_none_or(|wanted| wanted == state)
    }
}

/// What happens at a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadlineReason {
    /// The lease expires.
    LeaseExpires(AllocationId),
    /// The reservation fails, because it is not active.
    ActivationFails(AllocationId),
}

/// Demand and capacity at a moment: the input of the planner.
#[derive(Clone, Debug, PartialEq)]
pub struct Demand {
    pub capacity: CapacityView,
    /// The requests granted since the start; repeats of one request count once.
    pub granted: u64,
    /// The requests refused for lack of capacity since the start.
    pub refused: u64,
    /// The most workers of a request that was refused for lack of workers since the planner's last sample.
    pub refused_workers_max: u64,
    /// The total number of workers for which CPU and memory suffice.
    pub workers_fit: u64,
    pub fleet: FleetLoad,
    pub policy: Policy,
}

/// Counts of requests, which the caller keeps because they are not part of the state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// Granted since the start; repeats of one request count once.
    pub granted: u64,
    /// Refused for lack of capacity since the start.
    pub refused: u64,
    /// The most workers of a request that was refused for lack of workers since the planner's last sample.
    pub refused_workers_max: u64,
}

impl Cluster {
    /// Returns demand and capacity at `now` for workers of this size.
    #[must_use]
    pub fn demand(&self, now: Timestamp, requests: RequestCounts, worker_size: WorkerSize) -> Demand {
        let RequestCounts { granted, refused, refused_workers_max } = requests;
        let capacity = self.capacity(now);
        Demand {
            workers_fit: capacity.workers_fit(worker_size),
            capacity,
            granted,
            refused,
            refused_workers_max,
            fleet: self.fleet_load(now),
            policy: self.policy(),
        }
    }

    #[must_use]
    pub fn capacity(&self, now: Timestamp) -> CapacityView {
        let mut view = CapacityView {
            total: Resources::default(),
            leased: Resources::default(),
            reclaimable: Resources::default(),
            running_servers: Vec::new(),
            live_allocations: self.records_by_token.live(),
            expired_allocations: 0,
        };
        for (id, node) in &self.nodes {
            view.total += node.capacity;
            view.leased += node.leased;
            let overdue = self.overdue_of(id, node, now);
            view.reclaimable += overdue.resources;
            view.expired_allocations += overdue.leases;
            let mut names: Vec<ServerName> = node.servers.iter().map(|server| server.name.clone()).collect();
            names.sort_unstable();
            // A server that is not shared may run several times.
            names.dedup();
            view.running_servers.append(&mut names);
        }
        view
    }

    /// Returns the number of workers that are leased at `now`, without those of leases past their deadline.
    #[must_use]
    pub fn workers_taken(&self, now: Timestamp) -> u64 {
        let leased = |(id, node): (&NodeId, &Node)| {
            node.leased.workers.saturating_sub(self.overdue_of(id, node, now).resources.workers)
        };
        self.nodes.iter().map(leased).sum()
    }

    /// Returns an allocation at `now`, live or on record.
    #[must_use]
    pub fn allocation(&self, now: Timestamp, id: AllocationId) -> Option<AllocationView> {
        self.find(id).map(|allocation| self.view(now, allocation))
    }

    /// Returns the allocations that the filter admits with a token above `after`, oldest first.
    pub fn list<'a>(
        &'a self,
        now: Timestamp,
        filter: &'a Filter,
        after: FencingToken,
    ) -> Box<dyn Iterator<Item = AllocationView> + 'a> {
        let from = after.next();
        let admitted = move |allocation: &&Allocation| filter.admits_state(allocation.state());
        if let Some(job) = &filter.job {
            let slots = self.job(job).into_iter().flat_map(move |job| job.since(from));
            let records = slots.map(|(_, slot)| self.allocation_at(slot)).filter(admitted);
            return Box::new(records.map(move |record| self.view(now, record)));
        }
        // A filter by state visits only the live or only the ended allocations.
        let live_filter = LiveFilter {
            live: filter.state.is_none_or(State::is_live),
            ended: filter.state.is_none_or(|state| !state.is_live()),
        };
        let records =
            self.records_by_token.since(from, live_filter).map(|(_, slot)| self.allocation_at(slot)).filter(admitted);
        Box::new(records.map(move |record| self.view(now, record)))
    }

    /// Returns the number of allocations that the filter admits. Cheap, except for a state within one large job.
    #[must_use]
    pub fn count(&self, filter: &Filter) -> u64 {
        match (&filter.job, filter.state) {
            (None, None) => self.records_by_token.live() + self.records_by_token.ended(),
            (Some(job), None) => self.job(job).map_or(0, Job::len),
            (Some(job), Some(_)) => {
                let slots = self.job(job).into_iter().flat_map(Job::allocations);
                let records = slots.map(|(_, slot)| self.allocation_at(slot));
                records.filter(|record| filter.admits_state(record.state())).count() as u64
            }
            (None, Some(State::Active)) => self.deadlines.active(),
            (None, Some(State::Pending)) => self.deadlines.pending(),
            // A lease that is being released has no deadline; every other live one has.
            (None, Some(State::Releasing)) => {
                self.records_by_token.live() - self.deadlines.active() - self.deadlines.pending()
            }
            (None, Some(State::Failed)) => self.failed,
            (None, Some(State::Released)) => self.records_by_token.ended() - self.failed,
        }
    }

    /// Returns the next moment at which a lease expires that had not expired at the last observation, and what
    /// happens then. The sweep records the expiry; a simulation can jump to the moment.
    #[must_use]
    pub fn next_deadline(&self) -> Option<(Timestamp, DeadlineReason)> {
        let ((nominal, _), slot) = self.deadlines.upcoming().next()?;
        let lease = self.allocation_at(slot);
        let id = lease.reservation.allocation;
        let reason = match lease.state() {
            State::Pending => DeadlineReason::ActivationFails(id),
            _ => DeadlineReason::LeaseExpires(id),
        };
        Some((self.deadline_with_grace(nominal), reason))
    }

    /// Returns whether an allocation has this id, live or on record.
    #[must_use]
    pub fn contains(&self, id: AllocationId) -> bool {
        self.records.find(&id).is_some()
    }

    /// Returns the job of an allocation.
    #[must_use]
    pub fn job_of(&self, id: AllocationId) -> Option<&JobId> {
        self.find(id).map(|allocation| &allocation.reservation.job)
    }

    /// Returns the fencing token of the last grant; zero before the first.
    #[must_use]
    pub const fn last_token(&self) -> FencingToken {
        FencingToken::new(self.next_token.as_u64() - 1)
    }

    pub(super) fn find(&self, id: AllocationId) -> Option<&Allocation> {
        self.records.find(&id).map(|slot| self.allocation_at(slot))
    }

    pub(super) fn allocation_at(&self, slot: Slot) -> &Allocation {
        &self.records[slot].allocation
    }

    pub(super) fn job(&self, id: &JobId) -> Option<&Job> {
        self.jobs.find(id).map(|slot| &self.jobs[slot])
    }

    pub(super) fn deadline(&self, lease: &Allocation) -> Option<Timestamp> {
        lease.nominal_deadline().map(|nominal| self.deadline_with_grace(nominal))
    }

    /// Returns what leases past their deadline at `now` hold on a node: what was counted at the last observation,
    /// plus what has expired since.
    pub(super) fn overdue_of(&self, id: &NodeId, node: &Node, now: Timestamp) -> Overdue {
        let mut overdue = node.overdue;
        let mut overdue_holders = std::collections::BTreeMap::new();
        for lease in self.newly_overdue(now).filter(|lease| lease.reservation.node == *id) {
            overdue.leases += 1;
            overdue.resources += lease.reservation.workers.resources();
            for hold in &lease.reservation.servers {
                if let Some(server) = node.servers.at(hold.port) {
                    let overdue_holders = overdue_holders.entry(hold.port).or_insert(server.overdue_holders);
                    *overdue_holders += 1;
                    overdue.idle_servers += u64::from(*overdue_holders == server.holders);
                }
            }
        }
        overdue
    }

    /// Returns whether only leases past their deadline at `now` hold a running server.
    pub(super) fn is_held_by_overdue_only(&self, id: &NodeId, server: &Server, now: Timestamp) -> bool {
        let holds = |lease: &&Allocation| {
            lease.reservation.node == *id && lease.reservation.servers.iter().any(|hold| hold.port == server.port)
        };
        server.overdue_holders + self.newly_overdue(now).filter(holds).count() as u64 == server.holders
    }

    fn newly_overdue(&self, now: Timestamp) -> impl Iterator<Item = &Allocation> {
        self.deadlines.newly_overdue(self.expiry_horizon(now)).map(|(_, slot)| self.allocation_at(slot))
    }

    fn view(&self, now: Timestamp, allocation: &Allocation) -> AllocationView {
        AllocationView { allocation: allocation.clone(), at: now, expires_at: self.deadline(allocation) }
    }
}
