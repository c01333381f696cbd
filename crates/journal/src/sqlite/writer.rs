//! The journal's thread, the only writer of the log. It writes one batch at a time.

use super::super::{JournalError, Recovered};
use super::commit_watermark::WatermarkFile;
use super::encoded::{EncodedRow, EncodedRows};
use super::recovery::{Recovery, recover};
use super::rows;
use super::schema::{self, open_to_write};
use super::snapshot_file::Anchor;
use super::snapshotter::{SnapshotFailure, WrittenSnapshot, lower_priority, write_snapshot};
use super::{SqliteOptions, UnusableSnapshot, snapshots};
use cortex_core::Cluster;
use cortex_core::time::Timestamp;
use cortex_core::view::Filter;
use cortex_util::error::with_sources;
use cortex_util::file_id::FileId;
use cortex_util::lock::OwnerLock;
use rusqlite::{Connection, params};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;

/// The largest number of events that one statement prunes, so that a commit never waits long for it.
const PRUNE_ROWS_MAX: i64 = 500;

/// The warning if the commit watermark cannot be written.
const NO_WATERMARK: &str = "commit watermark not written: a damaged end of the log would not be detected";

/// A message to the journal's thread.
pub(super) enum WriterMessage {
    Load(oneshot::Sender<Result<Recovered, JournalError>>),
    /// More rows of the open batch.
    Append(Result<EncodedRows, serde_json::Error>),
    Commit(oneshot::Sender<Result<(), JournalError>>),
    /// The result of the snapshot thread.
    SnapshotDone(Result<WrittenSnapshot, SnapshotFailure>),
    Close(Box<Closing>, oneshot::Sender<()>),
    /// The journal was dropped without a close.
    End,
}

/// What the thread needs to close the journal.
pub(super) struct Closing {
    /// The committed state, for a last snapshot.
    pub(super) cluster: Cluster,
    /// The deadline for the snapshot.
    pub(super) by: Instant,
}

/// The state of the journal's thread.
pub(super) struct Writer {
    options: SqliteOptions,
    /// Held until the thread ends.
    _lock: OwnerLock,
    messages: Receiver<WriterMessage>,
    /// For the snapshot thread.
    own_messages: Sender<WriterMessage>,
    log: Option<Log>,
    /// The end of the log including the open batch, or the error that the commit returns. `None` without a batch.
    batch: Option<Result<Anchor, JournalError>>,
    /// The file that was open before a load that failed.
    file: Option<FileId>,
    /// The last event in the newest snapshot known to be valid.
    base: Option<u64>,
    /// The number of records in the cluster at the last load or snapshot.
    records: u64,
    /// The end of the log when a snapshot was last started, so that a snapshot that fails is not retried at each
    /// commit.
    snapshot_begun: u64,
    snapshotter: Option<JoinHandle<()>>,
    is_ending: Arc<AtomicBool>,
    /// Rows before this sequence number may be pruned once they are old enough; 0 if none.
    prune_before: u64,
}

/// The open log with its end.
struct Log {
    connection: Connection,
    anchor: Anchor,
    /// `None` if it could not be created.
    watermark: Option<WatermarkFile>,
    /// The identity of the open file, to detect that it was removed or replaced.
    file: FileId,
}

impl Writer {
    pub(super) fn new(
        options: SqliteOptions,
        lock: OwnerLock,
        messages: Receiver<WriterMessage>,
        own_messages: Sender<WriterMessage>,
    ) -> Self {
        Self {
            options,
            _lock: lock,
            messages,
            own_messages,
            log: None,
            batch: None,
            file: None,
            base: None,
            records: 0,
            snapshot_begun: 0,
            snapshotter: None,
            is_ending: Arc::default(),
            prune_before: 0,
        }
    }

    /// Processes messages until the journal ends.
    pub(super) fn run(mut self) {
        while let Some(message) = self.next_message() {
            match message {
                WriterMessage::End => break,
                // A send fails only if the caller has gone.
                WriterMessage::Load(reply) => {
                    let recovered = self.load();
                    let _ = reply.send(recovered);
                }
                WriterMessage::Append(rows) => {
                    let batch = self.batch.take().unwrap_or_else(|| self.begin());
                    self.batch = Some(batch.and_then(|end| self.append(end, rows)));
                }
                WriterMessage::Commit(reply) => {
                    let committed = self.batch.take().map_or(Ok(()), |batch| self.commit(batch?));
                    let _ = reply.send(committed);
                    self.snapshot_if_due();
                }
                WriterMessage::SnapshotDone(result) => self.note_snapshot(result),
                WriterMessage::Close(closing, reply) => {
                    self.close(&closing);
                    drop(self);
                    let _ = reply.send(());
                    return;
                }
            }
        }
        self.end_snapshotter();
    }

