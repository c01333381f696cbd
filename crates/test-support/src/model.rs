//! A naive reference of the lease machine: one list of leases, from which everything else is computed anew for each
//! query. It shares the types of commands and outcomes with the core, but none of its logic.

mod availability;
mod lease;
mod queries;
mod slots;

use cortex_core::allocation::{Allocation, EndReason, Phase, Reservation, State};
use cortex_core::command::{Command, Denied, Outcome, Release, Request};
use cortex_core::event::Limits;
use cortex_core::ids::{AllocationId, FencingToken, JobId, NodeId, ServerName};
use cortex_core::provisioning::{Provisioning, Sharing};
use cortex_core::time::{Millis, Timestamp, TtlSeconds};
use cortex_core::units::{Resources, WorkerSize};
use lease::{Lease, is_same_request, release_of, sum};
use slots::WorkerSlot;
use std::sync::Arc;

#[derive(Clone, Debug)]
struct Node {
    id: NodeId,
    capacity: Resources,
    /// Where the search for a worker's port starts.
    worker_port: u16,
    /// Where the search for a server's port starts.
    server_port: u16,
}

/// The state of the reference.
#[derive(Clone, Debug)]
pub struct Model {
    limits: Limits,
    /// Sorted by name.
    nodes: Vec<Node>,
    /// Live and on record, in the order granted.
    leases: Vec<Lease>,
    /// The worker slots that agents hold without an allocation.
    slots: Vec<WorkerSlot>,
    /// The next worker number of each job that has a live allocation.
    counters: Vec<(JobId, u64)>,
    tokens: u64,
    instances: u64,
    ends: u64,
    observed: Timestamp,
    /// For each outage: since when nobody could renew, the end of the grace, and the end of the spread.
    graces: Vec<(Timestamp, Timestamp, Timestamp)>,
    provisioning: Provisioning,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            nodes: Vec::new(),
            leases: Vec::new(),
            slots: Vec::new(),
            counters: Vec::new(),
            tokens: 0,
            instances: 0,
            ends: 0,
            observed: Timestamp::MIN,
            graces: Vec::new(),
            provisioning: Provisioning::default(),
        }
    }
}

impl Model {
    /// Sets what has to be started and stopped for leases.
    pub fn set_provisioning(&mut self, provisioning: Provisioning) {
        self.provisioning = provisioning;
    }

    /// Returns whether something has to be started for a lease, so that separate commands report its start and its
    /// end.
    fn is_provisioned(&self, reservation: &Reservation) -> bool {
        let has_servers = self.provisioning.catalog.is_some() && !reservation.servers.is_empty();
        has_servers || self.provisioning.manages_workers && !reservation.workers.ports.is_empty()
    }

    fn is_private(&self, name: &ServerName) -> bool {
        let catalog = self.provisioning.catalog.iter().flatten();
        catalog.into_iter().any(|(known, sharing)| known == name && *sharing == Sharing::PerAllocation)
    }

    /// Carries out a command. If `whole` is false, a grant stays pending and a release stays unfinished.
    pub fn command(&mut self, now: Timestamp, command: &Command, whole: bool) -> Result<Outcome, Denied> {
        match command {
            Command::SetCapacity { node, capacity } => self.set_capacity(node, *capacity),
            Command::SetLimits(limits) => {
                let live = self.live().len() as u64;
                if limits.live_allocations_max < live {
                    return Err(Denied::BelowLive { limit: limits.live_allocations_max, live });
                }
                self.limits = *limits;
                self.trim();
                Ok(Outcome::Done)
            }
            Command::Request { request, worker_size, random } => {
                self.request(now, request, *worker_size, *random, whole)
            }
            Command::Release { allocation, reason } => self.release(now, *allocation, *reason, whole),
            Command::Activate { allocation } => {
                self.expect_pending(*allocation)?;
                self.activate(now, *allocation);
                Ok(Outcome::Done)
            }
            Command::FailActivation { allocation, error } => {
                self.expect_pending(*allocation)?;
                self.fail(now, *allocation, error);
                Ok(Outcome::Done)
            }
            Command::FinishRelease { allocation } => {
                let lease = self.find(*allocation).ok_or(Denied::UnknownAllocation(*allocation))?;
                if lease.state() != State::Releasing {
                    return Err(Denied::NotReleasing { allocation: *allocation, state: lease.state() });
                }
                let release_of = release_of(now, lease, EndReason::Requested);
                self.finish_release(now, *allocation);
                Ok(Outcome::Released(release_of))
            }
            Command::Renew { allocation, ttl_seconds, fencing_token } => {
                self.renew(now, *allocation, *ttl_seconds, *fencing_token)
            }
            Command::Sweep { leases_max } => {
                let overdue: Vec<AllocationId> = self.overdue(now).iter().map(|lease| lease.id()).collect();
                let (due, left) = overdue.split_at(overdue.len().min(*leases_max));
                let expired = due.iter().map(|id| self.end(now, *id, EndReason::Expired)).collect();
                Ok(Outcome::Swept { expired, more: !left.is_empty() })
            }
            Command::TrimHistory { older_than } => {
                let limit = now.as_millis().saturating_sub(i64::try_from(older_than.0).unwrap_or(i64::MAX));
                self.leases.retain(|lease| lease.record.ended_at().is_none_or(|at| at.as_millis() >= limit));
                Ok(Outcome::Done)
            }
            Command::NoteOutage { since, grace, spread } => {
                self.note_outage(now, *since, *grace, *spread);
                Ok(Outcome::Done)
            }
            Command::Fleet(_) | Command::CountDemand(_) | Command::SetPolicy(_) | Command::Scale(_) => {
                panic!("it has a reference of its own: {command:?}")
            }
        }
    }

