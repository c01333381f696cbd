//! Replies that wait for provisioning: until the servers and workers of a lease have started, until they have stopped,
//! or until a release in progress frees capacity.
//!
//! The engine starts and stops no processes. It decides as for any lease; the provisioner (see
//! [`super::EngineHandle::set_provisioning`]) learns of the decision from the change notifications and reports when the
//! processes have started or stopped. Only the reply waits: the decision is committed before.

use super::Engine;
use super::cancel::{CancelHandle, Revocable};
use super::error::EngineError;
use super::message::{Grant, ProvisioningMessage, Released, Reply};
use cortex_core::allocation::Phase;
use cortex_core::command::{Command, Decision, Denied, Outcome, Request, Shortage};
use cortex_core::event::Event;
use cortex_core::ids::{AllocationId, ServerName};
use cortex_core::ports::Port;
use cortex_core::provisioning::Provisioning;
use cortex_core::time::{Millis, Timestamp};
use cortex_journal::Journal;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Reserves a port of the machine for a server, or checks that it is free for a worker (no name). Returns whether the
/// port is usable. Must not block.
pub type ClaimPort = Box<dyn FnMut(Port, Option<&ServerName>) -> bool + Send>;

/// How long a port that another process held is not tried again.
const PORT_RETRY_AFTER: Millis = Millis::from_seconds(60);

/// How many times one request is decided again because a port of its reservation is in use.
const PORT_TRIES_MAX: u32 = 200;

/// A caller that waits until its reservation is active.
struct WaitingGrant {
    is_new: bool,
    /// Whether the request has a request id, so that a repeat finds the grant again.
    is_keyed: bool,
    cancel_handle: CancelHandle,
    reply: Reply<Result<Grant, EngineError>>,
}

/// A request that waits for capacity that a release in progress will free.
pub(super) struct WaitingRequest {
    pub(super) request: Box<Request>,
    pub(super) cancel_handle: CancelHandle,
    pub(super) reply: Reply<Result<Grant, EngineError>>,
    /// The shortage at the last attempt.
    pub(super) shortage: Shortage,
    pub(super) until: Timestamp,
}

/// The provisioning and the callers that wait for it. Each caller has a call in flight, which bounds the number of
/// entries.
#[derive(Default)]
pub(super) struct ProvisioningWaits {
    provisioning: Provisioning,
    claim_port: Option<ClaimPort>,
    /// Ports that another process holds, and when each may be tried again.
    ports_in_use: BTreeMap<Port, Timestamp>,
    starting: BTreeMap<AllocationId, Vec<WaitingGrant>>,
    ending: BTreeMap<AllocationId, Vec<Reply<Result<Released, EngineError>>>>,
    waiting_requests: VecDeque<WaitingRequest>,
}

impl ProvisioningWaits {
    /// Removes the waiting callers whose request has this cancel handle.
    pub(super) fn cancel(&mut self, cancel_handle: &CancelHandle) {
        self.waiting_requests.retain(|waiting| !waiting.cancel_handle.is_same(cancel_handle));
        for waiting in self.starting.values_mut() {
            waiting.retain(|waiting| !waiting.cancel_handle.is_same(cancel_handle));
        }
        self.starting.retain(|_, waiting| !waiting.is_empty());
    }

    /// Drops all waiting callers after a reload; each gets [`EngineError::NotCommitted`]. Returns the grants that no
    /// caller can request again.
    pub(super) fn drop_waiting(&mut self) -> Vec<Revocable> {
        self.ending.clear();
        self.waiting_requests.clear();
        let starting = std::mem::take(&mut self.starting).into_iter();
        let unwanted =
            starting.filter(|(_, waiting)| waiting.iter().all(|waiting| waiting.is_new && !waiting.is_keyed));
        unwanted.map(|(allocation, _)| Revocable::Allocation(allocation)).collect()
    }

    /// The earliest deadline of the requests that wait for capacity.
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        self.waiting_requests.iter().map(|waiting| waiting.until).min()
    }
}

