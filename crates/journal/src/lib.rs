//! The journal: it persists the engine's events and recovers the cluster state from them.
//!
//! While the engine decides a batch it passes the events to [`Journal::append`], and it sends replies only after
//! [`Journal::commit`] has returned, so that a crash loses nothing that was acknowledged. There is no undo: if a commit
//! fails, or its outcome is unknown, the engine reloads the cluster, and the journal is authoritative.
//!
//! There are two kinds: [`NullJournal`] keeps nothing, [`SqliteJournal`] keeps everything in a file.

mod null;
mod sqlite;

pub use null::NullJournal;
pub use sqlite::{
    Anchor, EventError, EventRow, EventRows, Recovery, SCHEMA_VERSION, SNAPSHOT_EVENTS_MIN, SnapshotError,
    SqliteJournal, SqliteOptions, Synchronous, UnusableSnapshot, check_end, check_pages, find_snapshots, lock_path,
    open_to_read, read_snapshot, recover,
};

use cortex_core::Cluster;
use cortex_core::event::Recorded;
use cortex_core::ids::JobId;
use cortex_core::time::Timestamp;
use cortex_util::lock::LockError;
use cortex_util::program;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// An event to be written to the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    pub recorded: Recorded,
    /// The job that the event belongs to, if any. Used to filter the log.
    pub job: Option<JobId>,
}

/// The state that a journal recovered.
#[derive(Debug, Default)]
pub struct Recovered {
    pub cluster: Cluster,
    /// The time of the last event; `None` in an empty log.
    pub last_at: Option<Timestamp>,
}

/// A store of events. One owner at a time writes to it.
pub trait Journal: Send + 'static {
    /// Whether events outlive the process. If not, entries need no job.
    const IS_DURABLE: bool;

    /// Recovers the cluster from all committed events.
    ///
    /// # Errors
    /// Returns [`JournalError`] if the events cannot be read. The journal is unchanged then.
    fn load(&mut self) -> impl Future<Output = Result<Recovered, JournalError>> + Send;

    /// Appends events to the open batch, in order, and empties the list. They may be written immediately but are
    /// durable only after the commit: the next [`Journal::load`] discards those that are not committed. The commit
    /// reports errors.
    fn append(&mut self, entries: &mut Vec<JournalEntry>);

    /// Commits the events that were appended since the last commit, all or none.
    ///
    /// # Errors
    /// Returns [`JournalError`] if the commit failed or its outcome is unknown. All further commits fail then until the
    /// next [`Journal::load`].
    fn commit(&mut self) -> impl Future<Output = Result<(), JournalError>> + Send;

    /// Closes the journal within a time limit. `cluster` is the committed state; a journal may write a snapshot of it,
    /// to make the next start faster, and skips that if there is no time.
    fn close(self, cluster: Cluster, within: Duration) -> impl Future<Output = ()> + Send;
}

/// Why a journal cannot be used, or why an operation failed. Operators see these texts.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The state file is locked.
    #[error("the state file {path} cannot be locked")]
    Owned { path: PathBuf, source: LockError },
    /// The folder of the state file does not exist. It is not created, since the path may be mistyped.
    #[error("the folder {folder} of the state file {path} does not exist: create it, or give another path")]
    NoFolder { path: PathBuf, folder: PathBuf },
    /// There is no state file to read.
    #[error("there is no state file {path}: give the path that the server was started with")]
    NoState { path: PathBuf },
    /// The state file has no content. This program never leaves an empty one.
    #[error("the state file {path} is empty: restore a backup, or delete the file to start with an empty state")]
    Empty { path: PathBuf },
    /// The state file is missing, but one of its accompanying files exists: a snapshot, the write-ahead log or the
    /// commit watermark.
    #[error(
        "the state file {path} is missing, but its file {leftover} exists: restore the state file, \
         or delete every file whose name starts with {path} to start with an empty state"
    )]
    Missing { path: PathBuf, leftover: PathBuf },
    /// The file is not a state file.
    #[error("{path} is not a state file of this program ({what}): give another path")]
    NotAState { path: PathBuf, what: String },
    /// A newer program wrote the state file.
    #[error(
        "the state file {path} has schema version {found}, and this program ({}) reads up to {SCHEMA_VERSION}: \
         use the newer program that wrote it",
        program::VERSION
    )]
    NewerSchema { path: PathBuf, found: i64 },
    /// The content of the state file is not what was written.
    #[error("the state file {path} is damaged: {what}; restore a backup of it together with its snapshots")]
    Damaged { path: PathBuf, what: String },
    /// SQLite returned an error. `action` is a participle, such as `read`.
    #[error("the state file {path} cannot be {action}")]
    Database { path: PathBuf, action: &'static str, source: rusqlite::Error },
    /// The operating system returned an error. `action` is a participle, such as `read`.
    #[error("{path} cannot be {action}")]
    System { path: PathBuf, action: &'static str, source: std::io::Error },
    /// The journal's thread panicked, which is a bug.
    #[error("internal error: the journal's thread has ended; see the log for the cause")]
    Ended,
}

impl JournalError {
    /// Whether a retry may succeed. Damage and ownership by another process do not go away.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Database { .. } | Self::System { .. })
    }
}
