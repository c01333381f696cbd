//! The engine: the one writer of the books.
//!
//! It takes messages in the order in which they were sent, stamps the time, decides, applies, and commits a batch of
//! them together; nobody hears of anything that is not committed. Whoever wants something of the books holds an
//! [`EngineHandle`]. The engine ends when the last handle is gone.

mod batch;
pub mod clock;
mod fleet;
mod handle;
mod message;
mod outage;
mod real;
mod refusals;
mod requests;
mod scaling;
mod start;

pub use handle::{EngineHandle, Expired};
pub use message::{
    AgentListing, AgentPage, AgentTakenOn, CancelHandle, Change, Claim, EngineError, Grant, Grants, Listing, Page,
    Reading, Record, Released, Submitted, TaskAfter, TaskDetail, TaskListing, TaskPage,
};
pub use real::ClaimPort;
pub use refusals::{Place, REFUSALS_MAX, Refusal};
pub use start::{EngineOptions, StartError, TokenBudget, Totals};

use batch::Batch;
use clock::EngineClock;
use cortex_core::Cluster;
use cortex_core::allocation::EndReason;
use cortex_core::command::{Command, Decision, Denied, Outcome, Release};
use cortex_core::demand::DemandCounter;
use cortex_core::event::{Event, Recorded};
use cortex_core::fleet::replan_triggers::ReplanTriggers;
use cortex_core::ids::{AllocationId, FencingToken, JobId};
use cortex_core::time::{Millis, Timestamp};
use cortex_core::units::WorkerSize;
use cortex_core::view::{AllocationView, RequestsSeen};
use cortex_journal::{Entry, Journal, JournalError};
use fleet::Waiting;
use message::Message;
use outage::Outage;
use real::Real;
use refusals::Refusals;
use std::collections::{BTreeSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, broadcast, mpsc};

/// How many messages may wait for the engine; whoever sends one more waits.
const MESSAGES_WAITING_MAX: usize = 1_024;

/// How many messages are decided before their events are committed together.
const BATCH_MESSAGES_MAX: usize = 256;

/// How many leases one sweep message ends at most, so that no call waits long behind it.
pub const SWEEP_LEASES_MAX: usize = 500;

/// How many grants that a repeat was answered with are remembered, so that calling the first request off leaves them: as
/// many as calls can be in flight, between which a first request can still be called off.
const REPEATED_MAX: usize = 65_536;

/// How many changes a slow listener may lag behind before it is told only that it missed some.
const CHANGES_WAITING_MAX: usize = 256;

/// The engine. [`Engine::run`] is its life.
pub struct Engine<J> {
    journal: J,
    cluster: Cluster,
    clock: EngineClock,
    worker_size: WorkerSize,
    history_age: Millis,
    outage_grace: Millis,
    close_within: Duration,
    refusals: Refusals,
    draws: RandomState,
    drawn: u64,
    requests: RequestsSeen,
    /// Demand that is not in the books yet.
    demand: DemandCounter,
    /// What called for a plan at the last turn.
    replan_triggers: ReplanTriggers,
    /// Whoever plans waits for it.
    wake: Arc<Notify>,
    /// Grants that a repeat was answered with lately.
    repeated: VecDeque<AllocationId>,
    messages: mpsc::Receiver<Message>,
    changes: broadcast::Sender<Arc<Change>>,
    /// What is decided and not yet committed.
    batch: Batch,
    /// Leases, tasks and claims that nobody was told of, and nobody can ask for: they are given back.
    orphans: Vec<Grants>,
    /// An outage of which it is not committed yet that there was one.
    outage: Option<Outage>,
    /// Claims that wait for a task.
    waiting: Waiting,
    /// Those who wait for what really stands behind leases.
    real: Real,
}

