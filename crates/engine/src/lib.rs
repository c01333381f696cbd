//! The engine: the single writer of the cluster state.
//!
//! It receives messages in the order in which they were sent, reads the clock, decides, applies the events, and commits
//! a batch of them together. No reply and no change notification leaves the engine before its batch is committed.
//! Clients reach the engine through an [`EngineHandle`]; the engine stops when the last handle is dropped.

mod batch;
mod cancel;
pub mod clock;
mod demand;
mod error;
mod fleet;
mod handle;
mod message;
mod outage;
mod outcome_log;
mod provisioning_waits;
mod refusals;
mod requests;
mod start;
mod state;

pub use batch::Change;
pub use cancel::CancelHandle;
pub use error::EngineError;
pub use handle::{EngineHandle, Expired};
pub use message::{Assignment, Claim, Grant, RegisteredAgent, Released, Submitted};
pub use provisioning_waits::ClaimPort;
pub use refusals::{RecordPosition, Refusal};
pub use start::{EngineOptions, StartError, TokenBudget, Totals};
pub use state::{EngineState, Page, Record, TaskDetail};

use batch::Batch;
use cancel::Revocable;
use clock::EngineClock;
use cortex_core::Cluster;
use cortex_core::allocation::EndReason;
use cortex_core::command::{Command, Decision, Denied, Outcome};
use cortex_core::demand::DemandCounter;
use cortex_core::event::{Event, Recorded};
use cortex_core::fleet::command::FleetCommand;
use cortex_core::fleet::replan_triggers::ReplanTriggers;
use cortex_core::ids::{AllocationId, JobId};
use cortex_core::time::{Millis, Timestamp};
use cortex_core::units::WorkerSize;
use cortex_core::view::{AllocationView, RequestCounts};
use cortex_journal::{Journal, JournalEntry, JournalError};
use fleet::WaitingClaims;
use message::{Message, ReadOutcome, SweepBatch};
use outage::Outage;
use provisioning_waits::ProvisioningWaits;
use refusals::Refusals;
use std::collections::{BTreeSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, broadcast, mpsc};

/// The capacity of the message queue. A sender waits while the queue is full.
const MESSAGES_QUEUED_MAX: usize = 1_024;

/// The largest number of messages whose events are committed together.
const BATCH_MESSAGES_MAX: usize = 256;

/// The largest number of leases that one sweep message ends, so that no call waits long behind it.
pub const SWEEP_LEASES_MAX: usize = 500;

/// How many grants that answered a repeated request are remembered, so that cancelling the first request leaves them in
/// place. As many as there can be calls in flight, since a first request can be cancelled only while its call is in
/// flight.
const REPEATS_REMEMBERED_MAX: usize = 65_536;

/// How many changes a slow subscriber may lag behind before it loses the oldest ones.
const CHANGES_QUEUED_MAX: usize = 256;

/// The owner of the cluster state and the journal. [`Engine::run`] serves messages until the engine stops.
pub struct Engine<J> {
    journal: J,
    cluster: Cluster,
    clock: EngineClock,
    worker_size: WorkerSize,
    history_age: Millis,
    outage_grace: Millis,
    close_within: Duration,
    refusals: Refusals,
    random_key: RandomState,
    random_count: u64,
    requests: RequestCounts,
    /// Demand that is counted and not yet recorded in the cluster.
    demand: DemandCounter,
    /// The replan triggers that were raised at the end of the last turn.
    replan_triggers: ReplanTriggers,
    /// Wakes the planner.
    wake: Arc<Notify>,
    /// The latest grants that answered a repeated request, oldest first.
    repeated: VecDeque<AllocationId>,
    messages: mpsc::Receiver<Message>,
    changes: broadcast::Sender<Arc<Change>>,
    batch: Batch,
    /// Grants whose reply was lost with a failed batch and whose client cannot request them again. The next batch
    /// revokes them.
    undelivered: Vec<Revocable>,
    /// An outage that is not yet recorded by a committed event.
    outage: Option<Outage>,
    waiting_claims: WaitingClaims,
    provisioning_waits: ProvisioningWaits,
}

