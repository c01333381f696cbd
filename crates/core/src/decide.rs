//! Decisions: which events a command leads to, given the books and the time. Nothing here changes anything.

use super::allocation::{Allocation, EndReason, Phase, Reservation, ServerHold, State, Workers};
use super::cluster::Cluster;
use super::command::{Command, Decision, Denied, Outcome, Release, Request, Shortage};
use super::event::{Event, Limits};
use super::ids::{AllocationId, FencingToken, NodeId, WorkerNumber};
use super::node::Node;
use super::ports::{Port, Purpose};
use super::room::Room;
use super::servers::Server;
use super::time::{Millis, Timestamp, TtlSeconds};
use super::units::{Resources, WorkerSize};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::mem::discriminant;
use std::sync::Arc;

/// How many leases ahead are looked at to tell a refused caller when to come again.
const RETRY_LOOKAHEAD_LEASES: usize = 1_000;

impl Cluster {
    /// Decides what a command leads to at `now`, which must not lie before the last event or observation.
    ///
    /// # Errors
    /// [`Denied`], if it is refused; then nothing changes.
    pub fn decide(&self, now: Timestamp, command: &Command) -> Result<Decision, Denied> {
        match command {
            Command::SetCapacity { node, capacity } => self.set_capacity(node, *capacity),
            Command::SetLimits(limits) => self.set_limits(*limits),
            Command::Request { request, worker_size, draw } => self.request(now, request, *worker_size, *draw),
            Command::Activate { allocation } => self.activate(*allocation),
            Command::FailActivation { allocation, error } => self.fail_activation(*allocation, error),
            Command::Release { allocation, reason } => self.release(now, *allocation, *reason),
            Command::FinishRelease { allocation } => self.finish_release(now, *allocation),
            Command::Renew { allocation, ttl_seconds, fencing_token } => {
                self.renew(now, *allocation, *ttl_seconds, *fencing_token)
            }
            Command::Sweep { leases_max } => Ok(self.sweep(now, *leases_max)),
            Command::TrimHistory { older_than } => Ok(self.trim_history(now, *older_than)),
            Command::NoteOutage { since, grace, spread } => Ok(self.note_outage(now, *since, *grace, *spread)),
            Command::CountDemand(bins) => Ok(self.count_demand(bins)),
            Command::SetPolicy(policy) => Ok(self.set_policy(*policy)),
            Command::NoteScaling(scaling) => Ok(Self::note_scaling(scaling)),
            Command::Fleet(command) => self.decide_fleet(now, command),
        }
    }

    fn set_capacity(&self, id: &NodeId, capacity: Resources) -> Result<Decision, Denied> {
        let node = self.nodes.get(id);
        let leased = node.map_or_else(Resources::default, |node| node.leased);
        if !capacity.covers(&leased) {
            return Err(Denied::BelowLeased { node: id.clone(), leased });
        }
        let unchanged = node.is_some_and(|node| node.capacity == capacity);
        Ok(done((!unchanged).then(|| Event::CapacitySet { node: id.clone(), capacity })))
    }

    fn set_limits(&self, limits: Limits) -> Result<Decision, Denied> {
        let live = self.ages.live();
        if limits.live_allocations_max < live {
            return Err(Denied::BelowLive { limit: limits.live_allocations_max, live });
        }
        Ok(done((self.limits != limits).then_some(Event::LimitsSet { limits })))
    }

