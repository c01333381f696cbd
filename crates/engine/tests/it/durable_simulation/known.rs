//! What the clients know: which grants were acknowledged, and what became of them as far as they were told.

use cortex_core::command::Denied;
use cortex_core::ids::{AllocationId, FencingToken, JobId, RequestId};
use cortex_core::time::{Millis, Timestamp};
use cortex_core::view::AllocationView;
use cortex_engine::{EngineError, Expired, Grant, Released};
use std::collections::{BTreeMap, BTreeSet};

/// A grant that a client was told of.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    token: FencingToken,
    workers: u64,
    /// When it runs out, outages left aside.
    nominal: Timestamp,
    /// It does not run out before this.
    lasts_until: Timestamp,
    /// Whether a release was asked for whose answer was lost.
    may_be_released: bool,
    is_over: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Known {
    leases: BTreeMap<AllocationId, Lease>,
    /// What was granted under each key.
    keys: BTreeMap<RequestId, AllocationId>,
    /// Keys whose answer was lost, and was not asked for again.
    pub(crate) unanswered: BTreeSet<RequestId>,
    /// Jobs without a key whose answer a crash swallowed.
    swallowed: BTreeSet<JobId>,
    last_token: Option<FencingToken>,
    /// Up to which deadline leases were spared already, or may have been.
    spared_until: Timestamp,
    pub(crate) orphans_seen: u64,
}

impl Known {
    /// The leases that clients hold as far as they know, oldest first: their ids are random, and a seed is to draw the
    /// same ones each time.
    pub(crate) fn held(&self) -> Vec<AllocationId> {
        let mut held: Vec<_> = self.leases.iter().filter(|(_, lease)| !lease.is_over).collect();
        held.sort_by_key(|(_, lease)| lease.token);
        held.into_iter().map(|(id, _)| *id).collect()
    }

    /// Notes a grant, and gives whether it is a repeat that a client had lost the answer to.
    pub(crate) fn granted(&mut self, key: Option<&RequestId>, grant: &Grant) -> bool {
        let reservation = &grant.view.allocation.reservation;
        let (id, token) = (reservation.allocation, reservation.fencing_token);
        let was_unanswered = key.is_some_and(|key| self.unanswered.remove(key));
        if let Some(first) = key.and_then(|key| self.keys.get(key)) {
            assert_eq!(*first, id, "a second grant for one key");
            assert!(!grant.is_new, "{id} was granted twice");
            return false;
        }
        assert!(grant.is_new || was_unanswered, "{id} is a repeat of what nobody asked for");
        assert!(!self.leases.contains_key(&id), "{id} was given twice");
        let is_repeat = !grant.is_new;
        if !is_repeat {
            assert!(self.last_token.is_none_or(|last| last < token), "{token} after {:?}", self.last_token);
        }
        self.last_token = self.last_token.max(Some(token));
        if let Some(key) = key {
            self.keys.insert(key.clone(), id);
        }
        let view = &grant.view;
        let is_over = !view.allocation.state().is_live();
        let lasts_until = view.expires_at.unwrap_or(Timestamp::MIN);
        let nominal = view.allocation.nominal_deadline().unwrap_or(Timestamp::MIN);
        let workers = reservation.workers.count();
        let lease = Lease { token, workers, nominal, lasts_until, may_be_released: false, is_over };
        self.leases.insert(id, lease);
        is_repeat
    }

    /// Notes that the answer to a request was lost, by a crash or in one life.
    pub(crate) fn lost(&mut self, job: &JobId, key: Option<&RequestId>, by_crash: bool) {
        match key {
            Some(key) if !self.keys.contains_key(key) => drop(self.unanswered.insert(key.clone())),
            None if by_crash => drop(self.swallowed.insert(job.clone())),
            // It is given back.
            _ => {}
        }
    }

    pub(crate) fn released(&mut self, now: Timestamp, id: AllocationId, answer: &Result<Released, EngineError>) {
        let lease = self.leases.get_mut(&id).expect("a lease that was granted");
        match answer {
            Ok(Released::Now(_)) => assert!(!lease.is_over, "{id} was released twice"),
            Ok(Released::Before { .. }) => {
                let may_be_over = lease.is_over || lease.may_be_released || lease.lasts_until <= now;
                assert!(may_be_over, "{id} was released by nobody");
            }
            Err(EngineError::NotCommitted | EngineError::Stopped) => {
                lease.may_be_released = true;
                return;
            }
            Err(other) => panic!("{id}, which was granted: {other}"),
        }
        lease.is_over = true;
    }

