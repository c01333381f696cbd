//! Leases behind which something real stands: who waits until it is there, until it is gone, or until there is room.
//!
//! The engine starts and ends nothing. It decides, as for any lease, and whoever runs the real things hears of it from the
//! changes, and tells when they are there or gone. Until then the answer waits; the books have long decided.

use super::message::{CancelHandle, EngineError, Grant, Grants, RealMessage, Released, Reply};
use super::{Engine, log_end};
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

/// Takes a port of the machine for a server, or looks whether a worker (no name) can have it, and says whether that is so.
/// It must not block.
pub type ClaimPort = Box<dyn FnMut(Port, Option<&ServerName>) -> bool + Send>;

/// How long a port that something else held is not tried again.
const TAKEN_PORT_WAIT: Millis = Millis::from_seconds(60);

/// How often a request is decided anew because a port that it was to have is taken.
const PORT_TRIES_MAX: u32 = 200;

/// A caller that waits until a reservation can be used.
struct WaitingGrant {
    is_new: bool,
    /// Whether a repeat of the request would find it again.
    is_keyed: bool,
    cancel_handle: CancelHandle,
    reply: Reply<Result<Grant, EngineError>>,
}

/// A request that waits for the end of what is in its room.
pub(super) struct WaitingRequest {
    pub(super) request: Box<Request>,
    pub(super) cancel_handle: CancelHandle,
    pub(super) reply: Reply<Result<Grant, EngineError>>,
    /// What there was too little of when it was last tried.
    pub(super) shortage: Shortage,
    pub(super) until: Timestamp,
}

/// What is waited for, by whom. Each caller has a call in flight, which bounds them.
#[derive(Default)]
pub(super) struct Real {
    provisioning: Provisioning,
    claim: Option<ClaimPort>,
    /// Ports that something else holds, and until when they are not tried again.
    taken: BTreeMap<Port, Timestamp>,
    starting: BTreeMap<AllocationId, Vec<WaitingGrant>>,
    ending: BTreeMap<AllocationId, Vec<Reply<Result<Released, EngineError>>>>,
    for_room: VecDeque<WaitingRequest>,
}

impl Real {
    /// Lets nobody go on waiting whose request is called off by this cancel_handle.
    pub(super) fn cancel(&mut self, cancel_handle: &CancelHandle) {
        self.for_room.retain(|waiting| !waiting.cancel_handle.is_same(cancel_handle));
        for waiting in self.starting.values_mut() {
            waiting.retain(|waiting| !waiting.cancel_handle.is_same(cancel_handle));
        }
        self.starting.retain(|_, waiting| !waiting.is_empty());
    }

    /// Lets nobody wait any more, since the books are loaded anew: dropped, they ask again. Gives the grants that nobody
    /// can ask for again.
    pub(super) fn turn_away(&mut self) -> Vec<Grants> {
        self.ending.clear();
        self.for_room.clear();
        let starting = std::mem::take(&mut self.starting).into_iter();
        let unwanted =
            starting.filter(|(_, waiting)| waiting.iter().all(|waiting| waiting.is_new && !waiting.is_keyed));
        unwanted.map(|(allocation, _)| Grants::Allocation(allocation)).collect()
    }

    /// When the next request has waited long enough for room.
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        self.for_room.iter().map(|waiting| waiting.until).min()
    }
}

impl<J: Journal> Engine<J> {
    pub(super) fn take_real(&mut self, now: Timestamp, message: RealMessage) {
        match message {
            RealMessage::Stand { provisioning, claim } => {
                self.real.provisioning = provisioning;
                if claim.is_some() {
                    self.real.claim = claim;
                }
                self.stand();
            }
            RealMessage::Activate { allocation, reply } => {
                let done = self.execute(now, &Command::Activate { allocation }).map(drop);
                if done.is_ok() {
                    tracing::info!(%allocation, "ready");
                    self.answer_starting(now, allocation, Ok(()));
                }
                self.answer(reply, done);
            }
            RealMessage::FailActivation { allocation, error, told, reply } => {
                let done = self.execute(now, &Command::FailActivation { allocation, error: error.clone() }).map(drop);
                if done.is_ok() {
                    // Escaped, since it may carry what a process wrote.
                    tracing::warn!(%allocation, ?error, "could not be made ready");
                    self.answer_starting(now, allocation, Err(told));
                    self.serve_for_room(now);
                }
                self.answer(reply, done);
            }
            RealMessage::FinishRelease { allocation, reply } => {
                let done = self.finish_release(now, allocation);
                self.answer(reply, done);
            }
        }
    }

    /// Has decisions go by what really stands here now.
    pub(super) fn stand(&mut self) {
        let mut provisioning = self.real.provisioning.clone();
        provisioning.taken_ports.extend(self.real.taken.keys());
        self.cluster.set_provisioning(provisioning);
    }