    fn request(&self, now: Timestamp, request: &Request, size: WorkerSize, draw: u64) -> Result<Decision, Denied> {
        if let Some(request_id) = &request.request_id
            && let Some(first) = self.by_request.get(request_id).map(|slot| self.at(*slot))
        {
            let allocation = first.reservation.allocation;
            if is_same_request(&first.reservation, request) {
                return Ok(Decision { events: Vec::new(), outcome: Outcome::Repeated { allocation } });
            }
            return Err(Denied::RequestIdReused { request_id: request_id.clone(), allocation });
        }

        let unknown: Vec<_> = self.provisioning.unknown(request.servers.as_slice()).cloned().collect();
        if !unknown.is_empty() {
            let known = self.provisioning.catalog.iter().flat_map(|catalog| catalog.keys()).cloned().collect();
            return Err(Denied::UnknownServers { unknown, known });
        }
        let (node_id, node) = self.nodes.first_key_value().ok_or(Denied::NoNode)?;
        let mut room = Room::for_request(self, (node_id, node), request, size);
        let MadeRoom { reclaimed, until_gone } = self.make_room(now, &mut room)?;

        let mut events = Vec::with_capacity(2 * reclaimed.len() + 2);
        let releases: Vec<Release> =
            reclaimed.iter().map(|lease| self.ending(&mut events, now, lease, EndReason::Expired)).collect();
        if let Some(shortage) = until_gone {
            return Ok(Decision { events, outcome: Outcome::RoomIsComing { shortage, reclaimed: releases } });
        }
        let gone: Vec<&Allocation> =
            reclaimed.into_iter().filter(|lease| !self.provisioning.are_behind(&lease.reservation)).collect();
        let reservation = self.reservation(now, request, size, draw, (node_id, node), &gone);
        let (allocation, is_real) = (reservation.allocation, self.provisioning.are_behind(&reservation));
        events.push(Event::Reserved { reservation: Arc::new(reservation) });
        if !is_real {
            events.push(Event::Activated { allocation });
        }
        Ok(Decision { events, outcome: Outcome::Granted { allocation, reclaimed: releases } })
    }

    /// The leases past their deadline to take back so that the request fits: none if it does anyway. What is being taken back
    /// already is counted on.
    pub(super) fn make_room<'a>(&'a self, now: Timestamp, room: &mut Room<'a>) -> Result<MadeRoom<'a>, Denied> {
        if room.shortage().is_none() {
            return Ok(MadeRoom { reclaimed: Vec::new(), until_gone: None });
        }
        let mut free = room.clone();
        for (_, slot) in &self.leaving {
            room.give_back(self.at(*slot));
        }
        let reclaimed = self.reclaimed(now, room)?;
        for lease in reclaimed.iter().filter(|lease| !self.provisioning.are_behind(&lease.reservation)) {
            free.give_back(lease);
        }
        Ok(MadeRoom { reclaimed, until_gone: free.shortage() })
    }

    /// The leases past their deadline to take back so that the request fits: none if it does anyway.
    fn reclaimed<'a>(&'a self, now: Timestamp, room: &mut Room<'a>) -> Result<Vec<&'a Allocation>, Denied> {
        let Some(mut shortage) = room.shortage() else { return Ok(Vec::new()) };
        let with_all = if self.leaving.is_empty() {
            room.shortage_with_all_overdue(self, now)
        } else {
            // What the node counts as overdue does not tell of servers that overdue leases hold with some that leave.
            let mut all = room.clone();
            self.overdue(now).for_each(|lease| all.give_back(lease));
            all.shortage()
        };
        if let Some(shortage) = with_all {
            return Err(Denied::NoRoom { shortage, retry_at: self.retry_at(now, room) });
        }
        let mut reclaimed = Vec::new();
        let mut overdue = self.overdue(now);
        // A lease passed over for one shortage may be what a later one needs: these are older, so they are tried first.
        let mut passed_over: VecDeque<&Allocation> = VecDeque::new();
        let mut looks_back = false;
        loop {
            let helps = |lease: &&Allocation| room.is_helped_by(shortage, lease);
            let place = if looks_back { passed_over.iter().position(helps) } else { None };
            let older = place.and_then(|place| passed_over.remove(place));
            // While the shortage stays of one kind, what did not help before does not help now.
            looks_back = older.is_some();
            let next = older.or_else(|| {
                overdue.by_ref().find(|lease| {
                    let is_helped = room.is_helped_by(shortage, lease);
                    if !is_helped {
                        passed_over.push_back(lease);
                    }
                    is_helped
                })
            });
            // All of them together make room, as was seen above; if that were wrong, a refusal still keeps the books sound.
            let Some(lease) = next else { return Err(Denied::NoRoom { shortage, retry_at: None }) };
            room.give_back(lease);
            reclaimed.push(lease);
            match room.shortage() {
                Some(other) => {
                    looks_back |= discriminant(&other) != discriminant(&shortage);
                    shortage = other;
                }
                None => return Ok(reclaimed),
            }
        }
    }