    /// Waits for the next message. Prunes old events while there is none and no batch is open.
    fn next_message(&mut self) -> Option<WriterMessage> {
        loop {
            match self.messages.try_recv() {
                Ok(message) => return Some(message),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => {}
            }
            if self.batch.is_some() || !self.prune() {
                return self.messages.recv().ok();
            }
        }
    }

    fn load(&mut self) -> Result<Recovered, JournalError> {
        // After a failure the connection may be in any state, so a new one is opened. An open batch is rolled back with
        // the old one.
        self.batch = None;
        let before = self.log.take().map(|log| log.file).or(self.file.take());
        let file = file_at(&self.options.path)?;
        if before.is_some() && before != file {
            self.file = before;
            return Err(self.removed());
        }
        self.prune_before = 0;
        let connection = open_to_write(&self.options.path, self.options.synchronous)?;
        if self.snapshotter.is_none() {
            snapshots::remove_unfinished(&self.options.path)?;
        }
        let began = Instant::now();
        let recovery = recover(&connection, &self.options.path, None)?;
        for UnusableSnapshot(path, fault) in &recovery.faults {
            tracing::warn!(snapshot = %path.display(), %fault, "snapshot unusable: recovering from the one before it");
        }
        let last_at = recovery.last_at();
        let Recovery { cluster, anchor, snapshot, replayed, .. } = recovery;
        tracing::info!(
            state = %self.options.path.display(),
            events = anchor.sequence,
            snapshot = snapshot.unwrap_or(0),
            replayed,
            milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "state loaded"
        );
        self.base = snapshot;
        if let Some(base) = snapshot {
            self.prune_before = self.prunable_before(&connection, &anchor.log_id, base)?;
        }
        self.records = cluster.count(&Filter::default());
        let watermark = WatermarkFile::create(&self.options.path, self.options.synchronous, &anchor);
        let watermark = watermark.map_err(|error| tracing::warn!(%error, "{NO_WATERMARK}")).ok();
        let file = file_at(&self.options.path)?.ok_or_else(|| self.removed())?;
        self.log = Some(Log { connection, anchor, watermark, file });
        Ok(Recovered { cluster, last_at })
    }

    /// The sequence number before which two valid snapshots cover all events, so that recovery does not need them even
    /// if one snapshot is damaged; 0 if none. Checked only if there are events past their retention time: events that
    /// were not pruned before the process ended are pruned after the next start.
    fn prunable_before(&self, connection: &Connection, log_id: &str, base: u64) -> Result<u64, JournalError> {
        let path = &self.options.path;
        let oldest = rows::oldest_at(connection).map_err(|error| schema::classify(path, "read", error))?;
        if oldest.is_none_or(|at| at >= self.kept_since()) {
            return Ok(0);
        }
        Ok(snapshots::newest_whole_before(path, connection, log_id, base)?.unwrap_or(0))
    }

    /// The start of the retention time.
    fn kept_since(&self) -> Timestamp {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::since_1970(now.saturating_sub(self.options.keep_events))
    }

    /// Begins a transaction and returns the end of the log.
    fn begin(&self) -> Result<Anchor, JournalError> {
        let path = &self.options.path;
        let log = self.log.as_ref().ok_or_else(|| self.not_loaded())?;
        if file_at(path)?.as_ref() != Some(&log.file) {
            // Events written to the open file would be lost.
            return Err(self.removed());
        }
        log.connection.execute_batch("BEGIN IMMEDIATE").map_err(|error| schema::classify(path, "written", error))?;
        Ok(log.anchor.clone())
    }

    /// Appends rows to the batch after `end` and returns its new end.
    fn append(&self, end: Anchor, rows: Result<EncodedRows, serde_json::Error>) -> Result<Anchor, JournalError> {
        let log = self.log.as_ref().ok_or_else(|| self.not_loaded())?;
        rows.map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
            .and_then(|rows| append(&log.connection, end, &rows))
            .map_err(|error| schema::classify(&self.options.path, "written", error))
    }

    /// Commits the batch that ends at `end`.
    fn commit(&mut self, end: Anchor) -> Result<(), JournalError> {
        let Some(log) = &mut self.log else { return Err(self.not_loaded()) };
        let written = log.connection.execute_batch("COMMIT");
        written.map_err(|error| schema::classify(&self.options.path, "written", error))?;
        log.anchor = end;
        if let Some(Err(error)) = log.watermark.as_mut().map(|watermark| watermark.write(&log.anchor)) {
            tracing::warn!(%error, "{NO_WATERMARK}");
        }
        Ok(())
    }

    fn not_loaded(&self) -> JournalError {
        JournalError::Damaged { path: self.options.path.clone(), what: "it was not reloaded after an error".to_owned() }
    }

