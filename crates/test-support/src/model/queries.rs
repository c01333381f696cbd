//! Queries to the reference. Each answer is computed from the list of leases.

use super::Model;
use super::lease::{Lease, running, sum};
use super::slots::WorkerSlot;
use cortex_core::allocation::State;
use cortex_core::ids::{AllocationId, FencingToken};
use cortex_core::time::{Millis, Timestamp};
use cortex_core::view::{AllocationView, CapacityView, DeadlineReason, Filter};

impl Model {
    /// Returns the ids on record whose lease is in this state.
    pub fn ids(&self, state: State) -> Vec<AllocationId> {
        self.leases.iter().filter(|lease| lease.state() == state).map(Lease::id).collect()
    }

    /// Returns the token of a lease on record.
    pub fn token(&self, id: AllocationId) -> Option<FencingToken> {
        self.find(id).map(Lease::token)
    }

    pub fn capacity(&self, now: Timestamp) -> CapacityView {
        let mut running_servers = Vec::new();
        for node in &self.nodes {
            let mut names = running(&self.live(), &node.id, true);
            names.sort();
            running_servers.extend(names);
        }
        CapacityView {
            total: sum(self.nodes.iter().map(|node| node.capacity)),
            leased: sum(self.live().iter().map(|lease| lease.held()).chain(self.slots.iter().map(WorkerSlot::held))),
            reclaimable: sum(self.overdue(now).iter().map(|lease| lease.held())),
            running_servers,
            live_allocations: self.live().len() as u64,
            expired_allocations: self.overdue(now).len() as u64,
        }
    }

    pub fn list(&self, now: Timestamp, filter: &Filter, after: FencingToken) -> Vec<AllocationView> {
        self.leases
            .iter()
            .filter(|lease| lease.token() > after)
            .filter(|lease| filter.state.is_none_or(|state| state == lease.state()))
            .filter(|lease| filter.job.as_ref().is_none_or(|job| *job == lease.record.reservation.job))
            .map(|lease| self.view(now, lease))
            .collect()
    }

    pub fn allocation(&self, now: Timestamp, id: AllocationId) -> Option<AllocationView> {
        self.find(id).map(|lease| self.view(now, lease))
    }

    pub fn next_deadline(&self) -> Option<(Timestamp, DeadlineReason)> {
        let ahead = self.by_deadline().into_iter().find(|(deadline, _)| *deadline > self.observed);
        ahead.map(|(deadline, lease)| {
            let reason = if lease.is_pending() {
                DeadlineReason::ActivationFails(lease.id())
            } else {
                DeadlineReason::LeaseExpires(lease.id())
            };
            (self.deadline_with_grace(deadline), reason)
        })
    }

    pub(super) fn view(&self, now: Timestamp, lease: &Lease) -> AllocationView {
        let expires_at = lease.deadline().map(|deadline| self.deadline_with_grace(deadline));
        AllocationView { allocation: lease.record.clone(), at: now, expires_at }
    }

    pub(super) fn live(&self) -> Vec<&Lease> {
        self.leases.iter().filter(|lease| lease.is_live()).collect()
    }

    pub(super) fn find(&self, id: AllocationId) -> Option<&Lease> {
        self.leases.iter().find(|lease| lease.id() == id)
    }

    /// Returns the leases that have a deadline, the earliest first, and of equal ones the oldest grant first.
    pub(super) fn by_deadline(&self) -> Vec<(Timestamp, &Lease)> {
        let mut all: Vec<_> =
            self.leases.iter().filter_map(|lease| lease.deadline().map(|deadline| (deadline, lease))).collect();
        all.sort_by_key(|(deadline, lease)| (*deadline, lease.token()));
        all
    }

    pub(super) fn overdue(&self, now: Timestamp) -> Vec<&Lease> {
        let expired = |deadline: &Timestamp| self.deadline_with_grace(*deadline) <= now;
        self.by_deadline().into_iter().filter(|(deadline, _)| expired(deadline)).map(|(_, lease)| lease).collect()
    }

    /// Returns up to which deadline leases have expired at a moment.
    pub(super) fn horizon(&self, now: Timestamp) -> Timestamp {
        let has_passed = |deadline: i64| self.deadline_with_grace(Timestamp::from_millis(deadline)) <= now;
        // No deadline takes effect before its own moment, so none after `now` has passed. A binary search finds the
        // last one that has.
        let earliest = self.graces.iter().map(|(since, _, _)| *since).min().unwrap_or(now).min(now).as_millis();
        let (mut passed, mut ahead) = (earliest, now.as_millis() + 1);
        while ahead - passed > 1 {
            let middle = passed + (ahead - passed) / 2;
            if has_passed(middle) { passed = middle } else { ahead = middle }
        }
        Timestamp::from_millis(passed)
    }

    pub fn deadline_with_grace(&self, deadline: Timestamp) -> Timestamp {
        let span = |from: Timestamp, to: Timestamp| u128::from(to.since(from).0);
        match self.graces.iter().rfind(|(since, _, _)| *since < deadline) {
            Some((since, until, end)) if deadline < *end => {
                let later = (span(*since, deadline) * span(*until, *end)).div_ceil(span(*since, *end));
                until.after(Millis(u64::try_from(later).expect("less than the spread")))
            }
            _ => deadline,
        }
    }
}
