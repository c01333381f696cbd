//! Reading the books: capacity, single allocations, and lists of them.

use super::ages::Which;
use super::allocation::{Allocation, State};
use super::cluster::Cluster;
use super::fleet::view::FleetLoad;
use super::ids::{AllocationId, FencingToken, JobId, NodeId, ServerName};
use super::job::Job;
use super::node::{Node, Overdue};
use super::policy::Policy;
use super::servers::Server;
use super::table::Slot;
use super::time::Timestamp;
use super::units::{Resources, WorkerSize};

/// The capacity of the cluster at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapacityView {
    /// All that the nodes have.
    pub total: Resources,
    /// What is leased, leases past their deadline included.
    pub leased: Resources,
    /// What of that is held by leases past their deadline: a request that needs it gets it.
    pub reclaimable: Resources,
    /// The MCP servers that are held, by name.
    pub running_servers: Vec<ServerName>,
    /// How many allocations are live, those past their deadline included.
    pub live_allocations: u64,
    /// How many of them are past their deadline.
    pub expired_allocations: u64,
}

impl CapacityView {
    /// For how many workers of a size in all CPU and memory are enough, with what is leased now and not past its deadline.
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
    /// The allocation.
    pub allocation: Allocation,
    /// The moment.
    pub at: Timestamp,
    /// When it runs out; nothing once it is being taken back or has ended.
    pub expires_at: Option<Timestamp>,
}

impl AllocationView {
    /// Whether its deadline has passed; false once it is being taken back or has ended.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.expires_at.is_some_and(|deadline| deadline <= self.at)
    }
}

/// Which allocations to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only those in this state.
    pub state: Option<State>,
    /// Only those of this job.
    pub job: Option<JobId>,
}

impl Filter {
    fn admits_state(&self, state: State) -> bool {
        self.state.is_none_or(|wanted| wanted == state)
    }
}

/// Why something happens at a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadlineReason {
    /// A lease runs out.
    LeaseExpires(AllocationId),
    /// A reservation that is not active by then has failed.
    ActivationFails(AllocationId),
}

/// What is asked for, and what there is for it: what the planner looks at.
#[derive(Clone, Debug, PartialEq)]
pub struct Demand {
    /// The capacity.
    pub capacity: CapacityView,
    /// Requests granted since the start; repeats of one request count once.
    pub granted: u64,
    /// Requests refused for want of room since the start.
    pub refused: u64,
    /// The most workers that a request asked for that was refused for want of workers since the planner last looked.
    pub refused_workers_max: u64,
    /// For how many workers in all CPU and memory are enough.
    pub workers_fit: u64,
    /// What the fleet has to do.
    pub fleet: FleetLoad,
    /// The policy to go by.
    pub policy: Policy,
}

/// What was counted of requests, which the books do not count themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestsSeen {
    /// Granted since the start; repeats of one request count once.
    pub granted: u64,
    /// Refused for want of room since the start.
    pub refused: u64,
    /// The most workers that one asked for that was refused for want of workers since the planner last looked.
    pub refused_workers_max: u64,
}