impl<J: Journal> Engine<J> {
    /// Serves messages until the last handle is gone, and closes the journal then.
    ///
    /// # Errors
    /// [`JournalError`], if a batch could not be committed and the books cannot be loaded again.
    pub async fn run(mut self) -> Result<(), JournalError> {
        let mut batch = Vec::with_capacity(BATCH_MESSAGES_MAX);
        // Whatever happened by itself while nobody ran is recorded at once.
        let mut sleep_max = Some(Duration::ZERO);
        let mut last_turn = None;
        while self.receive(&mut batch, sleep_max).await.is_continue() {
            self.notice_stall(last_turn, sleep_max);
            let now = self.now();
            last_turn = Some(now);
            self.give_back_orphans(now);
            self.pass_time(now);
            self.pass_waits_for_room(now);
            for message in batch.drain(..) {
                self.take(now, message);
            }
            self.serve_waiting(now);
            self.call_planner(now);
            sleep_max = self.sleep_max(now);
            if let Err(error) = self.commit().await {
                self.reload(error).await?;
            }
        }
        let now = self.now();
        self.write_demand(now);
        if !self.orphans.is_empty() {
            self.give_back_orphans(now);
        }
        if self.has_uncommitted()
            && let Err(error) = self.commit().await
        {
            self.reload(error).await?;
        }
        self.journal.close(self.cluster, self.close_within).await;
        Ok(())
    }

