//! Decisions: which events a command leads to, given the state and the time. Nothing here changes the state.

use super::allocation::{Allocation, EndReason, Phase, Reservation, ServerHold, State, Workers};
use super::availability::Availability;
use super::cluster::Cluster;
use super::command::{Command, Decision, Denied, Outcome, Release, Request, Shortage};
use super::event::{Event, Limits};
use super::ids::{AllocationId, FencingToken, NodeId, WorkerNumber};
use super::node::{NamedNode, Node};
use super::ports::{Port, Purpose};
use super::servers::Server;
use super::time::{Millis, Timestamp, TtlSeconds};
use super::units::{Resources, WorkerSize};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::mem::discriminant;
use std::sync::Arc;

/// How many future deadlines are checked to tell a denied caller when to retry.
const RETRY_LOOKAHEAD_LEASES: usize = 1_000;

impl Cluster {
    /// Decides which events a command leads to at `now`, which must not lie before the last event or observation.
    ///
    /// # Errors
    /// [`Denied`] if the command is denied. Nothing has changed then.
    pub fn decide(&self, now: Timestamp, command: &Command) -> Result<Decision, Denied> {
        match command {
            Command::SetCapacity { node, capacity } => self.set_capacity(node, *capacity),
            Command::SetLimits(limits) => self.set_limits(*limits),
            Command::Request { request, worker_size, random } => self.request(now, request, *worker_size, *random),
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
            Command::Scale(scaling) => self.scale(scaling),
            Command::Fleet(command) => self.decide_fleet(now, command),
        }
    }

    pub(super) fn set_capacity(&self, id: &NodeId, capacity: Resources) -> Result<Decision, Denied> {
        let node = self.nodes.get(id);
        let leased = node.map_or_else(Resources::default, |node| node.leased);
        if !capacity.covers(&leased) {
            return Err(Denied::BelowLeased { node: id.clone(), leased });
        }
        let unchanged = node.is_some_and(|node| node.capacity == capacity);
        Ok(done((!unchanged).then(|| Event::CapacitySet { node: id.clone(), capacity })))
    }

    fn set_limits(&self, limits: Limits) -> Result<Decision, Denied> {
        let live = self.records_by_token.live();
        if limits.live_allocations_max < live {
            return Err(Denied::BelowLive { limit: limits.live_allocations_max, live });
        }
        Ok(done((self.limits != limits).then_some(Event::LimitsSet { limits })))
    }

    fn request(&self, now: Timestamp, request: &Request, size: WorkerSize, random: u64) -> Result<Decision, Denied> {
        if let Some(request_id) = &request.request_id
            && let Some(first) = self.by_request.get(request_id).map(|slot| self.allocation_at(*slot))
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
        let node = self.first_node()?;
        let mut availability = Availability::for_request(self, node, request, size);
        let ReclaimPlan { reclaimed, pending_shortage } = self.plan_reclaim(now, &mut availability)?;

        let mut events = Vec::with_capacity(2 * reclaimed.len() + 2);
        let releases: Vec<Release> =
            reclaimed.iter().map(|lease| self.push_end_events(&mut events, now, lease, EndReason::Expired)).collect();
        if let Some(shortage) = pending_shortage {
            return Ok(Decision { events, outcome: Outcome::CapacityPending { shortage, reclaimed: releases } });
        }
        let ended: Vec<&Allocation> =
            reclaimed.into_iter().filter(|lease| !self.provisioning.covers(&lease.reservation)).collect();
        let reservation = self.build_reservation(now, request, size, random, node, &ended);
        let (allocation, is_provisioned) = (reservation.allocation, self.provisioning.covers(&reservation));
        events.push(Event::Reserved { reservation: Arc::new(reservation) });
        if !is_provisioned {
            events.push(Event::Activated { allocation });
        }
        Ok(Decision { events, outcome: Outcome::Granted { allocation, reclaimed: releases } })
    }