    /// Marks what has expired by now. An outage recorded later does not revive it.
    pub fn observe(&mut self, now: Timestamp) {
        self.observed = self.observed.max(self.horizon(now));
    }

    /// Makes a pending lease active.
    pub fn activate(&mut self, now: Timestamp, id: AllocationId) {
        self.change(id, |record| record.phase = Phase::Active { activated_at: now, runs_from: now });
    }

    /// Fails a pending lease.
    pub fn fail(&mut self, now: Timestamp, id: AllocationId, error: &str) {
        self.finish(id, Phase::Failed { error: Arc::from(error), failed_at: now });
    }

    /// Finishes a release.
    pub fn finish_release(&mut self, now: Timestamp, id: AllocationId) {
        let Some(Phase::Releasing { activated_at, reason }) = self.find(id).map(|lease| lease.record.phase.clone())
        else {
            panic!("{id} is not being released")
        };
        self.finish(id, Phase::Released { activated_at, reason, released_at: now });
    }

    fn note_outage(&mut self, now: Timestamp, since: Timestamp, grace: Millis, spread: Millis) {
        let later = |moment: Timestamp, by: Millis| {
            Timestamp::from_millis(moment.as_millis().saturating_add(i64::try_from(by.0).unwrap_or(i64::MAX)))
        };
        let spared = self.graces.iter().map(|(_, _, end)| *end).max().unwrap_or(Timestamp::MIN);
        let since = self.horizon(since.min(now)).max(self.observed).max(spared);
        let until = later(now, grace);
        // A deadline after the grace needs none, and a deadline is spared only once.
        if since < until && self.graces.iter().filter(|(_, _, end)| *end > now).count() < 16 {
            self.graces.retain(|(_, _, end)| *end > now);
            self.graces.push((since, until, later(until, spread)));
        }
    }

    fn set_capacity(&mut self, id: &NodeId, capacity: Resources) -> Result<Outcome, Denied> {
        let on_it = self.leases.iter().filter(|lease| lease.is_live() && lease.record.reservation.node == *id);
        let leased = sum(on_it.map(Lease::held).chain(self.slots_of(id)));
        let holds = capacity.workers >= leased.workers
            && capacity.cpu_millis >= leased.cpu_millis
            && capacity.memory_mb >= leased.memory_mb;
        if !holds {
            return Err(Denied::BelowLeased { node: id.clone(), leased });
        }
        match self.nodes.iter_mut().find(|node| node.id == *id) {
            Some(node) => node.capacity = capacity,
            None => {
                self.nodes.push(Node { id: id.clone(), capacity, worker_port: 8000, server_port: 9000 });
                self.nodes.sort_by(|a, b| a.id.cmp(&b.id));
            }
        }
        Ok(Outcome::Done)
    }

    fn request(
        &mut self,
        now: Timestamp,
        request: &Request,
        size: WorkerSize,
        random: u64,
        whole: bool,
    ) -> Result<Outcome, Denied> {
        let key = request.request_id.as_ref();
        let first = self.leases.iter().find(|lease| {
            let frees_request_id = lease.state() == State::Failed
                || matches!(lease.record.phase, Phase::Released { reason: EndReason::Cancelled, .. });
            key.is_some() && lease.record.reservation.request_id.as_ref() == key && !frees_request_id
        });
        if let Some(first) = first {
            let allocation = first.id();
            if is_same_request(&first.record.reservation, request) {
                return Ok(Outcome::Repeated { allocation });
            }
            return Err(Denied::RequestIdReused { request_id: key.expect("a key").clone(), allocation });
        }
        if let Some(catalog) = &self.provisioning.catalog {
            let names = request.servers.as_slice().iter();
            let unknown: Vec<ServerName> = names.filter(|name| !catalog.contains_key(*name)).cloned().collect();
            if !unknown.is_empty() {
                return Err(Denied::UnknownServers { unknown, known: catalog.keys().cloned().collect() });
            }
        }
        let node = self.nodes.first().cloned().ok_or(Denied::NoNode)?;
        let (ending, pending_shortage) = self.plan_reclaim(now, &node, Some(request), size)?;
        if let Some(shortage) = pending_shortage {
            let reclaimed = ending.iter().map(|id| self.end(now, *id, EndReason::Expired)).collect();
            return Ok(Outcome::CapacityPending { shortage, reclaimed });
        }

        let mut bits = random % (1 << 48);
        while self.find(AllocationId::from_bits(bits)).is_some() {
            bits = (bits + 1) % (1 << 48);
        }
        let reclaimed = ending.iter().map(|id| self.end(now, *id, EndReason::Expired)).collect();
        let allocation = AllocationId::from_bits(bits);
        self.reserve(now, request, size, allocation);
        let is_provisioned = self.find(allocation).is_some_and(|lease| self.is_provisioned(&lease.record.reservation));
        if whole && !is_provisioned {
            self.activate(now, allocation);
        }
        Ok(Outcome::Granted { allocation, reclaimed })
    }