    /// The leases past their deadline, the longest overdue first.
    fn overdue(&self, now: Timestamp) -> impl Iterator<Item = &Allocation> {
        let horizon = self.expiry_horizon(now);
        self.deadlines.until(horizon).map(|(_, slot)| self.at(slot))
    }

    /// When the leases that run out next will have made room, if few enough of them do.
    fn retry_at<'a>(&'a self, now: Timestamp, room: &mut Room<'a>) -> Option<Timestamp> {
        if !room.fits_when_empty() {
            return None;
        }
        let mut ahead = self.deadlines.iter().take(RETRY_LOOKAHEAD_LEASES);
        ahead.find_map(|((nominal, _), slot)| {
            room.give_back(self.at(slot));
            room.shortage().is_none().then(|| self.deadline_with_grace(nominal).max(now))
        })
    }

    fn reservation(
        &self,
        now: Timestamp,
        request: &Request,
        size: WorkerSize,
        draw: u64,
        (node_id, node): (&NodeId, &Node),
        gone: &[&Allocation],
    ) -> Reservation {
        // With the leases gone that end with this, some ports and servers are: a view of the node as it will be then.
        let node = if gone.is_empty() { Cow::Borrowed(node) } else { Cow::Owned(without(node_id, node, gone)) };
        let taken = &self.provisioning.taken_ports;
        let mut ports: Vec<Port> = Vec::with_capacity(usize::try_from(request.workers).unwrap_or(0));
        ports.extend(node.ports.choose(Purpose::Worker, request.workers, taken));

        let mut free = node.ports.choose(Purpose::Server, request.servers.as_slice().len() as u64, taken);
        let mut instance = self.next_instance;
        let mut servers: Vec<ServerHold> = Vec::with_capacity(request.servers.as_slice().len());
        for name in request.servers.as_slice() {
            let is_private = self.provisioning.is_private(name);
            if let Some(server) = node.servers.find(name).filter(|_| !is_private) {
                // The text of a name that is known is shared by all who hold the server, rather than kept for each.
                let Server { name, instance, port, .. } = server;
                servers.push(ServerHold { name: name.clone(), instance: *instance, port: *port, is_private });
            } else if let Some(port) = free.next() {
                servers.push(ServerHold { name: name.clone(), instance, port, is_private });
                instance = instance.next();
            }
        }

        let known = self.job(&request.job);
        let first = known.map_or(WorkerNumber::default(), |job| {
            let leaving = gone.iter().filter(|lease| lease.reservation.job == request.job).count() as u64;
            if job.live == leaving { WorkerNumber::default() } else { job.next_worker }
        });
        Reservation {
            allocation: self.unused_id(draw),
            fencing_token: self.next_token,
            job: known.map_or(&request.job, |job| &job.id).clone(),
            priority: request.priority,
            node: node_id.clone(),
            workers: Workers { first, ports: ports.into_boxed_slice(), size },
            servers: servers.into_boxed_slice(),
            ttl_seconds: request.ttl_seconds,
            activate_by: self.provisioning.activate_by(now),
            request_id: request.request_id.clone(),
            metadata: request.metadata.clone(),
        }
    }

    /// The id made of `draw`, or the next one that no allocation has. Ids in use are few among 2^48, so the search is short.
    fn unused_id(&self, draw: u64) -> AllocationId {
        let mut id = AllocationId::from_draw(draw);
        while self.records.find(&id).is_some() {
            id = id.next();
        }
        id
    }

    fn release(&self, now: Timestamp, allocation: AllocationId, reason: EndReason) -> Result<Decision, Denied> {
        let lease = self.find(allocation).ok_or(Denied::UnknownAllocation(allocation))?;
        if let Some(released_at) = lease.ended_at() {
            return Ok(Decision { events: Vec::new(), outcome: Outcome::AlreadyReleased { allocation, released_at } });
        }
        let mut events = Vec::with_capacity(2);
        let release = self.ending(&mut events, now, lease, reason);
        let is_over = matches!(events.last(), Some(Event::Released { .. } | Event::ActivationFailed { .. }));
        let outcome = if is_over { Outcome::Released(release) } else { Outcome::Releasing { allocation } };
        Ok(Decision { events, outcome })
    }

    fn activate(&self, allocation: AllocationId) -> Result<Decision, Denied> {
        self.find_pending(allocation)?;
        let events = vec![Event::Activated { allocation }];
        Ok(Decision { events, outcome: Outcome::Done })
    }

    fn fail_activation(&self, allocation: AllocationId, error: &Arc<str>) -> Result<Decision, Denied> {
        self.find_pending(allocation)?;
        let events = vec![Event::ActivationFailed { allocation, error: Arc::clone(error) }];
        Ok(Decision { events, outcome: Outcome::Done })
    }

    fn find_pending(&self, allocation: AllocationId) -> Result<&Allocation, Denied> {
        let lease = self.find(allocation).ok_or(Denied::UnknownAllocation(allocation))?;
        let state = lease.state();
        if state == State::Pending { Ok(lease) } else { Err(Denied::NotPending { allocation, state }) }
    }

    fn finish_release(&self, now: Timestamp, allocation: AllocationId) -> Result<Decision, Denied> {
        let lease = self.find(allocation).ok_or(Denied::UnknownAllocation(allocation))?;
        let Phase::Releasing { reason, .. } = lease.phase else {
            return Err(Denied::NotReleasing { allocation, state: lease.state() });
        };
        let events = vec![Event::Released { allocation }];
        Ok(Decision { events, outcome: Outcome::Released(released(now, lease, reason)) })
    }

    fn renew(
        &self,
        now: Timestamp,
        allocation: AllocationId,
        ttl_seconds: Option<TtlSeconds>,
        fencing_token: Option<FencingToken>,
    ) -> Result<Decision, Denied> {
        let lease = self.find(allocation).ok_or(Denied::UnknownAllocation(allocation))?;
        let own = lease.reservation.fencing_token;
        if let Some(given) = fencing_token.filter(|given| *given != own) {
            return Err(Denied::StaleToken { allocation, given, own });
        }
        if lease.state() != State::Active {
            return Err(Denied::NotActive { allocation, state: lease.state() });
        }
        if let Some(expired_at) = self.deadline(lease).filter(|deadline| *deadline <= now) {
            return Err(Denied::Expired { allocation, expired_at });
        }
        let ttl_seconds = ttl_seconds.unwrap_or(lease.ttl_seconds);
        let events = vec![Event::Renewed { allocation, ttl_seconds }];
        Ok(Decision { events, outcome: Outcome::Renewed { allocation } })
    }

    fn sweep(&self, now: Timestamp, leases_max: usize) -> Decision {
        let mut overdue = self.overdue(now);
        let mut events = Vec::new();
        let mut expired = Vec::new();
        for lease in overdue.by_ref().take(leases_max) {
            expired.push(self.ending(&mut events, now, lease, EndReason::Expired));
        }
        Decision { events, outcome: Outcome::Swept { expired, more: overdue.next().is_some() } }
    }

    fn trim_history(&self, now: Timestamp, older_than: Millis) -> Decision {
        let ended_before = now.before(older_than);
        let oldest = self.ended_order.front().and_then(|slot| self.at(*slot).ended_at());
        let due = oldest.into_iter().chain(self.fleet.oldest_end()).any(|at| at < ended_before);
        done(due.then_some(Event::HistoryTrimmed { ended_before }))
    }

    fn note_outage(&self, now: Timestamp, since: Timestamp, grace_ms: Millis, spread_ms: Millis) -> Decision {
        // What had expired before stays expired, and what was spared before is not spared again.
        // The event must be readable again, so it names no moment before those that can be written.
        let horizon = self.expiry_horizon(since.min(now));
        let spared = self.graces.end().unwrap_or(Timestamp::MIN);
        let since = horizon.max(self.deadlines.observed).max(spared).max(Timestamp::WRITABLE_MIN);
        // Later deadlines leave time enough as they are.
        let is_needed = since < now.after(grace_ms) && self.graces.has_room(now);
        done(is_needed.then_some(Event::OutageNoted { since, grace_ms, spread_ms }))
    }

    /// Adds the events that end a live allocation now, and says what that frees. If nothing real stands behind it, both halves
    /// are written at once; else the second is for whoever ends what does.
    pub(super) fn ending(
        &self,
        events: &mut Vec<Event>,
        now: Timestamp,
        lease: &Allocation,
        reason: EndReason,
    ) -> Release {
        let allocation = lease.reservation.allocation;
        if self.fleet.has_agents_of(allocation) {
            self.let_agents_go(events, now, allocation);
        }
        // Why a lease ends was settled when its release began.
        let reason = if let Phase::Releasing { reason, .. } = lease.phase { reason } else { reason };
        let is_real = self.provisioning.are_behind(&lease.reservation);
        match lease.phase {
            Phase::Releasing { .. } if is_real => {}
            Phase::Pending | Phase::Active { .. } if is_real => events.push(Event::Releasing { allocation, reason }),
            Phase::Pending if reason == EndReason::Expired => {
                events.push(Event::ActivationFailed { allocation, error: Arc::from("it was not activated in time") });
            }
            Phase::Releasing { .. } => events.push(Event::Released { allocation }),
            _ => {
                events.push(Event::Releasing { allocation, reason });
                events.push(Event::Released { allocation });
            }
        }
        released(now, lease, reason)
    }
}