    /// Decides on a request, and takes its ports. One that something else holds is passed over from then on.
    pub(super) fn decide_request(&mut self, now: Timestamp, command: &Command) -> Result<Decision, EngineError> {
        let Some(mut claim) = self.real.claim.take() else { return self.decide(now, command) };
        let known = self.real.taken.len();
        self.real.taken.retain(|_, until| *until > now);
        if self.real.taken.len() < known {
            self.stand();
        }
        let mut decided = self.decide(now, command);
        for _ in 0..PORT_TRIES_MAX {
            let Ok(decision) = &decided else { break };
            let mut taken = unclaimed(decision, &mut claim);
            // That of a server that others hold is not for this decision to choose.
            taken.retain(|port| !self.real.taken.contains_key(port));
            if taken.is_empty() {
                break;
            }
            for port in taken {
                tracing::warn!(%port, "something else on this machine holds the port: it is passed over");
                self.real.taken.insert(port, now.after(TAKEN_PORT_WAIT));
            }
            self.stand();
            decided = self.decide(now, command);
        }
        self.real.claim = Some(claim);
        decided
    }

    /// Answers a grant, or has its caller wait until it can be used.
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
        self.real.starting.entry(reservation.allocation).or_default().push(waiting);
    }

    /// Has a release answered once it is over.
    pub(super) fn await_end(&mut self, allocation: AllocationId, reply: Reply<Result<Released, EngineError>>) {
        self.real.ending.entry(allocation).or_default().push(reply);
    }

    /// Has a request wait until what is in its room is gone, or for as long as a start may take.
    pub(super) fn await_room(&mut self, waiting: WaitingRequest) {
        self.real.for_room.push_back(waiting);
    }

    /// What somebody who came before still lacks of the room that this request would take.
    pub(super) fn comes_behind(&self, now: Timestamp, command: &Command) -> Option<Shortage> {
        let Command::Request { request, .. } = command else { return None };
        let first = self.real.for_room.front().filter(|_| request.workers > 0)?;
        let decided = self.decide(now, command);
        let takes_room = decided.is_ok_and(|decision| matches!(decision.outcome, Outcome::Granted { .. }));
        takes_room.then_some(first.shortage)
    }

    /// Until when a request that comes now waits for room.
    pub(super) fn room_deadline(&self, now: Timestamp) -> Timestamp {
        now.after(self.real.provisioning.start_max)
    }

    /// Tries the requests that wait for room, the oldest first.
    pub(super) fn serve_for_room(&mut self, now: Timestamp) {
        let mut is_held_up = false;
        for waiting in std::mem::take(&mut self.real.for_room) {
            if is_held_up && waiting.until > now && waiting.request.workers > 0 {
                // Who came first gets what comes free, however much that is.
                self.real.for_room.push_back(waiting);
            } else if waiting.until <= now {
                let denied = Denied::NoRoom { shortage: waiting.shortage, retry_at: None };
                let refusal = self.refuse(now, &waiting.request, &denied);
                self.answer(waiting.reply, Err(refusal));
            } else {
                let WaitingRequest { request, cancel_handle, reply, until, .. } = waiting;
                let before = self.real.for_room.len();
                self.take_request(now, request, cancel_handle, reply, Some(until));
                is_held_up |= self.real.for_room.len() > before;
            }
        }
    }

    /// Refuses those who have waited long enough for room.
    pub(super) fn pass_waits_for_room(&mut self, now: Timestamp) {
        if self.real.next_deadline().is_some_and(|until| until <= now) {
            self.serve_for_room(now);
        }
    }

    fn finish_release(&mut self, now: Timestamp, allocation: AllocationId) -> Result<(), EngineError> {
        let Outcome::Released(release) = self.execute(now, &Command::FinishRelease { allocation })? else {
            return Err(EngineError::Fault);
        };
        log_end(&release);
        self.answer_starting(now, allocation, Err(Arc::from("it was released before it was ready")));
        for reply in self.real.ending.remove(&allocation).unwrap_or_default() {
            self.answer(reply, Ok(Released::Now(release.clone())));
        }
        self.serve_for_room(now);
        Ok(())
    }

    /// Answers those who waited until this allocation could be used, now that it can or will not.
    fn answer_starting(&mut self, now: Timestamp, allocation: AllocationId, started: Result<(), Arc<str>>) {
        let started = started.map_err(|error| EngineError::NotStarted { allocation, error });
        for WaitingGrant { is_new, is_keyed, reply, .. } in self.real.starting.remove(&allocation).unwrap_or_default() {
            let view = started.clone().and_then(|()| self.view(now, allocation));
            if is_new && !is_keyed && view.is_ok() {
                // Nobody else can ask for it if this batch is not committed.
                self.note_unwanted(Grants::Allocation(allocation));
            }
            self.answer(reply, view.map(|view| Grant { view, is_new }));
        }
    }
}

/// The ports of a decided reservation that cannot be had.
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
