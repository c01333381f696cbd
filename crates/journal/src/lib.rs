//! The journal: where the engine's events go, and where its books come from at the start.
//!
//! The engine decides a batch, hands its events over by [`Journal::append`] while it still does, and answers only once
//! [`Journal::commit`] has returned: nobody hears of what a crash could lose. There is no undo. Where a commit fails, or its outcome is unknown, the engine loads
//! the books again: what the journal has is true.
//!
//! Two kinds: [`NullJournal`] keeps nothing, [`SqliteJournal`] keeps all in a file.

mod null;
mod sqlite;

pub use null::NullJournal;
pub use sqlite::{
    Anchor, EventRow, EventRows, Recovery, SCHEMA_VERSION, SNAPSHOT_EVENTS_MIN, SqliteJournal, SqliteOptions,
    Synchronous, UnusableSnapshot, check_end, check_pages, find_snapshots, lock_path, open_to_read, read_snapshot,
    recover,
};

use cortex_core::Cluster;
use cortex_core::event::Recorded;
use cortex_core::ids::JobId;
use cortex_core::image::NotAnImage;
use cortex_core::time::Timestamp;
use cortex_util::lock::LockError;
use cortex_util::program;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// An event on its way into the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What happened, and when.
    pub recorded: Recorded,
    /// The job that it concerns, if it concerns one.
    pub job: Option<JobId>,
}

/// What a journal knows at the start.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The books.
    pub books: Cluster,
    /// When the last event happened; nothing if there was none.
    pub last_at: Option<Timestamp>,
}

/// Where events go. One owner at a time writes to a journal.
pub trait Journal: Send + 'static {
    /// Whether anything outlives the process. If not, entries need no job.
    const IS_DURABLE: bool;

    /// The books as all events so far make them.
    ///
    /// # Errors
    /// [`JournalError`], if they cannot be had; then nothing has changed.
    fn load(&mut self) -> impl Future<Output = Result<Recovered, JournalError>> + Send;

    /// Takes events of the batch that is being decided, in their order, and empties the list. They may be written at once, but
    /// last only once they are committed: the next [`Journal::load`] forgets those that are not. What goes wrong is told by
    /// the commit.
    fn append(&mut self, entries: &mut Vec<Entry>);

    /// Makes what was appended since the last commit lasting, all or none.
    ///
    /// # Errors
    /// [`JournalError`], if that failed or its outcome is unknown. Nothing more is committed then before the next
    /// [`Journal::load`].
    fn commit(&mut self) -> impl Future<Output = Result<(), JournalError>> + Send;

    /// Ends in order, with the books as committed, in no more than this time: what would make the next start faster is
    /// left out if there is none for it.
    fn close(self, books: Cluster, within: Duration) -> impl Future<Output = ()> + Send;
}

/// Why a journal cannot be used, or did not do as asked.
#[derive(Debug, Error)]
pub enum JournalError {
    /// Another process owns it.
    #[error("the state {path} cannot be owned")]
    Owned {
        /// The state's file.
        path: PathBuf,
        /// Who owns it.
        source: LockError,
    },
    /// There is no folder for it.
    #[error("the folder {folder} for the state {path} does not exist: create it, or give another path")]
    NoFolder {
        /// The state's file.
        path: PathBuf,
        /// Its folder.
        folder: PathBuf,
    },
    /// There is nothing to read.
    #[error("there is no state {path}: give the path that the server was started with")]
    NoState {
        /// The state's file.
        path: PathBuf,
    },
    /// The file is there and has nothing in it.
    #[error(
        "the state {path} is empty, as no state ever is: bring back a copy of it, or remove the file to begin anew"
    )]
    Empty {
        /// The state's file.
        path: PathBuf,
    },
    /// The file is gone, and something that was kept beside it is not.
    #[error(
        "the state {path} is gone, but {trace} is there, which belongs to it: bring the file back, \
         or remove that too, and all that begins with the state's name, to begin anew"
    )]
    Gone {
        /// The state's file.
        path: PathBuf,
        /// A snapshot of it, or its write-ahead file.
        trace: PathBuf,
    },
    /// The file is something else.
    #[error("{path} is no state of this program ({what}): give another path")]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: String,
    },
    /// A newer program wrote it.
    #[error(
        "the state {path} has schema version {found}, and this program ({}) reads up to {SCHEMA_VERSION}: \
         use the newer program that wrote it",
        program::VERSION
    )]
    NewerSchema {
        /// The state's file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// What was written is not what is read.
    #[error("the state {path} is damaged: {what}; bring back a copy of it with its snapshots")]
    Damaged {
        /// The state's file.
        path: PathBuf,
        /// Where and how.
        what: String,
    },
    /// The database refused.
    #[error("the state {path} cannot be {doing}")]
    Database {
        /// The state's file.
        path: PathBuf,
        /// What was tried: `opened`, `read` or `written`.
        doing: &'static str,
        /// What the database said.
        source: rusqlite::Error,
    },
    /// The system refused.
    #[error("{path} cannot be {doing}")]
    System {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The thread of the journal is gone: it met a fault of this program.
    #[error("the journal's thread has ended: the log says why")]
    Ended,
}

impl JournalError {
    /// Whether it may go well a moment later. What is damaged or somebody else's stays so.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::Database { .. } | Self::System { .. })
    }
}

impl From<NotAnImage> for SnapshotFault {
    fn from(error: NotAnImage) -> Self {
        Self(error.to_string())
    }
}

/// Why a snapshot cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct SnapshotFault(pub(crate) String);
