//! A state in its own temporary folder.

use cortex_core::Cluster;
use cortex_core::event::{Event, Recorded};
use cortex_journal::{
    Journal, JournalEntry, JournalError, Recovery, SqliteJournal, SqliteOptions, Synchronous, find_snapshots,
    open_to_read, recover,
};
use cortex_test_support::history::History;
use cortex_util::lock::{LOCK_WAIT_MAX, OwnerRecord};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// The number of events between two snapshots: few, so that the tests are fast.
pub(crate) const SNAPSHOT_EVENTS: usize = 2_000;

/// Enough time for a snapshot at the close.
pub(crate) const CLOSE_WITHIN: Duration = Duration::from_secs(30);

pub(crate) struct State {
    pub(crate) options: SqliteOptions,
    _folder: TempDir,
}

impl State {
    /// A state that does not exist yet and never prunes events.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let options = SqliteOptions {
            path: folder.path().join("state.db"),
            synchronous: Synchronous::Normal,
            keep_events: Duration::MAX,
            snapshot_events_min: SNAPSHOT_EVENTS as u64,
        };
        Self { options, _folder: folder }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.options.path
    }

    /// The path of the state with a suffix.
    pub(crate) fn with_suffix(&self, suffix: &str) -> PathBuf {
        let mut name = self.path().as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    }

    pub(crate) fn open(&self) -> SqliteJournal {
        self.try_open().expect("a state without an owner")
    }

    fn try_open(&self) -> Result<SqliteJournal, JournalError> {
        SqliteJournal::open(self.options.clone(), &OwnerRecord::of_this_process(), LOCK_WAIT_MAX)
    }

    /// Commits events and closes the journal, which writes a snapshot.
    pub(crate) async fn run_and_close(&self, history: &mut History, events: usize) {
        let events = history.events(events);
        let mut journal = self.open();
        journal.load().await.expect("a good state");
        commit(&mut journal, &events).await;
        journal.close(history.cluster.clone(), CLOSE_WITHIN).await;
    }

    /// Commits events and drops the journal, as a crash does.
    pub(crate) async fn run_and_crash(&self, history: &mut History, events: usize) {
        let events = history.events(events);
        let mut journal = self.open();
        journal.load().await.expect("a good state");
        commit(&mut journal, &events).await;
    }

    /// Loads the state as a start does.
    pub(crate) async fn load(&self) -> Result<Cluster, JournalError> {
        self.try_open()?.load().await.map(|recovered| recovered.cluster)
    }

    /// Recovers the state as a reader.
    pub(crate) fn read(&self, until: Option<u64>) -> Result<Recovery, JournalError> {
        recover(&open_to_read(self.path())?, self.path(), until)
    }

    /// The sequence numbers of the snapshots.
    pub(crate) fn snapshots(&self) -> Vec<u64> {
        find_snapshots(self.path()).expect("a folder").into_iter().map(|(sequence, _)| sequence).collect()
    }

    pub(crate) fn snapshot_path(&self, sequence: u64) -> PathBuf {
        self.with_suffix(&format!(".snapshot-{sequence:020}"))
    }

    /// A connection of another process.
    pub(crate) fn foreign_connection(&self) -> Connection {
        Connection::open(self.path()).expect("a database")
    }

    /// The sequence numbers of the first and the last event.
    pub(crate) fn ends(&self) -> (u64, u64) {
        let select = "SELECT min(sequence), max(sequence) FROM events";
        let ends: (i64, i64) =
            self.foreign_connection().query_row(select, [], |row| Ok((row.get(0)?, row.get(1)?))).expect("events");
        (ends.0.cast_unsigned(), ends.1.cast_unsigned())
    }
}

pub(crate) async fn commit(journal: &mut impl Journal, events: &[Recorded]) {
    for batch in events.chunks(256) {
        let mut entries = batch.iter().cloned().map(entry).collect();
        journal.append(&mut entries);
        assert!(entries.is_empty());
        journal.commit().await.expect("a journal that can be written to");
    }
}

/// The journal entry of an event.
pub(crate) fn entry(recorded: Recorded) -> JournalEntry {
    let job = match &recorded.event {
        Event::Reserved { reservation } => Some(reservation.job.clone()),
        _ => None,
    };
    JournalEntry { recorded, job }
}
