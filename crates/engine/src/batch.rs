//! The batch: events that are decided together are committed together, and the replies are sent after the commit. If a
//! commit fails, the engine reloads its state from the journal.

use super::Engine;
use super::cancel::Revocable;
use super::message::{Answer, Message};
use cortex_core::event::Event;
use cortex_core::ids::AllocationId;
use cortex_journal::{Journal, JournalEntry, JournalError};
use cortex_util::error::with_sources;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How many events collect before they are appended while the engine still decides. The first events of a batch are
/// appended immediately, so that the journal's thread is awake when the rest arrives.
const APPEND_EVENTS_MIN: usize = 32;

/// How many times the engine tries to reload the state after a failed commit.
pub(super) const RELOADS_MAX: u32 = 60;

/// The pause between two tries. With the time that each try takes they last over a minute, since another process may
/// lock the file that long.
const RELOAD_WAIT: Duration = Duration::from_millis(500);

/// What a committed batch changed of the resources that clients watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whether the capacity or its use changed.
    pub capacity: bool,
    /// The allocations that changed.
    pub allocations: BTreeSet<AllocationId>,
}

/// The events that are applied and not yet committed, with the replies that wait for the commit.
#[derive(Default)]
pub(super) struct Batch {
    /// Events that are not yet appended to the journal.
    entries: Vec<JournalEntry>,
    /// Whether the journal already has events of this batch.
    is_appended: bool,
    /// The change to publish. Collected only while there are subscribers.
    change: Option<Change>,
    /// What to revoke if the commit fails, since no client can request it again: grants without a request id, tasks
    /// without a task id from the client, claims, and what was cancelled.
    revocable: Vec<Revocable>,
    /// Sends the replies. Runs after the commit.
    answers: Vec<Answer>,
}

impl<J: Journal> Engine<J> {
    /// Adds an applied event to the batch.
    pub(super) fn note(&mut self, entry: JournalEntry) {
        if self.changes.receiver_count() > 0 {
            record_change(&mut self.batch.change, &entry.recorded.event);
        }
        self.batch.entries.push(entry);
    }

    /// Appends the collected events to the journal if there are enough, so that it can start to write them.
    pub(super) fn append_if_due(&mut self) {
        let due = if self.batch.is_appended { APPEND_EVENTS_MIN } else { 1 };
        if self.batch.entries.len() >= due {
            self.append_all();
        }
    }

    fn append_all(&mut self) {
        self.journal.append(&mut self.batch.entries);
        self.batch.is_appended = true;
    }

    /// Whether there are events that are not committed.
    pub(super) fn has_uncommitted(&self) -> bool {
        self.batch.is_appended || !self.batch.entries.is_empty()
    }

