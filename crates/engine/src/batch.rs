//! The batch: what is decided together is committed together, and only then told; and how the engine starts over if that
//! fails.

use super::message::Message;
use super::{Change, Engine, Grants};
use cortex_core::event::Event;
use cortex_journal::{Entry, Journal, JournalError};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How many events the journal is handed at once while the engine decides on. The first of a batch go at once, so that a
/// thread that sleeps is awake when the rest comes.
const EVENTS_HANDED_OVER: usize = 32;

/// How often loading the books again is tried after a batch could not be committed.
pub(super) const RELOADS_MAX: u32 = 60;

/// How long it is waited between two such tries. In all it is over a minute: a stranger may hold the file for that long.
const RELOAD_WAIT: Duration = Duration::from_millis(500);

/// What is decided and applied, and not yet committed.
#[derive(Default)]
pub(super) struct Batch {
    /// Its events that the journal does not have yet.
    entries: Vec<Entry>,
    /// Whether it has others.
    is_handed_over: bool,
    /// What it changed, if anybody listens.
    change: Option<Change>,
    /// What nobody asks for again if the batch fails, and nobody wants: grants without a request id, tasks without an id of
    /// their submitter's, claims, and what was called off.
    unwanted: Vec<Grants>,
    /// Answers that go out once it is committed.
    answers: Vec<Box<dyn FnOnce() + Send>>,
}

impl<J: Journal> Engine<J> {
    /// Takes an event that was applied into the batch.
    pub(super) fn note(&mut self, entry: Entry) {
        if self.changes.receiver_count() > 0 {
            note_change(&mut self.batch.change, &entry.recorded.event);
        }
        self.batch.entries.push(entry);
    }

    /// Lets the journal have what it can begin to write.
    pub(super) fn hand_over(&mut self) {
        let due = if self.batch.is_handed_over { EVENTS_HANDED_OVER } else { 1 };
        if self.batch.entries.len() >= due {
            self.hand_over_all();
        }
    }

    fn hand_over_all(&mut self) {
        self.journal.append(&mut self.batch.entries);
        self.batch.is_handed_over = true;
    }

    /// Whether anything was decided that is not committed.
    pub(super) fn has_uncommitted(&self) -> bool {
        self.batch.is_handed_over || !self.batch.entries.is_empty()
    }

    /// Has something answered once the batch is committed.
    pub(super) fn answer<T: Send + 'static>(&mut self, reply: oneshot::Sender<T>, answer: T) {
        // A caller that has gone does not want the answer.
        self.batch.answers.push(Box::new(move || drop(reply.send(answer))));
    }

    /// Remembers that nobody wants this if the batch fails.
    pub(super) fn note_unwanted(&mut self, grants: Grants) {
        self.batch.unwanted.push(grants);
    }

    /// Makes the batch lasting, and then known. Without events there is nothing to wait for.
    pub(super) async fn commit(&mut self) -> Result<(), JournalError> {
        if !self.batch.entries.is_empty() {
            self.hand_over_all();
        }
        if self.batch.is_handed_over {
            self.journal.commit().await?;
            self.batch.is_handed_over = false;
        }
        self.batch.unwanted.clear();
        self.orphans.clear();
        self.outage = None;
        self.refusals.settle();
        self.demand.settle();
        for answer in self.batch.answers.drain(..) {
            answer();
        }
        self.tell_change();
        Ok(())
    }

    fn tell_change(&mut self) {
        if let Some(change) = self.batch.change.take() {
            // Without a listener there is nobody to miss it.
            let _ = self.changes.send(Arc::new(change));
        }
    }

    /// After a batch that could not be committed, or of which that is not known: nobody is told what it led to, and the
    /// books are what the journal has.
    pub(super) async fn reload(&mut self, error: JournalError) -> Result<(), JournalError> {
        tracing::error!(
            error = chain_of(&error),
            callers = self.batch.answers.len(),
            "a batch was not committed: its callers are to ask again, and the books are loaded anew"
        );
        // Dropped unanswered, they tell their callers so.
        self.batch.answers.clear();
        self.batch.entries.clear();
        self.batch.is_handed_over = false;
        // They stand behind grants that may not be there any more.
        self.refusals.take_back();
        let mut tries = 1;
        let recovered = loop {
            match self.journal.load().await {
                Ok(recovered) => break recovered,
                Err(error) if tries < RELOADS_MAX && error.may_pass() => {
                    tracing::error!(error = chain_of(&error), tries, "the books could not be loaded: trying again");
                    tries += 1;
                    tokio::time::sleep(RELOAD_WAIT).await;
                    self.turn_away();
                }
                Err(error) => return Err(error),
            }
        };
        // What was counted and is not in the books after all is counted again.
        if recovered.books.demand_bins(None).eq(self.cluster.demand_bins(None)) {
            self.demand.settle();
        } else {
            self.demand.take_back();
        }
        self.cluster = recovered.books;
        self.stand();
        // Nobody can ask for these again.
        let turned_away = self.real.turn_away();
        self.batch.unwanted.extend(turned_away);
        // Who was heard of is not in the journal.
        let now = self.read_clock();
        self.cluster.presume_alive(now);
        // Those of an earlier batch are still there: giving them back was not committed either.
        self.orphans.append(&mut self.batch.unwanted);
        self.orphans.retain(|grants| match grants {
            Grants::Allocation(allocation) => self.cluster.contains(*allocation),
            Grants::Submitted(_) | Grants::Claimed(_) => true,
        });
        // It may have happened after all: whoever listens looks again.
        self.tell_change();
        Ok(())
    }

    /// Tells those who ask while there are no books to ask again, rather than to wait: dropped, they hear of it. What is
    /// called off has nobody who would ask again.
    fn turn_away(&mut self) {
        while let Ok(message) = self.messages.try_recv() {
            if let Message::Cancel { cancel_handle } = message {
                self.waiting.cancel(&cancel_handle);
                self.real.cancel(&cancel_handle);
                let cancelled = self.cancelled(&cancel_handle);
                self.batch.unwanted.extend(cancelled);
            }
        }
    }
}

/// An error with what caused it, in one line.
fn chain_of(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |chain, cause| format!("{chain}: {cause}"))
}

/// Adds which things that clients watch an event changed.
fn note_change(change: &mut Option<Change>, event: &Event) {
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