    fn removed(&self) -> JournalError {
        let what = "its file was removed or replaced while it was in use".to_owned();
        JournalError::Damaged { path: self.options.path.clone(), what }
    }

    fn snapshot_if_due(&mut self) {
        let Some(log) = &self.log else { return };
        let since = log.anchor.sequence.saturating_sub(self.base.unwrap_or(0).max(self.snapshot_begun));
        if self.snapshotter.is_some() || since < (self.records / 2).max(self.options.snapshot_events_min) {
            return;
        }
        let (path, until) = (self.options.path.clone(), log.anchor.sequence);
        self.snapshot_begun = until;
        let (own_messages, is_ending) = (self.own_messages.clone(), Arc::clone(&self.is_ending));
        let work = move || {
            lower_priority();
            let result = write_snapshot(&path, until, &is_ending);
            // Fails only if the writer has ended.
            drop(own_messages.send(WriterMessage::SnapshotDone(result)));
        };
        match std::thread::Builder::new().name("snapshot".to_owned()).spawn(work) {
            Ok(thread) => self.snapshotter = Some(thread),
            Err(error) => {
                tracing::warn!(%error, "snapshot thread not started: it is retried later")
            }
        }
    }

    fn note_snapshot(&mut self, result: Result<WrittenSnapshot, SnapshotFailure>) {
        self.end_snapshotter();
        match result {
            Ok(WrittenSnapshot { sequence, made_from, records }) => {
                tracing::debug!(events = sequence, records, "snapshot written");
                // The snapshot that it is based on is valid and was kept, so the events before that one are covered
                // twice.
                self.prune_before = made_from;
                self.base = Some(sequence);
                self.records = records;
            }
            Err(error) => {
                tracing::warn!(reason = with_sources(&error), "snapshot failed: it is retried later");
            }
        }
    }

    /// Prunes a few old events and returns whether there may be more. The last row of the older snapshot is kept, since
    /// it proves that the snapshot belongs to the log.
    fn prune(&mut self) -> bool {
        let kept_since = self.kept_since().as_millis();
        let Some(log) = self.log.as_mut().filter(|_| self.prune_before > 0) else { return false };
        // Only the first rows are checked, since there may be millions that are not old enough.
        let pruned = log.connection.execute(
            "DELETE FROM events WHERE sequence IN
             (SELECT sequence FROM (SELECT sequence, at FROM events WHERE sequence < ?1 ORDER BY sequence LIMIT ?3)
              WHERE at < ?2)",
            params![rows::to_sql(self.prune_before), kept_since, PRUNE_ROWS_MAX],
        );
        let more = match pruned {
            Ok(0) => false,
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(%error, "pruning of old events failed: it is retried after the next snapshot");
                false
            }
        };
        if !more {
            self.prune_before = 0;
        }
        more
    }

    fn close(&mut self, closing: &Closing) {
        self.end_snapshotter();
        let Some(log) = &self.log else { return };
        if log.anchor.sequence == self.base.unwrap_or(0) {
            return;
        }
        let should_continue = || Instant::now() < closing.by;
        match snapshots::add(&self.options.path, &log.anchor, &closing.cluster, self.base, &should_continue) {
            Ok(()) => tracing::debug!(events = log.anchor.sequence, "snapshot written at shutdown"),
            // The next start reads more events instead.
            Err(error) => tracing::debug!(%error, "no snapshot written at shutdown"),
        }
    }

    fn end_snapshotter(&mut self) {
        if let Some(thread) = self.snapshotter.take() {
            if !thread.is_finished() {
                self.is_ending.store(true, Ordering::Relaxed);
            }
            // The thread reports its failures itself.
            let _ = thread.join();
            self.is_ending.store(false, Ordering::Relaxed);
        }
    }
}

/// Returns the identity of the file at a path, or `None` if there is none.
fn file_at(path: &Path) -> Result<Option<FileId>, JournalError> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(FileId::of(&metadata))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(JournalError::System { path: path.to_owned(), action: "accessed", source }),
    }
}

/// Writes rows after `end` and returns the new end of the log. The sequence numbers are explicit, so that this fails if
/// another process has written to the log.
fn append(connection: &Connection, mut end: Anchor, rows: &EncodedRows) -> rusqlite::Result<Anchor> {
    let mut insert = connection
        .prepare_cached("INSERT INTO events (sequence, at, job, event, chain) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for row in rows.iter() {
        let EncodedRow { at, job, text } = row?;
        end.sequence += 1;
        end.at_millis = at.as_millis();
        end.chain = rows::chain(end.chain, end.sequence, at, job, text);
        insert.execute(params![rows::to_sql(end.sequence), end.at_millis, job, text, end.chain])?;
    }
    Ok(end)
}
