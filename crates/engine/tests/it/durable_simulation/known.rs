//! What the clients know: the acknowledged grants, and their state according to the replies.

use cortex_core::command::Denied;
use cortex_core::ids::{AllocationId, FencingToken, JobId, RequestId};
use cortex_core::time::{Millis, Timestamp};
use cortex_core::view::AllocationView;
use cortex_engine::{EngineError, Expired, Grant, Released};
use std::collections::{BTreeMap, BTreeSet};

/// An acknowledged grant.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    token: FencingToken,
    workers: u64,
    /// Its deadline without extensions after outages.
    nominal: Timestamp,
    /// It does not expire before this time.
    valid_until: Timestamp,
    /// Whether the reply to a release was lost.
    may_be_released: bool,
    is_over: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Known {
    leases: BTreeMap<AllocationId, Lease>,
    /// The grant of each request id.
    keys: BTreeMap<RequestId, AllocationId>,
    /// Request ids whose reply was lost and that were not retried.
    pub(crate) unanswered: BTreeSet<RequestId>,
    /// Jobs whose request had no request id and whose reply was lost in a crash.
    lost_in_crash: BTreeSet<JobId>,
    last_token: Option<FencingToken>,
    /// The deadline up to which leases were extended, or may have been.
    extended_until: Timestamp,
    pub(crate) undelivered_seen: u64,
}

impl Known {
    /// The leases that clients hold, oldest first. Not sorted by id: ids are random, and a seed must choose the same
    /// leases each time.
    pub(crate) fn held(&self) -> Vec<AllocationId> {
        let mut held: Vec<_> = self.leases.iter().filter(|(_, lease)| !lease.is_over).collect();
        held.sort_by_key(|(_, lease)| lease.token);
        held.into_iter().map(|(id, _)| *id).collect()
    }

    /// Records a grant. Returns whether it is a repeat of a request whose reply was lost.
    pub(crate) fn granted(&mut self, key: Option<&RequestId>, grant: &Grant) -> bool {
        let reservation = &grant.view.allocation.reservation;
        let (id, token) = (reservation.allocation, reservation.fencing_token);
        let was_unanswered = key.is_some_and(|key| self.unanswered.remove(key));
        if let Some(first) = key.and_then(|key| self.keys.get(key)) {
            assert_eq!(*first, id, "a second grant for one key");
            assert!(!grant.is_new, "{id} was granted twice");
            return false;
        }
        assert!(grant.is_new || was_unanswered, "{id} is a repeat of a request that was not made");
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
        let valid_until = view.expires_at.unwrap_or(Timestamp::MIN);
        let nominal = view.allocation.nominal_deadline().unwrap_or(Timestamp::MIN);
        let workers = reservation.workers.count();
        let lease = Lease { token, workers, nominal, valid_until, may_be_released: false, is_over };
        self.leases.insert(id, lease);
        is_repeat
    }

    /// Records that the reply to a request was lost, by a crash or by a failed batch.
    pub(crate) fn lost(&mut self, job: &JobId, key: Option<&RequestId>, by_crash: bool) {
        match key {
            Some(key) if !self.keys.contains_key(key) => drop(self.unanswered.insert(key.clone())),
            None if by_crash => drop(self.lost_in_crash.insert(job.clone())),
            // The engine revokes the grant.
            _ => {}
        }
    }

    pub(crate) fn released(&mut self, now: Timestamp, id: AllocationId, answer: &Result<Released, EngineError>) {
        let lease = self.leases.get_mut(&id).expect("a lease that was granted");
        match answer {
            Ok(Released::Now(_)) => assert!(!lease.is_over, "{id} was released twice"),
            Ok(Released::Before { .. }) => {
                let may_be_over = lease.is_over || lease.may_be_released || lease.valid_until <= now;
                assert!(may_be_over, "{id} ended without a release or an expiry");
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
                lease.valid_until = view.expires_at.expect("an active lease has a deadline");
                lease.nominal = view.allocation.nominal_deadline().expect("an active lease has a deadline");
            }
            Err(EngineError::NotCommitted | EngineError::Stopped) => {}
            Err(EngineError::Denied(Denied::Expired { .. } | Denied::NotActive { .. })) => {
                let may_be_over = lease.is_over || lease.may_be_released || lease.valid_until <= now;
                assert!(may_be_over, "{id} ended early: it is valid until {}, and it is {now}", lease.valid_until);
            }
            Err(other) => panic!("{id}, which was granted: {other}"),
        }
    }

    pub(crate) fn swept(&mut self, now: Timestamp, expired: &Expired) {
        for id in &expired.named {
            if let Some(lease) = self.leases.get_mut(id) {
                assert!(!lease.is_over, "{id} expired after its end");
                assert!(lease.valid_until <= now, "{id} is valid until {}, and it is {now}", lease.valid_until);
                lease.is_over = true;
            }
        }
    }

    /// After an outage, leases that had not expired are extended by the grace, unless they were extended before.
    pub(crate) fn extended(&mut self, since: Timestamp, now: Timestamp, grace: Millis) {
        if self.extended_until >= now.after(grace) {
            // That extension may not have been recorded, so this one may be.
            self.perhaps_extended(now, grace);
            return;
        }
        let behind = self.extended_until;
        for lease in self.leases.values_mut().filter(|lease| lease.valid_until > since && lease.nominal > behind) {
            lease.valid_until = lease.valid_until.max(now.after(grace));
        }
        self.perhaps_extended(now, grace);
    }

    /// The outage may have been recorded. Then the next one does not extend deadlines that are close.
    pub(crate) fn perhaps_extended(&mut self, now: Timestamp, grace: Millis) {
        self.extended_until = self.extended_until.max(now.after(grace).after(grace));
    }

    /// Compares all live leases of the engine with what is known.
    pub(crate) fn check(&mut self, now: Timestamp, live: &[&AllocationView]) {
        let mut left: BTreeMap<AllocationId, &AllocationView> =
            live.iter().map(|view| (view.allocation.reservation.allocation, *view)).collect();
        assert_eq!(left.len(), live.len(), "a lease is listed twice");
        for (id, lease) in &self.leases {
            let Some(view) = left.remove(id) else {
                let may_be_over = lease.is_over || lease.may_be_released || lease.valid_until <= now;
                assert!(may_be_over, "{id} is missing: it is valid until {}, and it is {now}", lease.valid_until);
                continue;
            };
            let reservation = &view.allocation.reservation;
            assert!(!lease.is_over, "{id} is back after its end");
            assert_eq!((reservation.fencing_token, reservation.workers.count()), (lease.token, lease.workers), "{id}");
            let until = view.expires_at.expect("an active lease has a deadline");
            // An expired lease that is not swept yet is listed with its nominal deadline once the grace changes.
            let is_kept = until >= lease.valid_until || lease.valid_until <= now;
            assert!(is_kept, "{id} expires at {until}, before {}", lease.valid_until);
        }
        for (id, view) in left {
            let reservation = &view.allocation.reservation;
            let is_explained = match &reservation.request_id {
                Some(key) => self.unanswered.contains(key),
                None => {
                    self.undelivered_seen += 1;
                    self.lost_in_crash.contains(&reservation.job)
                }
            };
            assert!(is_explained, "{id} of {} is held without a client that knows it", reservation.job);
        }
    }
}