impl Cluster {
    /// What the planner looks at, at `now`, where a worker is of this size.
    #[must_use]
    pub fn demand(&self, now: Timestamp, requests: RequestsSeen, worker_size: WorkerSize) -> Demand {
        let RequestsSeen { granted, refused, refused_workers_max } = requests;
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

    /// The capacity at `now`.
    #[must_use]
    pub fn capacity(&self, now: Timestamp) -> CapacityView {
        let mut view = CapacityView {
            total: Resources::default(),
            leased: Resources::default(),
            reclaimable: Resources::default(),
            running_servers: Vec::new(),
            live_allocations: self.ages.live(),
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
            // One that is not shared may run several times.
            names.dedup();
            view.running_servers.append(&mut names);
        }
        view
    }

    /// How many workers are taken at `now`, those of leases past their deadline left out.
    #[must_use]
    pub fn workers_taken(&self, now: Timestamp) -> u64 {
        let taken = |(id, node): (&NodeId, &Node)| {
            node.leased.workers.saturating_sub(self.overdue_of(id, node, now).resources.workers)
        };
        self.nodes.iter().map(taken).sum()
    }

    /// An allocation at `now`, live or on record.
    #[must_use]
    pub fn allocation(&self, now: Timestamp, id: AllocationId) -> Option<AllocationView> {
        self.find(id).map(|allocation| self.view(now, allocation))
    }

    /// The allocations that the filter admits with a token above `after`, oldest first.
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
            let records = slots.map(|(_, slot)| self.at(slot)).filter(admitted);
            return Box::new(records.map(move |record| self.view(now, record)));
        }
        // A filter by state walks only that part of the books where the state occurs.
        let which = Which {
            live: filter.state.is_none_or(State::is_live),
            ended: filter.state.is_none_or(|state| !state.is_live()),
        };
        let records = self.ages.since(from, which).map(|(_, slot)| self.at(slot)).filter(admitted);
        Box::new(records.map(move |record| self.view(now, record)))
    }

    /// How many allocations the filter admits. Cheap, but for a state within one large job.
    #[must_use]
    pub fn count(&self, filter: &Filter) -> u64 {
        match (&filter.job, filter.state) {
            (None, None) => self.ages.live() + self.ages.ended(),
            (Some(job), None) => self.job(job).map_or(0, Job::len),
            (Some(job), Some(_)) => {
                let slots = self.job(job).into_iter().flat_map(Job::allocations);
                let records = slots.map(|(_, slot)| self.at(slot));
                records.filter(|record| filter.admits_state(record.state())).count() as u64
            }
            (None, Some(State::Active)) => self.deadlines.active(),
            (None, Some(State::Pending)) => self.deadlines.pending(),
            // A lease that is being taken back has no deadline; every other has.
            (None, Some(State::Releasing)) => self.ages.live() - self.deadlines.active() - self.deadlines.pending(),
            (None, Some(State::Failed)) => self.failed,
            (None, Some(State::Released)) => self.ages.ended() - self.failed,
        }
    }

    /// The next moment at which a lease runs out that had not at the last observation, and why. The sweep records it;
    /// whoever simulates time can jump to it.
    #[must_use]
    pub fn next_deadline(&self) -> Option<(Timestamp, DeadlineReason)> {
        let ((nominal, _), slot) = self.deadlines.ahead().next()?;
        let lease = self.at(slot);
        let id = lease.reservation.allocation;
        let reason = match lease.state() {
            State::Pending => DeadlineReason::ActivationFails(id),
            _ => DeadlineReason::LeaseExpires(id),
        };
        Some((self.deadline_with_grace(nominal), reason))
    }

    /// Whether there is an allocation with this id, live or on record.
    #[must_use]
    pub fn contains(&self, id: AllocationId) -> bool {
        self.records.find(&id).is_some()
    }

    /// The job whose allocation this is.
    #[must_use]
    pub fn job_of(&self, id: AllocationId) -> Option<&JobId> {
        self.find(id).map(|allocation| &allocation.reservation.job)
    }

    /// The fencing token of the last grant; zero before the first.
    #[must_use]
    pub const fn last_token(&self) -> FencingToken {
        FencingToken::new(self.next_token.as_u64() - 1)
    }

    pub(super) fn find(&self, id: AllocationId) -> Option<&Allocation> {
        self.records.find(&id).map(|slot| self.at(slot))
    }

    pub(super) fn at(&self, slot: Slot) -> &Allocation {
        &self.records[slot].allocation
    }

    pub(super) fn job(&self, id: &JobId) -> Option<&Job> {
        self.jobs.find(id).map(|slot| &self.jobs[slot])
    }

    pub(super) fn deadline(&self, lease: &Allocation) -> Option<Timestamp> {
        lease.nominal_deadline().map(|nominal| self.deadline_with_grace(nominal))
    }

    /// What leases past their deadline at `now` hold on a node: what was counted, and what ran out since.
    pub(super) fn overdue_of(&self, id: &NodeId, node: &Node, now: Timestamp) -> Overdue {
        let mut overdue = node.overdue;
        let mut lost = std::collections::BTreeMap::new();
        for lease in self.newly_overdue(now).filter(|lease| lease.reservation.node == *id) {
            overdue.leases += 1;
            overdue.resources += lease.reservation.workers.resources();
            for hold in &lease.reservation.servers {
                if let Some(server) = node.servers.at(hold.port) {
                    let lost = lost.entry(hold.port).or_insert(server.overdue_holders);
                    *lost += 1;
                    overdue.idle_servers += u64::from(*lost == server.holders);
                }
            }
        }
        overdue
    }

    /// Whether a running server is held by nobody but leases past their deadline at `now`.
    pub(super) fn is_held_by_overdue_only(&self, id: &NodeId, server: &Server, now: Timestamp) -> bool {
        let holds = |lease: &&Allocation| {
            lease.reservation.node == *id && lease.reservation.servers.iter().any(|hold| hold.port == server.port)
        };
        server.overdue_holders + self.newly_overdue(now).filter(holds).count() as u64 == server.holders
    }

    fn newly_overdue(&self, now: Timestamp) -> impl Iterator<Item = &Allocation> {
        self.deadlines.newly_overdue(self.expiry_horizon(now)).map(|(_, slot)| self.at(slot))
    }

    fn view(&self, now: Timestamp, allocation: &Allocation) -> AllocationView {
        AllocationView { allocation: allocation.clone(), at: now, expires_at: self.deadline(allocation) }
    }
}