impl<J: Journal> Engine<J> {
    pub(super) fn handle_provisioning(&mut self, now: Timestamp, message: ProvisioningMessage) {
        match message {
            ProvisioningMessage::Set { provisioning, claim } => {
                self.provisioning_waits.provisioning = provisioning;
                if claim.is_some() {
                    self.provisioning_waits.claim_port = claim;
                }
                self.apply_provisioning();
            }
            ProvisioningMessage::Activate { allocation, reply } => {
                let done = self.execute(now, &Command::Activate { allocation }).map(drop);
                if done.is_ok() {
                    tracing::info!(%allocation, "allocation activated");
                    self.answer_starting(now, allocation, Ok(()));
                }
                self.answer(reply, done);
            }
            ProvisioningMessage::FailActivation { allocation, error, caller_error, reply } => {
                let done = self.execute(now, &Command::FailActivation { allocation, error: error.clone() }).map(drop);
                if done.is_ok() {
                    // `?` escapes the text, which may contain output of a process.
                    tracing::warn!(%allocation, ?error, "activation failed");
                    self.answer_starting(now, allocation, Err(caller_error));
                    self.retry_waiting_requests(now);
                }
                self.answer(reply, done);
            }
            ProvisioningMessage::FinishRelease { allocation, reply } => {
                let done = self.finish_release(now, allocation);
                self.answer(reply, done);
            }
        }
    }

    /// Passes the current provisioning to the cluster, for the decisions from here on.
    pub(super) fn apply_provisioning(&mut self) {
        let mut provisioning = self.provisioning_waits.provisioning.clone();
        provisioning.occupied_ports.extend(self.provisioning_waits.ports_in_use.keys());
        self.cluster.set_provisioning(provisioning);
    }

    /// Decides on a request and claims its ports. A port that another process holds is skipped from then on, and the
    /// request is decided again.
    pub(super) fn decide_request(&mut self, now: Timestamp, command: &Command) -> Result<Decision, EngineError> {
        let Some(mut claim) = self.provisioning_waits.claim_port.take() else { return self.decide(now, command) };
        let known = self.provisioning_waits.ports_in_use.len();
        self.provisioning_waits.ports_in_use.retain(|_, until| *until > now);
        if self.provisioning_waits.ports_in_use.len() < known {
            self.apply_provisioning();
        }
        let mut decided = self.decide(now, command);
        for _ in 0..PORT_TRIES_MAX {
            let Ok(decision) = &decided else { break };
            let mut taken = unclaimed(decision, &mut claim);
            // A port known to be in use comes back only if it belongs to a server that other leases already share.
            taken.retain(|port| !self.provisioning_waits.ports_in_use.contains_key(port));
            if taken.is_empty() {
                break;
            }
            for port in taken {
                tracing::warn!(%port, "another process on this machine holds the port: skipped");
                self.provisioning_waits.ports_in_use.insert(port, now.after(PORT_RETRY_AFTER));
            }
            self.apply_provisioning();
            decided = self.decide(now, command);
        }
        self.provisioning_waits.claim_port = Some(claim);
        decided
    }

    /// Answers a grant, or keeps its caller waiting while the allocation is pending.
    pub(super) fn answer_grant(
        &mut self,
        grant: Grant,
        cancel_handle: CancelHandle,
        reply: Reply<Result<Grant, EngineError>>,
    ) {
        let reservation = &grant.view.allocation.reservation;
        if !matches!(grant.view.allocation.phase, Phase::Pending) {
            return self.answer(reply, Ok(grant));
        }
        let waiting =
            WaitingGrant { is_new: grant.is_new, is_keyed: reservation.request_id.is_some(), cancel_handle, reply };
        self.provisioning_waits.starting.entry(reservation.allocation).or_default().push(waiting);
    }

    /// Answers a release after its servers and workers have stopped.
    pub(super) fn await_end(&mut self, allocation: AllocationId, reply: Reply<Result<Released, EngineError>>) {
        self.provisioning_waits.ending.entry(allocation).or_default().push(reply);
    }

    /// Queues a request until a release in progress frees its capacity, or until its deadline.
    pub(super) fn await_capacity(&mut self, waiting: WaitingRequest) {
        self.provisioning_waits.waiting_requests.push_back(waiting);
    }

