//! The journal's thread: it alone writes to the log, one batch at a time.

use super::super::{JournalError, Recovered};
use super::encoded::{EncodedRow, EncodedRows};
use super::mark::MarkFile;
use super::recovery::{Recovery, recover};
use super::rows;
use super::schema::{self, open_to_write};
use super::snapshot_file::Anchor;
use super::snapshotter::{Snapshotted, give_way, write_snapshot};
use super::{SqliteOptions, UnusableSnapshot, snapshots};
use cortex_core::Cluster;
use cortex_core::time::Timestamp;
use cortex_core::view::Filter;
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

/// How many events are tidied away in one go, so that a commit never waits long for it.
const PRUNED_AT_ONCE: i64 = 500;

/// What is said where the mark cannot be written.
const NO_MARK: &str = "the mark beside the log could not be written: a damaged end of the log would not show";

/// What the thread is asked to do.
pub(super) enum Order {
    Load(oneshot::Sender<Result<Recovered, JournalError>>),
    /// More rows of the batch that is being decided.
    Append(Result<EncodedRows, serde_json::Error>),
    Commit(oneshot::Sender<Result<(), JournalError>>),
    /// From the thread that writes snapshots.
    Snapshotted(Result<Snapshotted, String>),
    Close(Box<Closing>, oneshot::Sender<()>),
    /// Nobody wants anything any more.
    End,
}

/// The end of the journal.
pub(super) struct Closing {
    /// The books as committed, for a snapshot.
    pub(super) books: Cluster,
    /// By when it must be written.
    pub(super) by: Instant,
}

/// The thread's own.
pub(super) struct Writer {
    options: SqliteOptions,
    /// Held until everything is over.
    _lock: OwnerLock,
    orders: Receiver<Order>,
    /// For the thread that writes snapshots.
    own_orders: Sender<Order>,
    log: Option<Log>,
    /// How far the log goes with the rows of the batch that is not committed yet; or why that cannot be.
    batch: Option<Result<Anchor, JournalError>>,
    /// The file that was open, after a load that failed.
    file: Option<FileId>,
    /// The last event in the newest snapshot known to be good.
    base: Option<u64>,
    /// How many records the books had when they were last looked at as a whole.
    records: u64,
    /// How far the log went when a snapshot was last begun, so that one that fails is not begun again at each commit.
    snapshot_begun: u64,
    snapshotter: Option<JoinHandle<()>>,
    is_ending: Arc<AtomicBool>,
    /// Rows before this place may go, if they are old enough.
    prune_before: u64,
}

/// The open log, and how far it goes.
struct Log {
    connection: Connection,
    anchor: Anchor,
    /// Nothing where it cannot be written.
    mark: Option<MarkFile>,
    /// The file that was opened, which may be removed or replaced under its name.
    file: FileId,
}

