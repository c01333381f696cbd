//! Recovery: the newest valid snapshot, and the events after it.

use super::super::JournalError;
use super::commit_watermark::{self, CommitWatermark};
use super::rows::{self, EventError, EventRows};
use super::schema;
use super::snapshot_file::Anchor;
use super::snapshots::{self, Snapshot, UnusableSnapshot};
use cortex_core::Cluster;
use cortex_core::event::Recorded;
use cortex_core::time::Timestamp;
use rusqlite::Connection;
use std::path::Path;
use std::sync::mpsc;

/// The number of events that the reading thread sends at a time to the thread that applies them.
const CHUNK_EVENTS: usize = 1_000;

/// The capacity of the queue between the two threads.
const CHUNKS_QUEUED_MAX: usize = 4;

/// A recovered cluster.
#[derive(Debug)]
pub struct Recovery {
    pub cluster: Cluster,
    /// The position of the last event; sequence number 0 before the first.
    pub anchor: Anchor,
    /// The last event in the snapshot that was used, if any.
    pub snapshot: Option<u64>,
    /// The number of events that were replayed.
    pub replayed: u64,
    /// Newer snapshots that cannot be used, and why.
    pub faults: Vec<UnusableSnapshot>,
}

impl Recovery {
    /// The time of the last event, if any.
    #[must_use]
    pub fn last_at(&self) -> Option<Timestamp> {
        (self.anchor.sequence > 0).then(|| self.anchor.at())
    }
}

/// Recovers the cluster of a log up to the event `until`, or up to the last event.
///
/// # Errors
/// Returns [`JournalError::Damaged`] if snapshots and events together are not enough.
pub fn recover(connection: &Connection, path: &Path, until: Option<u64>) -> Result<Recovery, JournalError> {
    recover_by(replay_in_parallel, connection, path, until.unwrap_or(u64::MAX), &|| true)
}

/// Recovers like [`recover`], but on one thread, which is slower and leaves the other processors free. Fails as soon as
/// `should_continue` returns false.
pub(super) fn recover_in_background(
    connection: &Connection,
    path: &Path,
    until: u64,
    should_continue: &dyn Fn() -> bool,
) -> Result<Recovery, JournalError> {
    recover_by(replay_sequentially, connection, path, until, should_continue)
}

