//! The journal in an SQLite file: events as rows, snapshots as files beside it.
//!
//! What always holds: one process owns the file (a lock beside it); the rows are numbered without a gap, and each
//! carries a checksum over all before it; a batch is there whole or not at all; whatever [`Journal::commit`] has
//! returned from is there for ever, or until a snapshot covers it and it is old enough to go.
//!
//! SQLite blocks, so it has a thread of its own; the engine's thread serves its clients meanwhile.

mod encoded;
mod mark;
mod recovery;
mod rows;
mod schema;
mod snapshot_file;
mod snapshots;
mod snapshotter;
mod writer;

pub use recovery::{Recovery, check_end, recover};
pub use rows::{EventRow, EventRows};
pub use schema::{SCHEMA_VERSION, Synchronous, check_pages, open_to_read};
pub use snapshot_file::{Anchor, read_snapshot};
pub use snapshots::{UnusableSnapshot, find_snapshots};

use super::{Entry, Journal, JournalError, Recovered};
use cortex_core::Cluster;
use cortex_util::lock::{OwnerLock, OwnerRecord};
use encoded::EncodedRows;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use writer::{Closing, Order, Writer};

/// How a state is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteOptions {
    /// The file.
    pub path: PathBuf,
    /// How hard a commit is.
    pub synchronous: Synchronous,
    /// How long events are kept that no recovery needs.
    pub keep_events: Duration,
    /// How many events there are at least from one snapshot to the next. A large state has more: half as many as it has
    /// records, so that the work of snapshots stays in proportion to that of the log, and a start to that of one snapshot.
    pub snapshot_events_min: u64,
}

/// As many events as a start reads in a fraction of a second.
pub const SNAPSHOT_EVENTS_MIN: u64 = 100_000;

/// The file beside a state whose lock says who owns it.
#[must_use]
pub fn lock_path(state: &Path) -> PathBuf {
    snapshots::beside(state, ".lock")
}

/// The journal in an SQLite file.
#[derive(Debug)]
pub struct SqliteJournal {
    orders: Sender<Order>,
}

impl SqliteJournal {
    /// Takes the state into ownership, for which an owner before it is waited for so long at most. It is looked into, or made, by the first [`Journal::load`].
    ///
    /// # Errors
    /// [`JournalError`], if another process owns it, or its folder cannot be used.
    pub fn open(options: SqliteOptions, owner: &OwnerRecord, patience: Duration) -> Result<Self, JournalError> {
        let path = &options.path;
        schema::check_folder(path)?;
        // Before a lock is left beside something that can be no state.
        schema::check_file(path)?;
        let lock = OwnerLock::acquire(&lock_path(path), owner, patience)
            .map_err(|source| JournalError::Owned { path: path.clone(), source })?;
        let (orders, received) = channel();
        let writer = Writer::new(options.clone(), lock, received, orders.clone());
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run())
            .map_err(|source| JournalError::System { path: options.path, doing: "served by a thread", source })?;
        Ok(Self { orders })
    }

    async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T, JournalError> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(order(reply)).map_err(|_| JournalError::Ended)?;
        answer.await.map_err(|_| JournalError::Ended)
    }
}

impl Drop for SqliteJournal {
    fn drop(&mut self) {
        // A thread that was closed, or ended by a fault, does not listen any more.
        let _ = self.orders.send(Order::End);
    }
}

impl Journal for SqliteJournal {
    const IS_DURABLE: bool = true;

    async fn load(&mut self) -> Result<Recovered, JournalError> {
        self.ask(Order::Load).await?
    }

    fn append(&mut self, entries: &mut Vec<Entry>) {
        // A thread that has ended is noticed by the commit.
        let _ = self.orders.send(Order::Append(EncodedRows::of(entries.drain(..))));
    }

    async fn commit(&mut self) -> Result<(), JournalError> {
        self.ask(Order::Commit).await?
    }

    async fn close(self, books: Cluster, within: Duration) {
        let by = Instant::now() + within;
        let closing = Box::new(Closing { books, by });
        // A thread that has ended has nothing left to close.
        let _ = self.ask(|reply| Order::Close(closing, reply)).await;
    }
}
