//! A lease of the reference, and functions of one or some leases alone.

use cortex_core::allocation::{Allocation, EndReason, Phase, Reservation, State};
use cortex_core::command::{Release, Request};
use cortex_core::ids::{AllocationId, FencingToken, NodeId, ServerName};
use cortex_core::time::{Millis, Timestamp};
use cortex_core::units::{CpuMillis, MemoryMb, Resources, WorkerSize};

/// A lease, live or on record.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    pub(super) record: Allocation,
    /// Its sequence number among the ended leases, once it has ended.
    pub(super) end: Option<u64>,
}

impl Lease {
    pub(super) fn id(&self) -> AllocationId {
        self.record.reservation.allocation
    }

    pub(super) fn token(&self) -> FencingToken {
        self.record.reservation.fencing_token
    }

    pub(super) fn is_live(&self) -> bool {
        self.end.is_none()
    }

    pub(super) fn is_pending(&self) -> bool {
        self.record.phase == Phase::Pending
    }

    pub(super) fn state(&self) -> State {
        match self.record.phase {
            Phase::Pending => State::Pending,
            Phase::Active { .. } => State::Active,
            Phase::Releasing { .. } => State::Releasing,
            Phase::Released { .. } => State::Released,
            Phase::Failed { .. } => State::Failed,
        }
    }

    pub(super) fn workers(&self) -> u64 {
        self.record.reservation.workers.ports.len() as u64
    }

    pub(super) fn held(&self) -> Resources {
        amount(self.workers(), self.record.reservation.workers.size)
    }

    /// Returns when it expires, without a grace.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        match self.record.phase {
            Phase::Pending => Some(self.record.reservation.activate_by),
            Phase::Active { runs_from, .. } => {
                let ttl_ms = i64::try_from(self.record.ttl_seconds.as_seconds().saturating_mul(1000));
                Some(Timestamp::from_millis(runs_from.as_millis().saturating_add(ttl_ms.unwrap_or(i64::MAX))))
            }
            _ => None,
        }
    }
}

/// Returns what `workers` workers of a size take.
pub(super) fn amount(workers: u64, size: WorkerSize) -> Resources {
    Resources {
        cpu_millis: CpuMillis::from_millis(size.cpu_millis.as_millis().saturating_mul(workers)),
        memory_mb: MemoryMb(size.memory_mb.0.saturating_mul(workers)),
        workers,
    }
}

pub(super) fn sum(amounts: impl Iterator<Item = Resources>) -> Resources {
    let mut total = (0, 0, 0);
    for amount in amounts {
        total.0 += amount.cpu_millis.as_millis();
        total.1 += amount.memory_mb.0;
        total.2 += amount.workers;
    }
    Resources { cpu_millis: CpuMillis::from_millis(total.0), memory_mb: MemoryMb(total.1), workers: total.2 }
}

/// Returns the servers that these leases hold on a node, each once. Those that are not shared are included only with
/// `with_private`.
pub(super) fn running(live: &[&Lease], node: &NodeId, with_private: bool) -> Vec<ServerName> {
    let mut names: Vec<ServerName> = Vec::new();
    for lease in live.iter().filter(|lease| lease.record.reservation.node == *node) {
        let holds = lease.record.reservation.servers.iter().filter(|hold| with_private || !hold.is_private);
        let fresh: Vec<_> = holds.filter(|hold| !names.contains(&hold.name)).collect();
        names.extend(fresh.into_iter().map(|hold| hold.name.clone()));
    }
    names
}

/// Returns what the release of a lease reports. The first reason that was given counts.
pub(super) fn release_of(now: Timestamp, lease: &Lease, reason: EndReason) -> Release {
    let reason = if let Phase::Releasing { reason, .. } = lease.record.phase { reason } else { reason };
    let lasted_ms = now.as_millis() - lease.record.created_at.as_millis();
    Release {
        allocation: lease.id(),
        job: lease.record.reservation.job.clone(),
        reason,
        freed: lease.held(),
        released_at: now,
        duration: Millis(u64::try_from(lasted_ms).expect("time does not go back")),
    }
}

/// Returns whether a request is the one that led to a reservation.
pub(super) fn is_same_request(first: &Reservation, request: &Request) -> bool {
    let servers: Vec<ServerName> = first.servers.iter().map(|hold| hold.name.clone()).collect();
    let asked_first = (
        &first.job,
        first.workers.ports.len() as u64,
        first.priority,
        first.ttl_seconds,
        &first.metadata,
        &servers[..],
    );
    let asked_now = (
        &request.job,
        request.workers,
        request.priority,
        request.ttl_seconds,
        &request.metadata,
        request.servers.as_slice(),
    );
    asked_first == asked_now
}