    fn release(
        &mut self,
        now: Timestamp,
        allocation: AllocationId,
        reason: EndReason,
        whole: bool,
    ) -> Result<Outcome, Denied> {
        let lease = self.find(allocation).ok_or(Denied::UnknownAllocation(allocation))?;
        if let Phase::Released { released_at: at, .. } | Phase::Failed { failed_at: at, .. } = lease.record.phase {
            return Ok(Outcome::AlreadyReleased { allocation, released_at: at });
        }
        if self.is_provisioned(&lease.record.reservation) {
            self.end(now, allocation, reason);
            return Ok(Outcome::Releasing { allocation });
        }
        if whole || lease.state() == State::Releasing {
            return Ok(Outcome::Released(self.end(now, allocation, reason)));
        }
        let release_of = release_of(now, lease, reason);
        self.change(allocation, |record| {
            record.phase = Phase::Releasing { activated_at: record.activated_at(), reason };
        });
        Ok(Outcome::Released(release_of))
    }

    fn renew(
        &mut self,
        now: Timestamp,
        allocation: AllocationId,
        ttl_seconds: Option<TtlSeconds>,
        given: Option<FencingToken>,
    ) -> Result<Outcome, Denied> {
        let lease = self.find(allocation).ok_or(Denied::UnknownAllocation(allocation))?;
        let own = lease.token();
        if let Some(given) = given
            && given != own
        {
            return Err(Denied::StaleToken { allocation, given, own });
        }
        let (Phase::Active { .. }, Some(deadline)) = (&lease.record.phase, lease.deadline()) else {
            return Err(Denied::NotActive { allocation, state: lease.state() });
        };
        let expired_at = self.deadline_with_grace(deadline);
        if expired_at <= now {
            return Err(Denied::Expired { allocation, expired_at });
        }
        self.change(allocation, |record| {
            record.ttl_seconds = ttl_seconds.unwrap_or(record.ttl_seconds);
            if let Phase::Active { runs_from, .. } = &mut record.phase {
                *runs_from = now;
            }
        });
        Ok(Outcome::Renewed { allocation })
    }

    fn expect_pending(&self, allocation: AllocationId) -> Result<(), Denied> {
        let lease = self.find(allocation).ok_or(Denied::UnknownAllocation(allocation))?;
        let state = lease.state();
        if state == State::Pending { Ok(()) } else { Err(Denied::NotPending { allocation, state }) }
    }

    /// Ends a live lease: an expired reservation fails, and every other lease is released. If something was started
    /// for the lease, its release only begins.
    fn end(&mut self, now: Timestamp, id: AllocationId, reason: EndReason) -> Release {
        let lease = self.find(id).expect("a lease on record");
        let release_of = release_of(now, lease, reason);
        if self.is_provisioned(&lease.record.reservation) {
            self.change(id, |record| {
                record.phase = Phase::Releasing { activated_at: record.activated_at(), reason: release_of.reason };
            });
        } else if lease.is_pending() && reason == EndReason::Expired {
            self.fail(now, id, "it was not activated in time");
        } else {
            let activated_at = lease.record.activated_at();
            self.finish(id, Phase::Released { activated_at, reason: release_of.reason, released_at: now });
        }
        release_of
    }

    fn change(&mut self, id: AllocationId, change: impl FnOnce(&mut Allocation)) {
        let lease = self.leases.iter_mut().find(|lease| lease.id() == id && lease.is_live());
        change(&mut lease.expect("a live lease").record);
    }

    fn finish(&mut self, id: AllocationId, phase: Phase) {
        self.ends += 1;
        let sequence = self.ends;
        let lease = self.leases.iter_mut().find(|lease| lease.id() == id && lease.is_live()).expect("a live lease");
        lease.record.phase = phase;
        lease.end = Some(sequence);
        let job = lease.record.reservation.job.clone();
        if !self.live().iter().any(|lease| lease.record.reservation.job == job) {
            self.counters.retain(|(other, _)| *other != job);
        }
        self.trim();
    }

    fn trim(&mut self) {
        while self.leases.iter().filter(|lease| lease.end.is_some()).count() as u64 > self.limits.history_records_max {
            let oldest = self.leases.iter().filter_map(|lease| lease.end).min();
            self.leases.retain(|lease| lease.end.is_none() || lease.end != oldest);
        }
    }
}