impl Writer {
    pub(super) fn new(
        options: SqliteOptions,
        lock: OwnerLock,
        orders: Receiver<Order>,
        own_orders: Sender<Order>,
    ) -> Self {
        Self {
            options,
            _lock: lock,
            orders,
            own_orders,
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

    /// Carries out orders until the last one.
    pub(super) fn run(mut self) {
        while let Some(order) = self.next_order() {
            match order {
                Order::End => break,
                // Whoever asked may have gone meanwhile.
                Order::Load(reply) => {
                    let recovered = self.load();
                    let _ = reply.send(recovered);
                }
                Order::Append(rows) => {
                    let batch = self.batch.take().unwrap_or_else(|| self.begin());
                    self.batch = Some(batch.and_then(|end| self.append(end, rows)));
                }
                Order::Commit(reply) => {
                    let committed = self.batch.take().map_or(Ok(()), |batch| self.commit(batch?));
                    let _ = reply.send(committed);
                    self.snapshot_if_due();
                }
                Order::Snapshotted(result) => self.note_snapshot(result),
                Order::Close(closing, reply) => {
                    self.close(&closing);
                    drop(self);
                    let _ = reply.send(());
                    return;
                }
            }
        }
        self.end_snapshotter();
    }

    /// The next order. While none is there, and no batch is open, old events are tidied away.
    fn next_order(&mut self) -> Option<Order> {
        loop {
            match self.orders.try_recv() {
                Ok(order) => return Some(order),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => {}
            }
            if self.batch.is_some() || !self.prune() {
                return self.orders.recv().ok();
            }
        }
    }

    fn load(&mut self) -> Result<Recovered, JournalError> {
        // After a failure the connection may be in any state: a new one sees what is on the disk. What of a batch is not
        // committed goes with the old one.
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
            tracing::warn!(snapshot = %path.display(), %fault, "a snapshot cannot be used: falling back to what is before it");
        }
        let last_at = recovery.last_at();
        let Recovery { books, anchor, snapshot, replayed, .. } = recovery;
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
            self.prune_before = self.covered_twice(&connection, &anchor.log_id, base)?;
        }
        self.records = books.count(&Filter::default());
        let mark = MarkFile::create(&self.options.path, self.options.synchronous, &anchor);
        let mark = mark.map_err(|error| tracing::warn!(%error, "{NO_MARK}")).ok();
        let file = file_at(&self.options.path)?.ok_or_else(|| self.removed())?;
        self.log = Some(Log { connection, anchor, mark, file });
        Ok(Recovered { books, last_at })
    }

    /// Before which place no recovery needs events, whichever snapshot is damaged one day. It is looked for only if there
    /// are events old enough to go: what was not tidied away while the process ran is when the next one starts.
    fn covered_twice(&self, connection: &Connection, log_id: &str, base: u64) -> Result<u64, JournalError> {
        let path = &self.options.path;
        let oldest = rows::oldest_at(connection).map_err(|error| schema::explain(path, "read", error))?;
        if oldest.is_none_or(|at| at >= self.kept_since()) {
            return Ok(0);
        }
        Ok(snapshots::newest_whole_before(path, connection, log_id, base)?.unwrap_or(0))
    }

    /// From when on events are kept.
    fn kept_since(&self) -> Timestamp {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::since_1970(now.saturating_sub(self.options.keep_events))
    }

    /// Begins a batch at the end of the log.
    fn begin(&self) -> Result<Anchor, JournalError> {
        let path = &self.options.path;
        let log = self.log.as_ref().ok_or_else(|| self.not_loaded())?;
        if file_at(path)?.as_ref() != Some(&log.file) {
            // What is written from here on would be found by nobody.
            return Err(self.removed());
        }
        log.connection.execute_batch("BEGIN IMMEDIATE").map_err(|error| schema::explain(path, "written", error))?;
        Ok(log.anchor.clone())
    }

    /// Writes rows of a batch behind `end`, and says where it ends then.
    fn append(&self, end: Anchor, rows: Result<EncodedRows, serde_json::Error>) -> Result<Anchor, JournalError> {
        let log = self.log.as_ref().ok_or_else(|| self.not_loaded())?;
        rows.map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
            .and_then(|rows| append(&log.connection, end, &rows))
            .map_err(|error| schema::explain(&self.options.path, "written", error))
    }

    /// Commits the batch that ends here.
    fn commit(&mut self, end: Anchor) -> Result<(), JournalError> {
        let Some(log) = &mut self.log else { return Err(self.not_loaded()) };
        let written = log.connection.execute_batch("COMMIT");
        written.map_err(|error| schema::explain(&self.options.path, "written", error))?;
        log.anchor = end;
        if let Some(Err(error)) = log.mark.as_mut().map(|mark| mark.write(&log.anchor)) {
            tracing::warn!(%error, "{NO_MARK}");
        }
        Ok(())
    }

