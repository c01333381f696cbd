//! The lease machine written in the most naive way, to compare the real one with: one list of leases, and everything
//! else worked out anew from it at each question. It shares the types of commands and answers with the core, and none of
//! its reasoning.

mod lease;
mod questions;
mod room;
mod slots;

use cortex_core::allocation::{Allocation, EndReason, Phase, Reservation, State};
use cortex_core::command::{Command, Denied, Outcome, Release, Request};
use cortex_core::event::Limits;
use cortex_core::ids::{AllocationId, FencingToken, JobId, NodeId, ServerName};
use cortex_core::provisioning::{Provisioning, Sharing};
use cortex_core::time::{Millis, Timestamp, TtlSeconds};
use cortex_core::units::{Resources, WorkerSize};
use lease::{Lease, asked_the_same, sum, told};
use slots::WorkerSlot;
use std::sync::Arc;

#[derive(Clone, Debug)]
struct Node {
    id: NodeId,
    capacity: Resources,
    /// Where the search for a worker's port goes on.
    worker_port: u16,
    /// Where the search for a server's port goes on.
    server_port: u16,
}

/// The books of the reference.
#[derive(Clone, Debug)]
pub struct Model {
    limits: Limits,
    /// By name.
    nodes: Vec<Node>,
    /// Live and on record, in the order granted.
    leases: Vec<Lease>,
    /// The workers that agents have by themselves.
    slots: Vec<WorkerSlot>,
    /// The next worker of each job that has something live.
    counters: Vec<(JobId, u64)>,
    tokens: u64,
    instances: u64,
    ends: u64,
    looked: Timestamp,
    /// Of each outage since when nobody could renew, until when nothing more ran out, and when all was as it had been.
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
            looked: Timestamp::MIN,
            graces: Vec::new(),
            provisioning: Provisioning::default(),
        }
    }
}

impl Model {
    /// Says what really stands behind the leases.
    pub fn set_provisioning(&mut self, provisioning: Provisioning) {
        self.provisioning = provisioning;
    }

    /// Whether something real stands behind a lease, so that others tell when it begins and when it is over.
    fn is_real(&self, reservation: &Reservation) -> bool {
        let has_servers = self.provisioning.catalog.is_some() && !reservation.servers.is_empty();
        has_servers || self.provisioning.workers_are_real && !reservation.workers.ports.is_empty()
    }

    fn is_private(&self, name: &ServerName) -> bool {
        let catalog = self.provisioning.catalog.iter().flatten();
        catalog.into_iter().any(|(known, sharing)| known == name && *sharing == Sharing::PerAllocation)
    }

    /// Carries a command out. With `whole` false, a grant stays pending and a release stays unfinished.
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
            Command::Request { request, worker_size, draw } => self.request(now, request, *worker_size, *draw, whole),
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
                let told = told(now, lease, EndReason::Requested);
                self.finish_release(now, *allocation);
                Ok(Outcome::Released(told))
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
            Command::Fleet(_) | Command::CountDemand(_) | Command::SetPolicy(_) | Command::NoteScaling(_) => {
                panic!("it has a reference of its own: {command:?}")
            }
        }
    }

    /// Looks at what has run out by now; an outage noted later does not bring it back.
    pub fn observe(&mut self, now: Timestamp) {
        self.looked = self.looked.max(self.horizon(now));
    }

    /// Makes a pending lease active.
    pub fn activate(&mut self, now: Timestamp, id: AllocationId) {
        self.change(id, |record| record.phase = Phase::Active { activated_at: now, runs_from: now });
    }

    /// Makes a pending lease a failed one.
    pub fn fail(&mut self, now: Timestamp, id: AllocationId, error: &str) {
        self.finish(id, Phase::Failed { error: Arc::from(error), failed_at: now });
    }

    /// Brings a release that was begun to its end.
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
        let since = self.horizon(since.min(now)).max(self.looked).max(spared);
        let until = later(now, grace);
        // What runs out behind the grace needs none, and what was spared once is not spared again.
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
        draw: u64,
        whole: bool,
    ) -> Result<Outcome, Denied> {
        let key = request.request_id.as_ref();
        let first = self.leases.iter().find(|lease| {
            let was_in_vain = lease.state() == State::Failed
                || matches!(lease.record.phase, Phase::Released { reason: EndReason::Cancelled, .. });
            key.is_some() && lease.record.reservation.request_id.as_ref() == key && !was_in_vain
        });
        if let Some(first) = first {
            let allocation = first.id();
            if asked_the_same(&first.record.reservation, request) {
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
        let (taken, until_gone) = self.make_room(now, &node, Some(request), size)?;
        if let Some(shortage) = until_gone {
            let reclaimed = taken.iter().map(|id| self.end(now, *id, EndReason::Expired)).collect();
            return Ok(Outcome::RoomIsComing { shortage, reclaimed });
        }

        let mut bits = draw % (1 << 48);
        while self.find(AllocationId::from_draw(bits)).is_some() {
            bits = (bits + 1) % (1 << 48);
        }
        let reclaimed = taken.iter().map(|id| self.end(now, *id, EndReason::Expired)).collect();
        let allocation = AllocationId::from_draw(bits);
        self.reserve(now, request, size, allocation);
        let is_real = self.find(allocation).is_some_and(|lease| self.is_real(&lease.record.reservation));
        if whole && !is_real {
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
        if self.is_real(&lease.record.reservation) {
            self.end(now, allocation, reason);
            return Ok(Outcome::Releasing { allocation });
        }
        if whole || lease.state() == State::Releasing {
            return Ok(Outcome::Released(self.end(now, allocation, reason)));
        }
        let told = told(now, lease, reason);
        self.change(allocation, |record| {
            record.phase = Phase::Releasing { activated_at: record.activated_at(), reason };
        });
        Ok(Outcome::Released(told))
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
        let expired_at = self.graced(deadline);
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

    /// Ends a live lease: a reservation that ran out has failed, every other lease is released. The end of one behind which
    /// something real stands only begins.
    fn end(&mut self, now: Timestamp, id: AllocationId, reason: EndReason) -> Release {
        let lease = self.find(id).expect("a lease on record");
        let told = told(now, lease, reason);
        if self.is_real(&lease.record.reservation) {
            self.change(id, |record| {
                record.phase = Phase::Releasing { activated_at: record.activated_at(), reason: told.reason };
            });
        } else if lease.is_pending() && reason == EndReason::Expired {
            self.fail(now, id, "it was not activated in time");
        } else {
            let activated_at = lease.record.activated_at();
            self.finish(id, Phase::Released { activated_at, reason: told.reason, released_at: now });
        }
        told
    }

    fn change(&mut self, id: AllocationId, change: impl FnOnce(&mut Allocation)) {
        let lease = self.leases.iter_mut().find(|lease| lease.id() == id && lease.is_live());
        change(&mut lease.expect("a live lease").record);
    }

    fn finish(&mut self, id: AllocationId, phase: Phase) {
        self.ends += 1;
        let place = self.ends;
        let lease = self.leases.iter_mut().find(|lease| lease.id() == id && lease.is_live()).expect("a live lease");
        lease.record.phase = phase;
        lease.end = Some(place);
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
