//! The journal in an SQLite file, the state file: events as rows, snapshots as files next to it.
//!
//! Invariants: one process owns the file, by a lock file next to it; the rows are numbered without a gap, and each has
//! a checksum over itself and all rows before it; a batch is written whole or not at all; a committed event is never
//! lost, and is deleted only after two snapshots cover it and its retention time has passed.
//!
//! SQLite calls block, so they run on a thread of their own and the engine's thread stays free to serve clients.

mod commit_watermark;
mod encoded;
mod recovery;
mod rows;
mod schema;
mod snapshot_file;
mod snapshots;
mod snapshotter;
mod writer;

pub use recovery::{Recovery, check_end, recover};
pub use rows::{EventError, EventRow, EventRows};
pub use schema::{SCHEMA_VERSION, Synchronous, check_pages, open_to_read};
pub use snapshot_file::{Anchor, read_snapshot};
pub use snapshots::{SnapshotError, UnusableSnapshot, find_snapshots};

use super::{Journal, JournalEntry, JournalError, Recovered};
use cortex_core::Cluster;
use cortex_util::lock::{OwnerLock, OwnerRecord};
use encoded::EncodedRows;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use writer::{Closing, Writer, WriterMessage};

/// The settings of a durable state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteOptions {
    /// The state file.
    pub path: PathBuf,
    pub synchronous: Synchronous,
    /// How long events are kept that no recovery needs.
    pub keep_events: Duration,
    /// The smallest number of events between two snapshots. A large state has more: half the number of its records.
    /// That keeps the cost of snapshots proportional to the log, and the cost of a start proportional to one snapshot.
    pub snapshot_events_min: u64,
}

/// The default of [`SqliteOptions::snapshot_events_min`]: a start replays this many events in a fraction of a second.
pub const SNAPSHOT_EVENTS_MIN: u64 = 100_000;

/// The path of the lock file of a state.
#[must_use]
pub fn lock_path(state: &Path) -> PathBuf {
    snapshots::with_suffix(state, ".lock")
}

/// A journal in an SQLite file.
#[derive(Debug)]
pub struct SqliteJournal {
    messages: Sender<WriterMessage>,
}

impl SqliteJournal {
    /// Locks the state, waiting up to `wait_max` for its present owner. The first [`Journal::load`] reads or creates
    /// the file.
    ///
    /// # Errors
    /// Returns [`JournalError`] if another process owns the state, or its folder cannot be used.
    pub fn open(options: SqliteOptions, owner: &OwnerRecord, wait_max: Duration) -> Result<Self, JournalError> {
        let path = &options.path;
        schema::check_folder(path)?;
        // Checked before the lock file is created, so that none is left next to a file that is not a state.
        schema::check_file(path)?;
        let lock = OwnerLock::acquire(&lock_path(path), owner, wait_max)
            .map_err(|source| JournalError::Owned { path: path.clone(), source })?;
        let (messages, received) = channel();
        let writer = Writer::new(options.clone(), lock, received, messages.clone());
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run())
            .map_err(|source| JournalError::System { path: options.path, action: "served by a thread", source })?;
        Ok(Self { messages })
    }

    async fn send<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> WriterMessage) -> Result<T, JournalError> {
        let (reply, answer) = oneshot::channel();
        self.messages.send(message(reply)).map_err(|_| JournalError::Ended)?;
        answer.await.map_err(|_| JournalError::Ended)
    }
}

impl Drop for SqliteJournal {
    fn drop(&mut self) {
        // Fails if the thread was closed or panicked: then there is nothing to end.
        let _ = self.messages.send(WriterMessage::End);
    }
}

impl Journal for SqliteJournal {
    const IS_DURABLE: bool = true;

    async fn load(&mut self) -> Result<Recovered, JournalError> {
        self.send(WriterMessage::Load).await?
    }

    fn append(&mut self, entries: &mut Vec<JournalEntry>) {
        // If the thread has ended, the commit reports it.
        let _ = self.messages.send(WriterMessage::Append(EncodedRows::of(entries.drain(..))));
    }

    async fn commit(&mut self) -> Result<(), JournalError> {
        self.send(WriterMessage::Commit).await?
    }

    async fn close(self, cluster: Cluster, within: Duration) {
        let by = Instant::now() + within;
        let closing = Box::new(Closing { cluster, by });
        // If the thread has ended, there is nothing to close.
        let _ = self.send(|reply| WriterMessage::Close(closing, reply)).await;
    }
}