    /// Takes the next messages into `batch`, at once or as soon as there are some, or none once it has waited so long. Breaks
    /// when the last handle is gone.
    async fn receive(&mut self, batch: &mut Vec<Message>, wait_max: Option<Duration>) -> ControlFlow<()> {
        let receiving = self.messages.recv_many(batch, BATCH_MESSAGES_MAX);
        let received = match wait_max {
            None => receiving.await,
            Some(wait_max) => match tokio::time::timeout(wait_max, receiving).await {
                Ok(received) => received,
                Err(_) => return ControlFlow::Continue(()),
            },
        };
        if received == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Gives back what nobody was told of. It is forgotten once that is committed.
    fn give_back_orphans(&mut self, now: Timestamp) {
        for orphan in self.orphans.clone() {
            self.undo(now, &orphan);
        }
    }

    /// Decides on a command and applies its events, so that the next command of the batch is decided on the books as
    /// they will be.
    fn execute(&mut self, now: Timestamp, command: &Command) -> Result<Outcome, EngineError> {
        let decision = self.decide(now, command)?;
        Ok(self.carry_out(now, decision))
    }

    fn decide(&self, now: Timestamp, command: &Command) -> Result<Decision, EngineError> {
        // Deciding changes nothing, so that a fault in it leaves the books sound.
        let decided = catch_unwind(AssertUnwindSafe(|| self.cluster.decide(now, command)));
        match decided.map_err(|_| EngineError::Fault)? {
            Err(Denied::UnknownAllocation(id)) if self.refusals.contains(id) => Err(EngineError::NothingHeld(id)),
            decision => Ok(decision?),
        }
    }

    fn carry_out(&mut self, now: Timestamp, decision: Decision) -> Outcome {
        let Decision { events, outcome } = decision;
        let mut left = BTreeSet::new();
        for event in events {
            // Before the event is applied: with it the record may be gone.
            let job = if J::IS_DURABLE { self.job_of(&event) } else { None };
            self.waiting.is_due |= event.may_help_claims();
            if let Event::AgentLeft { agent, .. } = &event {
                left.insert(agent.clone());
            }
            let recorded = Recorded { at: now, event };
            self.cluster.apply(&recorded);
            self.note(Entry { recorded, job });
        }
        self.hand_over();
        self.end_claims_of(&left);
        outcome
    }

    /// The job that an event concerns, if it concerns one.
    fn job_of(&self, event: &Event) -> Option<JobId> {
        match event {
            Event::Reserved { reservation } => Some(reservation.job.clone()),
            Event::Activated { allocation }
            | Event::ActivationFailed { allocation, .. }
            | Event::Renewed { allocation, .. }
            | Event::Releasing { allocation, .. }
            | Event::Released { allocation } => self.cluster.job_of(*allocation).cloned(),
            Event::TaskSubmitted { task } => task.request.job.clone(),
            Event::TaskLeased { task, .. }
            | Event::TaskReturned { task }
            | Event::AttemptEnded { task, .. }
            | Event::TaskCancelled { task }
            | Event::TaskUpdated { task, .. } => self.cluster.job_of_task(task).cloned(),
            Event::TokenBudgetSet { job, .. } => job.clone(),
            Event::CapacitySet { .. }
            | Event::LimitsSet { .. }
            | Event::OutageNoted { .. }
            | Event::HistoryTrimmed { .. }
            | Event::FleetSettingsSet { .. }
            | Event::AgentRegistered { .. }
            | Event::AgentLeft { .. }
            | Event::TokenBudgetRefilled { .. }
            | Event::AgentQuotaSet { .. }
            | Event::DemandCounted { .. }
            | Event::ScalingPolicySet { .. }
            | Event::ScalingNoted { .. } => None,
        }
    }

    fn take(&mut self, now: Timestamp, message: Message) {
        match message {
            Message::Request { request, cancel_handle, reply } => {
                self.take_request(now, request, cancel_handle, reply, None);
            }
            Message::Release { allocation, reply } => {
                match self.release(now, allocation, EndReason::Requested).transpose() {
                    Some(answer) => self.answer(reply, answer),
                    None => self.await_end(allocation, reply),
                }
            }
            Message::Cancel { cancel_handle } => {
                self.waiting.cancel(&cancel_handle);
                self.real.cancel(&cancel_handle);
                if let Some(grants) = self.cancelled(&cancel_handle) {
                    self.undo(now, &grants);
                    self.note_unwanted(grants);
                }
            }
            Message::Renew { allocation, ttl_seconds, fencing_token, reply } => {
                let command = Command::Renew { allocation, ttl_seconds, fencing_token };
                let renewed = self.execute(now, &command);
                let answer = renewed.and_then(|_| self.view(now, allocation));
                self.answer(reply, answer);
            }
            Message::Sweep { reply } => {
                let answer = self.sweep(now);
                self.answer(reply, answer);
            }
            Message::TrimHistory => {
                // Forgetting old records is never refused.
                let _ = self.execute(now, &Command::TrimHistory { older_than: self.history_age });
            }
            Message::Capacity { reply } => {
                let answer = Reading { at: now, value: self.cluster.capacity(now) };
                self.answer(reply, answer);
            }
            Message::Allocation { allocation, reply } => {
                let live = self.cluster.allocation(now, allocation).map(|view| Record::Allocation(Box::new(view)));
                let record =
                    live.or_else(|| self.refusals.find(allocation).cloned().map(|r| Record::Refusal(Box::new(r))));
                self.answer(reply, record.map(|value| Reading { at: now, value }));
            }
            Message::List { listing, reply } => {
                let answer = self.list(now, &listing);
                self.answer(reply, answer);
            }
            Message::Fleet(message) => self.take_fleet(now, message),
            Message::Planned(message) => self.take_planned(now, message),
            Message::Real(message) => self.take_real(now, message),
        }
    }

    /// What nobody wants any more. A grant that a repeat of the request was answered with is that caller's.
    fn cancelled(&self, cancel_handle: &CancelHandle) -> Option<Grants> {
        let grants = cancel_handle.granted()?;
        let is_repeated = matches!(grants, Grants::Allocation(allocation) if self.repeated.contains(allocation));
        (!is_repeated).then(|| grants.clone())
    }

    /// Takes back what nobody wants.
    fn undo(&mut self, now: Timestamp, grants: &Grants) {
        // What has ended or gone on meanwhile needs no taking back, and a refusal says just that.
        match grants {
            Grants::Allocation(allocation) => {
                let _ = self.release(now, *allocation, EndReason::Cancelled);
            }
            Grants::Submitted(task) => self.take_back_task(now, task),
            Grants::Claimed(leases) => self.return_tasks(now, leases),
        }
    }

    fn view(&self, now: Timestamp, allocation: AllocationId) -> Result<AllocationView, EngineError> {
        self.cluster.allocation(now, allocation).ok_or(EngineError::Denied(Denied::UnknownAllocation(allocation)))
    }

    /// A random number whose id neither the books nor the refusals have.
    fn unused_draw(&mut self) -> u64 {
        loop {
            let draw = self.draw();
            let id = AllocationId::from_draw(draw);
            if !self.refusals.contains(id) && !self.cluster.contains(id) {
                return draw;
            }
        }
    }

    /// A random number: a keyed hash of a count, with a key from the system. Nobody can guess the next one, and asking the
    /// system itself each time costs more than deciding on a request.
    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.draws.hash_one(self.drawn)
    }