/// Room for a request, once some leases past their deadline are taken back.
pub(super) struct MadeRoom<'a> {
    /// These.
    pub(super) reclaimed: Vec<&'a Allocation>,
    /// What there is too little of until what really stands behind leases that end is gone, if there is.
    pub(super) until_gone: Option<Shortage>,
}

fn released(now: Timestamp, lease: &Allocation, reason: EndReason) -> Release {
    Release {
        allocation: lease.reservation.allocation,
        job: lease.reservation.job.clone(),
        reason,
        freed: lease.reservation.workers.resources(),
        released_at: now,
        duration: now.since(lease.created_at),
    }
}

fn done(event: Option<Event>) -> Decision {
    Decision { events: event.into_iter().collect(), outcome: Outcome::Done }
}

/// The node as it will be when these leases have ended, as far as ports and servers go.
fn without(id: &NodeId, node: &Node, leases: &[&Allocation]) -> Node {
    let mut node = node.clone();
    for lease in leases.iter().filter(|lease| lease.reservation.node == *id) {
        node.give_back_ports(&lease.reservation);
    }
    node
}

fn is_same_request(first: &Reservation, request: &Request) -> bool {
    first.job == request.job
        && first.workers.count() == request.workers
        && first.priority == request.priority
        && first.ttl_seconds == request.ttl_seconds
        && first.metadata == request.metadata
        && first.servers.iter().map(|hold| &hold.name).eq(request.servers.as_slice())
}