type Replay = fn(EventRows<'_>, u64, &mut Recovery, &dyn Fn() -> bool) -> Result<(), JournalError>;

fn recover_by(
    replay: Replay,
    connection: &Connection,
    path: &Path,
    until: u64,
    should_continue: &dyn Fn() -> bool,
) -> Result<Recovery, JournalError> {
    let classified = |error| schema::classify(path, "read", error);
    let log_id = schema::log_id(connection).map_err(classified)?;
    let first = check_end(connection, path)?.map(|(first, _)| first);
    let (snapshot, faults) = snapshots::newest_good(path, connection, &log_id, until, should_continue)?;
    let (base, mut recovery) = match snapshot {
        Some(Snapshot { anchor, cluster }) => {
            let base = Some(anchor.sequence);
            (base, Recovery { cluster, anchor, snapshot: base, replayed: 0, faults })
        }
        None if first.is_some_and(|first| first > 1) || (first.is_none() && !faults.is_empty()) => {
            return Err(JournalError::Damaged { path: path.to_owned(), what: unrecoverable(first, &faults) });
        }
        None => {
            let chain = rows::chain_start(&log_id);
            let anchor = Anchor { log_id, sequence: 0, chain, at_millis: 0 };
            (None, Recovery { cluster: Cluster::default(), anchor, snapshot: None, replayed: 0, faults })
        }
    };
    let from = base.unwrap_or(0);
    let rows = EventRows::after(connection, path, from, Some(recovery.anchor.chain));
    replay(rows, until, &mut recovery, should_continue)?;
    recovery.replayed = recovery.anchor.sequence - from;
    Ok(recovery)
}

/// Checks that the end of the log is not missing, by the snapshots and the commit watermark. Returns the sequence
/// numbers of its first and last event.
///
/// # Errors
/// Returns [`JournalError::Damaged`] if events are missing at the end: clients hold what was granted in them, and
/// continuing without them would grant it again.
pub fn check_end(connection: &Connection, path: &Path) -> Result<Option<(u64, u64)>, JournalError> {
    let classified = |error| schema::classify(path, "read", error);
    let log_id = schema::log_id(connection).map_err(classified)?;
    // Read before the end of the log, since the owner of the log may append events at the same time.
    let watermark = commit_watermark::read(path).filter(|watermark| watermark.log_id == log_id);
    let snapshots = snapshots::find_snapshots(path)?;
    let ends = rows::ends(connection).map_err(classified)?;
    let last = ends.map_or(0, |(_, last)| last);
    if let Some((further, snapshot)) = snapshots::beyond_log(snapshots, &log_id, last) {
        let what = format!(
            "its log ends at event {last}, and its snapshot {} goes up to event {further}: the events between are \
             missing, as in an older copy of the log (to continue without them, delete that snapshot and {})",
            snapshot.display(),
            commit_watermark::watermark_path(path).display()
        );
        return Err(JournalError::Damaged { path: path.to_owned(), what });
    }
    if let Some(watermark) = watermark {
        check_watermark(connection, path, &watermark, last)?;
    }
    Ok(ends)
}

/// Checks that the log has the event of its watermark.
fn check_watermark(
    connection: &Connection,
    path: &Path,
    watermark: &CommitWatermark,
    last: u64,
) -> Result<(), JournalError> {
    let damaged = |what| Err(JournalError::Damaged { path: path.to_owned(), what });
    if watermark.sequence > last && watermark.may_exceed_log() {
        tracing::warn!(
            events = last,
            lost = watermark.sequence - last,
            "last events lost in a power failure or crash of the machine, which --durability normal permits"
        );
    } else if watermark.sequence > last {
        return damaged(format!(
            "its log ends at event {last}, but event {} was committed: the events between are missing, as with a \
             damaged write-ahead log or an older copy of the log (to continue without them, delete {} and the \
             snapshots after event {last})",
            watermark.sequence,
            commit_watermark::watermark_path(path).display()
        ));
    } else {
        let chain =
            rows::chain_at(connection, watermark.sequence).map_err(|error| schema::classify(path, "read", error))?;
        if chain.is_some_and(|chain| chain != watermark.chain) {
            return damaged(format!(
                "its event {} is not the one that was committed: the log is another copy \
                 (to continue with it, delete {})",
                watermark.sequence,
                commit_watermark::watermark_path(path).display()
            ));
        }
    }
    Ok(())
}

fn unrecoverable(first: Option<u64>, faults: &[UnusableSnapshot]) -> String {
    let events = match first {
        Some(first) => format!("the events before {first} were pruned"),
        None => "its events are missing".to_owned(),
    };
    let snapshots = match faults.split_first() {
        None => "there is no snapshot to start from".to_owned(),
        Some((first, more)) => more.iter().fold(first.to_string(), |all, fault| format!("{all}; {fault}")),
    };
    format!("{events}, and {snapshots}")
}

/// An event with its sequence number and the checksum up to it.
type ReadEvent = (u64, u32, Recorded);

/// Replays rows with two threads: one reads and checks them, the other applies them, which halves the time.
fn replay_in_parallel(
    rows: EventRows<'_>,
    until: u64,
    recovery: &mut Recovery,
    should_continue: &dyn Fn() -> bool,
) -> Result<(), JournalError> {
    let path = rows.path().to_owned();
    let (sender, chunks) = mpsc::sync_channel(CHUNKS_QUEUED_MAX);
    std::thread::scope(|scope| {
        let applying = scope.spawn(move || chunks.into_iter().try_for_each(|events| apply_all(events, recovery)));
        // The applying thread stops receiving at an event that does not follow.
        let read = read_all(rows, until, should_continue, &mut |events| Ok(sender.send(events).is_ok()));
        drop(sender);
        match applying.join() {
            Ok(Ok(())) => read,
            Ok(Err(error)) => Err(JournalError::Damaged { path, what: error.to_string() }),
            // `rows::apply` catches panics of the cluster, so this is a panic elsewhere.
            Err(_) => Err(JournalError::Damaged { path, what: "it could not be replayed".to_owned() }),
        }
    })
}

/// Replays rows on the calling thread.
fn replay_sequentially(
    rows: EventRows<'_>,
    until: u64,
    recovery: &mut Recovery,
    should_continue: &dyn Fn() -> bool,
) -> Result<(), JournalError> {
    let path = rows.path().to_owned();
    read_all(rows, until, should_continue, &mut |events| match apply_all(events, recovery) {
        Ok(()) => Ok(true),
        Err(error) => Err(JournalError::Damaged { path: path.clone(), what: error.to_string() }),
    })
}

fn apply_all(events: Vec<ReadEvent>, recovery: &mut Recovery) -> Result<(), EventError> {
    let Recovery { cluster, anchor, .. } = recovery;
    for (sequence, chain, recorded) in events {
        rows::apply(cluster, sequence, &recorded)?;
        (anchor.sequence, anchor.chain, anchor.at_millis) = (sequence, chain, recorded.at.as_millis());
    }
    Ok(())
}

/// Reads rows and passes their events to `take`, until it returns false.
fn read_all(
    mut rows: EventRows<'_>,
    until: u64,
    should_continue: &dyn Fn() -> bool,
    take: &mut dyn FnMut(Vec<ReadEvent>) -> Result<bool, JournalError>,
) -> Result<(), JournalError> {
    loop {
        if !should_continue() {
            return Err(snapshots::interrupted(rows.path()));
        }
        let mut events = Vec::with_capacity(CHUNK_EVENTS);
        while events.len() < CHUNK_EVENTS
            && rows.last() < until
            && let Some(row) = rows.next_row()?
        {
            let recorded = row
                .recorded()
                .map_err(|error| JournalError::Damaged { path: rows.path().to_owned(), what: error.to_string() })?;
            events.push((row.sequence, row.chain, recorded));
        }
        if events.is_empty() || !take(events)? {
            return Ok(());
        }
    }
}
