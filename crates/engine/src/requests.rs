//! Requests for leases: decided, granted or refused, and answered immediately or after provisioning.

use super::cancel::{CancelHandle, Revocable};
use super::error::EngineError;
use super::message::{Grant, Reply};
use super::provisioning_waits::WaitingRequest;
use super::{Engine, REPEATS_REMEMBERED_MAX};
use cortex_core::command::{Command, Denied, Outcome, Request, Shortage};
use cortex_core::ids::AllocationId;
use cortex_core::time::Timestamp;
use cortex_journal::Journal;

/// The outcome of a request that was not refused.
enum RequestOutcome {
    Grant(Box<Grant>),
    /// A release in progress will free enough capacity.
    Waits {
        request: Box<Request>,
        shortage: Shortage,
    },
}

impl<J: Journal> Engine<J> {
    /// Answers a request, or keeps it waiting: until its servers and workers have started, or until a release in
    /// progress frees capacity. `until` is the deadline of the latter, for a request that has waited before.
    pub(super) fn handle_request(
        &mut self,
        now: Timestamp,
        request: Box<Request>,
        cancel_handle: CancelHandle,
        reply: Reply<Result<Grant, EngineError>>,
        until: Option<Timestamp>,
    ) {
        if cancel_handle.is_cancelled() {
            return self.answer(reply, Err(EngineError::Cancelled));
        }
        match self.request(now, request, until.is_none()) {
            Ok(RequestOutcome::Grant(grant)) => {
                let reservation = &grant.view.allocation.reservation;
                if grant.is_new {
                    cancel_handle.note(Revocable::Allocation(reservation.allocation));
                    if reservation.request_id.is_none() {
                        self.note_revocable(Revocable::Allocation(reservation.allocation));
                    }
                }
                self.answer_grant(*grant, cancel_handle, reply);
            }
            Ok(RequestOutcome::Waits { request, shortage }) => {
                let until = until.unwrap_or_else(|| self.capacity_deadline(now));
                self.await_capacity(WaitingRequest { request, cancel_handle, reply, shortage, until });
            }
            Err(error) => self.answer(reply, Err(error)),
        }
    }

    fn request(&mut self, now: Timestamp, request: Box<Request>, is_new: bool) -> Result<RequestOutcome, EngineError> {
        let draw = self.unused_random_value();
        let command = Command::Request { request, worker_size: self.worker_size, random: draw };
        if is_new && let Some(shortage) = self.queued_behind(now, &command) {
            let Command::Request { request, .. } = command else { return Err(EngineError::Fault) };
            return Ok(RequestOutcome::Waits { request, shortage });
        }
        let decided = self.decide_request(now, &command);
        match decided.map(|decision| self.carry_out(now, decision)) {
            Ok(Outcome::Granted { allocation, .. }) => {
                self.requests.granted += 1;
                self.demand.note_request(now, false, self.cluster.workers_taken(now));
                let view = self.view(now, allocation)?;
                let reservation = &view.allocation.reservation;
                tracing::info!(
                    job = %reservation.job,
                    allocation = %allocation,
                    priority = %reservation.priority,
                    workers = reservation.workers.count(),
                    mcp_servers = reservation.servers.len(),
                    ttl_seconds = reservation.ttl_seconds.as_seconds(),
                    fencing_token = reservation.fencing_token.as_u64(),
                    "lease granted"
                );
                Ok(RequestOutcome::Grant(Box::new(Grant { view, is_new: true })))
            }
            Ok(Outcome::Repeated { allocation }) => {
                let view = self.view(now, allocation)?;
                tracing::debug!(job = %view.allocation.reservation.job, %allocation, "request repeated");
                if self.repeated.len() == REPEATS_REMEMBERED_MAX {
                    self.repeated.pop_front();
                }
                self.repeated.push_back(allocation);
                Ok(RequestOutcome::Grant(Box::new(Grant { view, is_new: false })))
            }
            Ok(Outcome::CapacityPending { shortage, .. }) => {
                let Command::Request { request, .. } = command else { return Err(EngineError::Fault) };
                Ok(RequestOutcome::Waits { request, shortage })
            }
            Ok(_) => Err(EngineError::Fault),
            Err(EngineError::Denied(denied @ Denied::InsufficientCapacity { .. })) => {
                let Command::Request { request, .. } = command else { return Err(EngineError::Fault) };
                Err(self.refuse(now, &request, &denied))
            }
            Err(error) => Err(error),
        }
    }

    /// Refuses a request for lack of capacity and remembers the refusal.
    pub(super) fn refuse(&mut self, now: Timestamp, request: &Request, denied: &Denied) -> EngineError {
        self.requests.refused += 1;
        let wanted = self.cluster.workers_taken(now).saturating_add(request.workers);
        self.demand.note_request(now, true, wanted);
        if let Denied::InsufficientCapacity { shortage: Shortage::Workers { .. }, .. } = denied {
            self.requests.refused_workers_max = self.requests.refused_workers_max.max(request.workers);
        }
        let id = AllocationId::from_bits(self.unused_random_value());
        let last = self.cluster.last_token();
        let refusal = self.refusals.remember(id, request, denied, now, last);
        tracing::info!(
            job = %request.job,
            allocation = %id,
            priority = %request.priority,
            workers = request.workers,
            mcp_servers = request.servers.as_slice().len(),
            error = %denied,
            "request refused"
        );
        EngineError::Refused(Box::new(refusal))
    }
}