    pub(crate) fn renewed(&mut self, now: Timestamp, id: AllocationId, answer: &Result<AllocationView, EngineError>) {
        let lease = self.leases.get_mut(&id).expect("a lease that was granted");
        match answer {
            Ok(view) => {
                assert!(!lease.is_over, "{id} was renewed after its end");
                lease.lasts_until = view.expires_at.expect("an active lease runs out");
                lease.nominal = view.allocation.nominal_deadline().expect("an active lease runs out");
            }
            Err(EngineError::NotCommitted | EngineError::Stopped) => {}
            Err(EngineError::Denied(Denied::Expired { .. } | Denied::NotActive { .. })) => {
                let may_be_over = lease.is_over || lease.may_be_released || lease.lasts_until <= now;
                assert!(
                    may_be_over,
                    "{id} ended before its time: it lasts until {}, and it is {now}",
                    lease.lasts_until
                );
            }
            Err(other) => panic!("{id}, which was granted: {other}"),
        }
    }

    pub(crate) fn swept(&mut self, now: Timestamp, expired: &Expired) {
        for id in &expired.named {
            if let Some(lease) = self.leases.get_mut(id) {
                assert!(!lease.is_over, "{id} ran out after its end");
                assert!(lease.lasts_until <= now, "{id} lasts until {}, and it is {now}", lease.lasts_until);
                lease.is_over = true;
            }
        }
    }

    /// After an outage what had not run out is spared for the grace, unless it was spared before.
    pub(crate) fn spared(&mut self, since: Timestamp, now: Timestamp, grace: Millis) {
        if self.spared_until >= now.after(grace) {
            // Unless that was only perhaps so: then it is noted now.
            self.perhaps_spared(now, grace);
            return;
        }
        let behind = self.spared_until;
        for lease in self.leases.values_mut().filter(|lease| lease.lasts_until > since && lease.nominal > behind) {
            lease.lasts_until = lease.lasts_until.max(now.after(grace));
        }
        self.perhaps_spared(now, grace);
    }

    /// The note of an outage may have been made: then what runs out soon is not spared by the next.
    pub(crate) fn perhaps_spared(&mut self, now: Timestamp, grace: Millis) {
        self.spared_until = self.spared_until.max(now.after(grace).after(grace));
    }

    /// Holds all live leases of the books against what is known.
    pub(crate) fn check(&mut self, now: Timestamp, live: &[&AllocationView]) {
        let mut left: BTreeMap<AllocationId, &AllocationView> =
            live.iter().map(|view| (view.allocation.reservation.allocation, *view)).collect();
        assert_eq!(left.len(), live.len(), "a lease stands there twice");
        for (id, lease) in &self.leases {
            let Some(view) = left.remove(id) else {
                let may_be_over = lease.is_over || lease.may_be_released || lease.lasts_until <= now;
                assert!(may_be_over, "{id} is missing: it lasts until {}, and it is {now}", lease.lasts_until);
                continue;
            };
            let reservation = &view.allocation.reservation;
            assert!(!lease.is_over, "{id} is back after its end");
            assert_eq!((reservation.fencing_token, reservation.workers.count()), (lease.token, lease.workers), "{id}");
            let until = view.expires_at.expect("an active lease runs out");
            // One that has run out and was not swept up is told of by its nominal deadline once the grace is another.
            let is_kept = until >= lease.lasts_until || lease.lasts_until <= now;
            assert!(is_kept, "{id} runs out at {until}, before {}", lease.lasts_until);
        }
        for (id, view) in left {
            let reservation = &view.allocation.reservation;
            let is_explained = match &reservation.request_id {
                Some(key) => self.unanswered.contains(key),
                None => {
                    self.orphans_seen += 1;
                    self.swallowed.contains(&reservation.job)
                }
            };
            assert!(is_explained, "{id} of {} is held by nobody who knows of it", reservation.job);
        }
    }
}