    /// Takes a lease back; nothing, if that is over only once what really stands behind it is gone.
    fn release(
        &mut self,
        now: Timestamp,
        allocation: AllocationId,
        reason: EndReason,
    ) -> Result<Option<Released>, EngineError> {
        match self.execute(now, &Command::Release { allocation, reason })? {
            Outcome::Released(release) => {
                log_end(&release);
                Ok(Some(Released::Now(release)))
            }
            Outcome::AlreadyReleased { allocation, released_at } => {
                Ok(Some(Released::Before { allocation, released_at }))
            }
            Outcome::Releasing { .. } => Ok(None),
            _ => Err(EngineError::Fault),
        }
    }

    fn sweep(&mut self, now: Timestamp) -> Result<(Vec<AllocationId>, bool), EngineError> {
        match self.execute(now, &Command::Sweep { leases_max: SWEEP_LEASES_MAX })? {
            Outcome::Swept { expired, more } => {
                expired.iter().for_each(log_end);
                Ok((expired.into_iter().map(|release| release.allocation).collect(), more))
            }
            _ => Err(EngineError::Fault),
        }
    }

    fn list(&self, now: Timestamp, listing: &Listing) -> Page {
        let Listing { filter, after, limit } = listing;
        let after_grant = FencingToken::new(after.grant);
        let mut allocations = self.cluster.list(now, filter, after_grant).peekable();
        let mut refusals = self.refusals.list(filter, *after).peekable();
        let mut entries: Vec<Record> = Vec::new();
        let mut place = *after;
        while entries.len() < *limit {
            let next_grant = allocations.peek().map(|view| view.allocation.reservation.fencing_token.as_u64());
            let refusal_first = match (next_grant, refusals.peek()) {
                (Some(grant), Some(refusal)) => refusal.place.grant < grant,
                (None, Some(_)) => true,
                (_, None) => false,
            };
            let entry = if refusal_first {
                refusals.next().map(|refusal| (refusal.place, Record::Refusal(Box::new(refusal.clone()))))
            } else {
                allocations.next().map(|view| {
                    let grant = view.allocation.reservation.fencing_token.as_u64();
                    (Place { grant, refusal: 0 }, Record::Allocation(Box::new(view)))
                })
            };
            let Some((at, record)) = entry else { break };
            place = at;
            entries.push(record);
        }
        let more = allocations.peek().is_some() || refusals.peek().is_some();
        let total = self.cluster.count(filter) + self.refusals.list(filter, Place::default()).count() as u64;
        Page { at: now, entries, total, next: more.then_some(place) }
    }
}

fn log_end(release: &Release) {
    let Release { allocation, job, reason, freed, duration, .. } = release;
    let message = match reason {
        EndReason::Requested => "released",
        EndReason::Expired => "expired",
        EndReason::Cancelled => "rolled back: its call was cancelled",
    };
    tracing::info!(
        %job,
        %allocation,
        workers = freed.workers,
        cpu_cores = freed.cpu_millis.as_cores(),
        memory_mb = freed.memory_mb.0,
        duration_seconds = duration.as_seconds(),
        "{message}"
    );
}

#[cfg(test)]
mod tests;