    fn not_loaded(&self) -> JournalError {
        JournalError::Damaged { path: self.options.path.clone(), what: "it was not loaded again".to_owned() }
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
        let (own_orders, is_ending) = (self.own_orders.clone(), Arc::clone(&self.is_ending));
        let work = move || {
            give_way();
            let result = write_snapshot(&path, until, &is_ending);
            // Whoever ended meanwhile does not need to know.
            drop(own_orders.send(Order::Snapshotted(result)));
        };
        match std::thread::Builder::new().name("snapshot".to_owned()).spawn(work) {
            Ok(thread) => self.snapshotter = Some(thread),
            Err(error) => {
                tracing::warn!(%error, "no snapshot: its thread could not be started; it is tried again later")
            }
        }
    }

    fn note_snapshot(&mut self, result: Result<Snapshotted, String>) {
        self.end_snapshotter();
        match result {
            Ok(Snapshotted { sequence, made_from, records }) => {
                tracing::debug!(events = sequence, records, "snapshot written");
                // The one that it was made from was good and is still there: what lies before that is not needed,
                // whichever of the two is damaged one day.
                self.prune_before = made_from;
                self.base = Some(sequence);
                self.records = records;
            }
            Err(reason) => tracing::warn!(reason, "no snapshot could be written: it is tried again later"),
        }
    }

    /// Tidies a few old events away, and says whether there may be more. The row at the end of the older snapshot stays:
    /// by it the snapshot is known to belong to the log.
    fn prune(&mut self) -> bool {
        let kept_since = self.kept_since().as_millis();
        let Some(log) = self.log.as_mut().filter(|_| self.prune_before > 0) else { return false };
        // Only the first so many are looked at: those that are young enough to stay may be millions.
        let pruned = log.connection.execute(
            "DELETE FROM events WHERE sequence IN
             (SELECT sequence FROM (SELECT sequence, at FROM events WHERE sequence < ?1 ORDER BY sequence LIMIT ?3)
              WHERE at < ?2)",
            params![rows::signed(self.prune_before), kept_since, PRUNED_AT_ONCE],
        );
        let more = match pruned {
            Ok(0) => false,
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(%error, "old events could not be tidied away: it is tried again after the next snapshot");
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
        let goes_on = || Instant::now() < closing.by;
        match snapshots::add(&self.options.path, &log.anchor, &closing.books, self.base, &goes_on) {
            Ok(()) => tracing::debug!(events = log.anchor.sequence, "snapshot written at the end"),
            // The next start reads more events instead.
            Err(error) => tracing::debug!(%error, "no snapshot was written at the end"),
        }
    }

    fn end_snapshotter(&mut self) {
        if let Some(thread) = self.snapshotter.take() {
            if !thread.is_finished() {
                self.is_ending.store(true, Ordering::Relaxed);
            }
            // It tells of its failures itself.
            let _ = thread.join();
            self.is_ending.store(false, Ordering::Relaxed);
        }
    }
}

/// Which file lies at a path; nothing if none does.
fn file_at(path: &Path) -> Result<Option<FileId>, JournalError> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(FileId::of(&metadata))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(JournalError::System { path: path.to_owned(), doing: "looked at", source }),
    }
}

/// Writes rows behind `end`, and says where the log ends then. The place of a row is given, not chosen by the database: if
/// anybody else had written to the log meanwhile, this fails.
fn append(connection: &Connection, mut end: Anchor, rows: &EncodedRows) -> rusqlite::Result<Anchor> {
    let mut insert = connection
        .prepare_cached("INSERT INTO events (sequence, at, job, event, chain) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for row in rows.iter() {
        let EncodedRow { at, job, text } = row?;
        end.sequence += 1;
        end.at_millis = at.as_millis();
        end.chain = rows::chain(end.chain, end.sequence, at, job, text);
        insert.execute(params![rows::signed(end.sequence), end.at_millis, job, text, end.chain])?;
    }
    Ok(end)
}