    /// Sends a reply after the batch is committed.
    pub(super) fn answer<T: Send + 'static>(&mut self, reply: oneshot::Sender<T>, answer: T) {
        // The send fails only if the caller has gone.
        self.send_after_commit(Box::new(move || drop(reply.send(answer))));
    }

    /// Runs an answer after the batch is committed.
    pub(super) fn send_after_commit(&mut self, answer: Answer) {
        self.batch.answers.push(answer);
    }

    /// Notes what to revoke if the commit of this batch fails.
    pub(super) fn note_revocable(&mut self, grants: Revocable) {
        self.batch.revocable.push(grants);
    }

    /// Commits the batch, then sends the replies and publishes the change. A batch without events needs no commit.
    pub(super) async fn commit(&mut self) -> Result<(), JournalError> {
        if !self.batch.entries.is_empty() {
            self.append_all();
        }
        if self.batch.is_appended {
            self.journal.commit().await?;
            self.batch.is_appended = false;
        }
        self.batch.revocable.clear();
        self.undelivered.clear();
        self.outage = None;
        self.refusals.commit();
        self.demand.commit();
        for answer in self.batch.answers.drain(..) {
            answer();
        }
        self.publish_change();
        Ok(())
    }

    fn publish_change(&mut self) {
        if let Some(change) = self.batch.change.take() {
            // The send fails only if there is no subscriber.
            let _ = self.changes.send(Arc::new(change));
        }
    }

    /// Reloads the state from the journal after a commit that failed or whose outcome is unknown. The replies of the
    /// batch are dropped, and what no client can request again is revoked by the next batch.
    pub(super) async fn reload(&mut self, error: JournalError) -> Result<(), JournalError> {
        tracing::error!(
            error = with_sources(&error),
            callers = self.batch.answers.len(),
            "commit failed: the callers have to retry, and the state is reloaded"
        );
        // A dropped reply reaches its caller as `NotCommitted`.
        self.batch.answers.clear();
        self.batch.entries.clear();
        self.batch.is_appended = false;
        // Their positions refer to grants that may be gone, and their callers never received them.
        self.refusals.rollback();
        let mut tries = 1;
        let recovered = loop {
            match self.journal.load().await {
                Ok(recovered) => break recovered,
                Err(error) if tries < RELOADS_MAX && error.is_transient() => {
                    tracing::error!(error = with_sources(&error), tries, "reload of the state failed: trying again");
                    tries += 1;
                    tokio::time::sleep(RELOAD_WAIT).await;
                    self.reject_queued();
                }
                Err(error) => return Err(error),
            }
        };
        // Demand whose event was not written is recorded again.
        if recovered.cluster.demand_bins(None).eq(self.cluster.demand_bins(None)) {
            self.demand.commit();
        } else {
            self.demand.rollback();
        }
        self.cluster = recovered.cluster;
        self.apply_provisioning();
        // No caller can request these again.
        let unrecoverable = self.provisioning_waits.drop_waiting();
        self.batch.revocable.extend(unrecoverable);
        // Heartbeats are not in the journal.
        let now = self.read_clock();
        self.cluster.presume_alive(now);
        // Those of an earlier batch stay listed: their revocation was not committed either.
        self.undelivered.append(&mut self.batch.revocable);
        self.undelivered.retain(|grants| match grants {
            Revocable::Allocation(allocation) => self.cluster.contains(*allocation),
            Revocable::Submitted(_) | Revocable::Claimed(_) => true,
        });
        // The events may have been written after all, so the subscribers read the state again.
        self.publish_change();
        Ok(())
    }

    /// Drops the messages that arrive while there is no state; each caller gets `NotCommitted` instead of waiting.
    /// Cancellations are still noted, since nobody would send them again.
    fn reject_queued(&mut self) {
        while let Ok(message) = self.messages.try_recv() {
            if let Message::Cancel { cancel_handle } = message {
                self.waiting_claims.cancel(&cancel_handle);
                self.provisioning_waits.cancel(&cancel_handle);
                let cancelled = self.cancelled(&cancel_handle);
                self.batch.revocable.extend(cancelled);
            }
        }
    }
}

/// Adds to `change` what an event changes of the resources that clients watch.
fn record_change(change: &mut Option<Change>, event: &Event) {
    let (capacity, allocation) = match event {
        Event::CapacitySet { .. } => (true, None),
        Event::Reserved { reservation } => (true, Some(reservation.allocation)),
        Event::Activated { allocation } | Event::Renewed { allocation, .. } | Event::Releasing { allocation, .. } => {
            (false, Some(*allocation))
        }
        Event::ActivationFailed { allocation, .. } | Event::Released { allocation } => (true, Some(*allocation)),
        // An agent may take a worker slot.
        Event::AgentRegistered { .. } | Event::AgentLeft { .. } => (true, None),
        Event::LimitsSet { .. }
        | Event::OutageNoted { .. }
        | Event::HistoryTrimmed { .. }
        | Event::FleetSettingsSet { .. }
        | Event::TaskSubmitted { .. }
        | Event::TaskLeased { .. }
        | Event::TaskReturned { .. }
        | Event::AttemptEnded { .. }
        | Event::TaskCancelled { .. }
        | Event::TaskUpdated { .. }
        | Event::TokenBudgetSet { .. }
        | Event::TokenBudgetRefilled { .. }
        | Event::AgentQuotaSet { .. }
        | Event::DemandCounted { .. }
        | Event::ScalingPolicySet { .. }
        | Event::ScalingNoted { .. } => return,
    };
    let change = change.get_or_insert_with(|| Change { capacity: false, allocations: BTreeSet::new() });
    change.capacity |= capacity;
    change.allocations.extend(allocation);
}