    /// Returns the shortage of the oldest waiting request if this command would take capacity ahead of it.
    pub(super) fn queued_behind(&self, now: Timestamp, command: &Command) -> Option<Shortage> {
        let Command::Request { request, .. } = command else { return None };
        let first = self.provisioning_waits.waiting_requests.front().filter(|_| request.workers > 0)?;
        let decided = self.decide(now, command);
        let is_granted = decided.is_ok_and(|decision| matches!(decision.outcome, Outcome::Granted { .. }));
        is_granted.then_some(first.shortage)
    }

    /// The deadline of a request that starts to wait for capacity now.
    pub(super) fn capacity_deadline(&self, now: Timestamp) -> Timestamp {
        now.after(self.provisioning_waits.provisioning.start_max)
    }

    /// Tries the requests that wait for capacity, the oldest first, and refuses those past their deadline.
    pub(super) fn retry_waiting_requests(&mut self, now: Timestamp) {
        let mut is_held_up = false;
        for waiting in std::mem::take(&mut self.provisioning_waits.waiting_requests) {
            if is_held_up && waiting.until > now && waiting.request.workers > 0 {
                // Freed capacity goes to the oldest request first, whatever its size.
                self.provisioning_waits.waiting_requests.push_back(waiting);
            } else if waiting.until <= now {
                let denied = Denied::InsufficientCapacity { shortage: waiting.shortage, retry_at: None };
                let refusal = self.refuse(now, &waiting.request, &denied);
                self.answer(waiting.reply, Err(refusal));
            } else {
                let WaitingRequest { request, cancel_handle, reply, until, .. } = waiting;
                let before = self.provisioning_waits.waiting_requests.len();
                self.handle_request(now, request, cancel_handle, reply, Some(until));
                is_held_up |= self.provisioning_waits.waiting_requests.len() > before;
            }
        }
    }

    /// Refuses the requests whose wait for capacity is over.
    pub(super) fn expire_waiting_requests(&mut self, now: Timestamp) {
        if self.provisioning_waits.next_deadline().is_some_and(|until| until <= now) {
            self.retry_waiting_requests(now);
        }
    }

    fn finish_release(&mut self, now: Timestamp, allocation: AllocationId) -> Result<(), EngineError> {
        let Outcome::Released(release) = self.execute(now, &Command::FinishRelease { allocation })? else {
            return Err(EngineError::Fault);
        };
        self.answer_starting(now, allocation, Err(Arc::from("it was released before it became active")));
        for reply in self.provisioning_waits.ending.remove(&allocation).unwrap_or_default() {
            self.answer(reply, Ok(Released::Now(release.clone())));
        }
        self.retry_waiting_requests(now);
        Ok(())
    }

    /// Answers the callers that wait for this allocation, with the grant or with the reason why it failed.
    fn answer_starting(&mut self, now: Timestamp, allocation: AllocationId, started: Result<(), Arc<str>>) {
        let started = started.map_err(|error| EngineError::NotStarted { allocation, error });
        for WaitingGrant { is_new, is_keyed, reply, .. } in
            self.provisioning_waits.starting.remove(&allocation).unwrap_or_default()
        {
            let view = started.clone().and_then(|()| self.view(now, allocation));
            if is_new && !is_keyed && view.is_ok() {
                // No caller can request it again if this batch is not committed.
                self.note_revocable(Revocable::Allocation(allocation));
            }
            self.answer(reply, view.map(|view| Grant { view, is_new }));
        }
    }
}

/// The ports of a decided reservation that are in use.
fn unclaimed(decision: &Decision, claim: &mut ClaimPort) -> Vec<Port> {
    let mut taken = Vec::new();
    for event in &decision.events {
        let Event::Reserved { reservation } = event else { continue };
        let servers = reservation.servers.iter().map(|hold| (hold.port, Some(&hold.name)));
        let workers = reservation.workers.ports.iter().map(|port| (*port, None));
        taken.extend(servers.chain(workers).filter(|(port, name)| !claim(*port, *name)).map(|(port, _)| port));
    }
    taken
}