impl<J: Journal> Engine<J> {
    /// Serves messages until the last handle is dropped, then closes the journal.
    ///
    /// # Errors
    /// Returns [`JournalError`] if a batch could not be committed and the state cannot be reloaded.
    pub async fn run(mut self) -> Result<(), JournalError> {
        let mut batch = Vec::with_capacity(BATCH_MESSAGES_MAX);
        // The first turn does not wait: it records deadlines that passed while no engine ran.
        let mut sleep_max = Some(Duration::ZERO);
        let mut last_turn = None;
        while self.receive(&mut batch, sleep_max).await.is_continue() {
            self.detect_stall(last_turn, sleep_max);
            let now = self.now();
            last_turn = Some(now);
            self.revoke_undelivered(now);
            self.advance_fleet(now);
            self.expire_waiting_requests(now);
            for message in batch.drain(..) {
                self.handle(now, message);
            }
            self.serve_waiting_claims(now);
            self.trigger_replan(now);
            sleep_max = self.sleep_max(now);
            if let Err(error) = self.commit().await {
                self.reload(error).await?;
            }
        }
        let now = self.now();
        self.write_demand(now);
        if !self.undelivered.is_empty() {
            self.revoke_undelivered(now);
        }
        if self.has_uncommitted()
            && let Err(error) = self.commit().await
        {
            self.reload(error).await?;
        }
        self.journal.close(self.cluster, self.close_within).await;
        Ok(())
    }

    /// Receives the next messages into `batch`. Continues with an empty batch after `wait_max`; breaks when the last
    /// handle is dropped.
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

    /// Revokes undelivered grants. They stay listed until a commit, so that a failed batch revokes them again.
    fn revoke_undelivered(&mut self, now: Timestamp) {
        for grants in self.undelivered.clone() {
            self.revoke(now, &grants);
        }
    }

    /// Decides on a command and applies its events immediately, so that the next command of the batch sees their
    /// effect.
    fn execute(&mut self, now: Timestamp, command: &Command) -> Result<Outcome, EngineError> {
        let decision = self.decide(now, command)?;
        Ok(self.carry_out(now, decision))
    }