    /// Selects the leases past their deadline to end so that the request fits; none if it fits without that. Leases
    /// that are already being released count as gone.
    pub(super) fn plan_reclaim<'a>(
        &'a self,
        now: Timestamp,
        availability: &mut Availability<'a>,
    ) -> Result<ReclaimPlan<'a>, Denied> {
        if availability.shortage().is_none() {
            return Ok(ReclaimPlan { reclaimed: Vec::new(), pending_shortage: None });
        }
        let mut free = availability.clone();
        for (_, slot) in &self.releasing {
            availability.release(self.allocation_at(*slot));
        }
        let reclaimed = self.select_reclaimed(now, availability)?;
        for lease in reclaimed.iter().filter(|lease| !self.provisioning.covers(&lease.reservation)) {
            free.release(lease);
        }
        Ok(ReclaimPlan { reclaimed, pending_shortage: free.shortage() })
    }

    /// Selects the leases past their deadline to end so that the request fits; none if it fits without that.
    fn select_reclaimed<'a>(
        &'a self,
        now: Timestamp,
        availability: &mut Availability<'a>,
    ) -> Result<Vec<&'a Allocation>, Denied> {
        let Some(mut shortage) = availability.shortage() else { return Ok(Vec::new()) };
        let with_all = if self.releasing.is_empty() {
            availability.shortage_with_all_overdue(self, now)
        } else {
            // A server held only by overdue leases together with releasing ones becomes free too, which the node's
            // counts do not show.
            let mut all = availability.clone();
            self.overdue(now).for_each(|lease| all.release(lease));
            all.shortage()
        };
        if let Some(shortage) = with_all {
            return Err(Denied::InsufficientCapacity { shortage, retry_at: self.retry_at(now, availability) });
        }
        let mut reclaimed = Vec::new();
        let mut overdue = self.overdue(now);
        // A lease that was passed over for one shortage may be needed for a later one. It is older, so it is tried
        // first.
        let mut passed_over: VecDeque<&Allocation> = VecDeque::new();
        let mut retries_passed_over = false;
        loop {
            let helps = |lease: &&Allocation| availability.is_helped_by(shortage, lease);
            let position = if retries_passed_over { passed_over.iter().position(helps) } else { None };
            let older = position.and_then(|position| passed_over.remove(position));
            // While the kind of shortage stays the same, a lease that did not help before does not help now.
            retries_passed_over = older.is_some();
            let next = older.or_else(|| {
                overdue.by_ref().find(|lease| {
                    let is_helped = availability.is_helped_by(shortage, lease);
                    if !is_helped {
                        passed_over.push_back(lease);
                    }
                    is_helped
                })
            });
            // All overdue leases together make the request fit, as checked above. If that were wrong, a denial keeps
            // the state sound.
            let Some(lease) = next else { return Err(Denied::InsufficientCapacity { shortage, retry_at: None }) };
            availability.release(lease);
            reclaimed.push(lease);
            match availability.shortage() {
                Some(other) => {
                    retries_passed_over |= discriminant(&other) != discriminant(&shortage);
                    shortage = other;
                }
                None => return Ok(reclaimed),
            }
        }
    }

    /// Returns the leases past their deadline, the longest overdue first.
    fn overdue(&self, now: Timestamp) -> impl Iterator<Item = &Allocation> {
        let horizon = self.expiry_horizon(now);
        self.deadlines.until(horizon).map(|(_, slot)| self.allocation_at(slot))
    }

    /// Returns when the next leases to expire will have freed enough, if few enough of them do.
    fn retry_at<'a>(&'a self, now: Timestamp, availability: &mut Availability<'a>) -> Option<Timestamp> {
        if !availability.fits_when_empty() {
            return None;
        }
        let mut upcoming = self.deadlines.iter().take(RETRY_LOOKAHEAD_LEASES);
        upcoming.find_map(|((nominal, _), slot)| {
            availability.release(self.allocation_at(slot));
            availability.shortage().is_none().then(|| self.deadline_with_grace(nominal).max(now))
        })
    }

    /// Returns the node that requests and agents get workers of.
    pub(super) fn first_node(&self) -> Result<NamedNode<'_>, Denied> {
        let (id, node) = self.nodes.first_key_value().ok_or(Denied::NoNode)?;
        Ok(NamedNode { id, node })
    }

    fn build_reservation(
        &self,
        now: Timestamp,
        request: &Request,
        size: WorkerSize,
        random: u64,
        NamedNode { id: node_id, node }: NamedNode<'_>,
        ended: &[&Allocation],
    ) -> Reservation {
        // The node as it will be once the leases that end with this request are gone.
        let node = if ended.is_empty() { Cow::Borrowed(node) } else { Cow::Owned(node_without(node_id, node, ended)) };
        let occupied = &self.provisioning.occupied_ports;
        let mut ports: Vec<Port> = Vec::with_capacity(usize::try_from(request.workers).unwrap_or(0));
        ports.extend(node.ports.choose(Purpose::Worker, request.workers, occupied));

        let mut free = node.ports.choose(Purpose::Server, request.servers.as_slice().len() as u64, occupied);
        let mut instance = self.next_instance;
        let mut servers: Vec<ServerHold> = Vec::with_capacity(request.servers.as_slice().len());
        for name in request.servers.as_slice() {
            let is_private = self.provisioning.is_private(name);
            if let Some(server) = node.servers.find(name).filter(|_| !is_private) {
                // All holders of a server share the text of its name.
                let Server { name, instance, port, .. } = server;
                servers.push(ServerHold { name: name.clone(), instance: *instance, port: *port, is_private });
            } else if let Some(port) = free.next() {
                servers.push(ServerHold { name: name.clone(), instance, port, is_private });
                instance = instance.next();
            }
        }

        let known = self.job(&request.job);
        let first = known.map_or(WorkerNumber::default(), |job| {
            let ending = ended.iter().filter(|lease| lease.reservation.job == request.job).count() as u64;
            if job.live == ending { WorkerNumber::default() } else { job.next_worker }
        });
        Reservation {
            allocation: self.unused_id(random),
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

    /// Returns the id made of `random`, or the next one that no allocation has. Few of the 2^48 ids are in use, so the
    /// search is short.
    fn unused_id(&self, random: u64) -> AllocationId {
        let mut id = AllocationId::from_bits(random);
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
        let release = self.push_end_events(&mut events, now, lease, reason);
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
        Ok(Decision { events, outcome: Outcome::Released(release_of(now, lease, reason)) })
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
            expired.push(self.push_end_events(&mut events, now, lease, EndReason::Expired));
        }
        Decision { events, outcome: Outcome::Swept { expired, more: overdue.next().is_some() } }
    }

    fn trim_history(&self, now: Timestamp, older_than: Millis) -> Decision {
        let ended_before = now.before(older_than);
        let oldest = self.ended_order.front().and_then(|slot| self.allocation_at(*slot).ended_at());
        let due = oldest.into_iter().chain(self.fleet.oldest_end()).any(|at| at < ended_before);
        done(due.then_some(Event::HistoryTrimmed { ended_before }))
    }

    fn note_outage(&self, now: Timestamp, since: Timestamp, grace_ms: Millis, spread_ms: Millis) -> Decision {
        // What had expired before stays expired, and what was spared before is not spared again. The event must be
        // readable again, so `since` is not before the earliest moment that can be written.
        let horizon = self.expiry_horizon(since.min(now));
        let spared = self.graces.end().unwrap_or(Timestamp::MIN);
        let since = horizon.max(self.deadlines.observed).max(spared).max(Timestamp::WRITABLE_MIN);
        // Later deadlines leave enough time without a grace.
        let is_needed = since < now.after(grace_ms) && self.graces.can_add(now);
        done(is_needed.then_some(Event::OutageNoted { since, grace_ms, spread_ms }))
    }

    /// Appends the events that end a live allocation now, and returns what that frees. If nothing was started for the
    /// lease, the events release it completely. Otherwise they only begin the release, and [`Command::FinishRelease`]
    /// ends it.
    pub(super) fn push_end_events(
        &self,
        events: &mut Vec<Event>,
        now: Timestamp,
        lease: &Allocation,
        reason: EndReason,
    ) -> Release {
        let allocation = lease.reservation.allocation;
        if self.fleet.has_agents_of(allocation) {
            self.remove_agents_of(events, now, allocation);
        }
        // The reason was set when the release began.
        let reason = if let Phase::Releasing { reason, .. } = lease.phase { reason } else { reason };
        let is_provisioned = self.provisioning.covers(&lease.reservation);
        match lease.phase {
            Phase::Releasing { .. } if is_provisioned => {}
            Phase::Pending | Phase::Active { .. } if is_provisioned => {
                events.push(Event::Releasing { allocation, reason })
            }
            Phase::Pending if reason == EndReason::Expired => {
                events.push(Event::ActivationFailed { allocation, error: Arc::from("it was not activated in time") });
            }
            Phase::Releasing { .. } => events.push(Event::Released { allocation }),
            _ => {
                events.push(Event::Releasing { allocation, reason });
                events.push(Event::Released { allocation });
            }
        }
        release_of(now, lease, reason)
    }
}

/// The leases past their deadline to end so that a request fits.
pub(super) struct ReclaimPlan<'a> {
    pub(super) reclaimed: Vec<&'a Allocation>,
    /// What is short until everything that was started for the ending leases has stopped; `None` if the request fits
    /// immediately.
    pub(super) pending_shortage: Option<Shortage>,
}

fn release_of(now: Timestamp, lease: &Allocation, reason: EndReason) -> Release {
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

/// Returns the node as it will be once these leases have ended, with regard to ports and servers only.
fn node_without(id: &NodeId, node: &Node, leases: &[&Allocation]) -> Node {
    let mut node = node.clone();
    for lease in leases.iter().filter(|lease| lease.reservation.node == *id) {
        node.release_ports(&lease.reservation);
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