    fn decide(&self, now: Timestamp, command: &Command) -> Result<Decision, EngineError> {
        // `decide` does not mutate, so the cluster stays consistent if it panics.
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
            // Before the event is applied, since the event may remove the record.
            let job = if J::IS_DURABLE { self.job_of(&event) } else { None };
            self.waiting_claims.is_due |= event.may_help_claims();
            if let Event::AgentLeft { agent, .. } = &event {
                left.insert(agent.clone());
            }
            let recorded = Recorded { at: now, event };
            self.cluster.apply(&recorded);
            self.note(JournalEntry { recorded, job });
        }
        self.append_if_due();
        self.end_claims_of(&left);
        outcome_log::log(&outcome);
        outcome
    }

    /// The job that an event belongs to, if any.
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

    fn handle(&mut self, now: Timestamp, message: Message) {
        match message {
            Message::Read(read) => {
                let answer = read(&self.state(), now);
                self.send_after_commit(answer);
            }
            Message::Execute { command, read } => self.execute_and_read(now, &command, read),
            Message::Request { request, cancel_handle, reply } => {
                self.handle_request(now, request, cancel_handle, reply, None);
            }
            Message::Release { allocation, reply } => {
                match self.release(now, allocation, EndReason::Requested).transpose() {
                    Some(answer) => self.answer(reply, answer),
                    None => self.await_end(allocation, reply),
                }
            }
            Message::Cancel { cancel_handle } => {
                self.waiting_claims.cancel(&cancel_handle);
                self.provisioning_waits.cancel(&cancel_handle);
                if let Some(grants) = self.cancelled(&cancel_handle) {
                    self.revoke(now, &grants);
                    self.note_revocable(grants);
                }
            }
            Message::Sweep { reply } => {
                let answer = self.sweep(now);
                self.answer(reply, answer);
            }
            Message::SampleDemand { reply } => {
                let answer = self.sample_demand(now);
                self.answer(reply, answer);
            }
            Message::Fleet(message) => self.handle_fleet(now, message),
            Message::Provisioning(message) => self.handle_provisioning(now, message),
        }
    }

    fn execute_and_read(&mut self, now: Timestamp, command: &Command, read: ReadOutcome) {
        if let Command::Fleet(FleetCommand::Complete { agent, .. }) = command {
            self.cluster.record_heartbeat(now, agent);
        }
        let outcome = self.execute(now, command);
        let answer = read(outcome, &self.state(), now);
        self.send_after_commit(answer);
    }

    /// What to revoke for a cancelled request. A grant that also answered a repeated request belongs to that caller and
    /// stays.
    fn cancelled(&self, cancel_handle: &CancelHandle) -> Option<Revocable> {
        let grants = cancel_handle.granted()?;
        let is_repeated = matches!(grants, Revocable::Allocation(allocation) if self.repeated.contains(allocation));
        (!is_repeated).then(|| grants.clone())
    }

    /// Revokes what a call led to.
    fn revoke(&mut self, now: Timestamp, grants: &Revocable) {
        // A denial is ignored: it means that there is nothing left to revoke.
        match grants {
            Revocable::Allocation(allocation) => {
                let _ = self.release(now, *allocation, EndReason::Cancelled);
            }
            Revocable::Submitted(task) => self.cancel_untouched_task(now, task),
            Revocable::Claimed(leases) => self.return_tasks(now, leases),
        }
    }

    fn view(&self, now: Timestamp, allocation: AllocationId) -> Result<AllocationView, EngineError> {
        self.cluster.allocation(now, allocation).ok_or(EngineError::Denied(Denied::UnknownAllocation(allocation)))
    }

    /// Returns a random value whose allocation id is unused by both the cluster and the refusals.
    fn unused_random_value(&mut self) -> u64 {
        loop {
            let draw = self.random_value();
            let id = AllocationId::from_bits(draw);
            if !self.refusals.contains(id) && !self.cluster.contains(id) {
                return draw;
            }
        }
    }

    /// Returns a random value: a hash of a counter under a random key from the system. The next value cannot be
    /// guessed, and this is cheaper than reading random bytes from the system for each request.
    fn random_value(&mut self) -> u64 {
        self.random_count += 1;
        self.random_key.hash_one(self.random_count)
    }

    /// Releases a lease. Returns `None` if the release ends only after its servers and workers have stopped.
    fn release(
        &mut self,
        now: Timestamp,
        allocation: AllocationId,
        reason: EndReason,
    ) -> Result<Option<Released>, EngineError> {
        match self.execute(now, &Command::Release { allocation, reason })? {
            Outcome::Released(release) => Ok(Some(Released::Now(release))),
            Outcome::AlreadyReleased { allocation, released_at } => {
                Ok(Some(Released::Before { allocation, released_at }))
            }
            Outcome::Releasing { .. } => Ok(None),
            _ => Err(EngineError::Fault),
        }
    }

    /// Records the expiry of leases past their deadline, and trims records that are too old once none is left.
    fn sweep(&mut self, now: Timestamp) -> Result<SweepBatch, EngineError> {
        let Outcome::Swept { expired, more } = self.execute(now, &Command::Sweep { leases_max: SWEEP_LEASES_MAX })?
        else {
            return Err(EngineError::Fault);
        };
        if !more {
            self.execute(now, &Command::TrimHistory { older_than: self.history_age })?;
        }
        Ok(SweepBatch { expired: expired.into_iter().map(|release| release.allocation).collect(), more })
    }
}

#[cfg(test)]
mod tests;
