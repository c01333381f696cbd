//! Recovery: the newest good snapshot, and the events after it.

use super::super::JournalError;
use super::mark::{self, Mark};
use super::rows::{self, EventRows};
use super::schema;
use super::snapshot_file::Anchor;
use super::snapshots::{self, Snapshot, UnusableSnapshot};
use cortex_core::Cluster;
use cortex_core::event::Recorded;
use cortex_core::time::Timestamp;
use rusqlite::Connection;
use std::path::Path;
use std::sync::mpsc;

/// How many events are handed over at once from where they are read to where they are applied.
const EVENTS_HANDED: usize = 1_000;

/// How many such hands may wait.
const HANDS_WAITING_MAX: usize = 4;

/// Books as the log has them.
#[derive(Debug)]
pub struct Recovery {
    /// The books.
    pub books: Cluster,
    /// The last event in them; place 0 before the first.
    pub anchor: Anchor,
    /// The last event in the snapshot that they were made from, if there was one.
    pub snapshot: Option<u64>,
    /// How many events came after it.
    pub replayed: u64,
    /// Newer snapshots that cannot be used, and why.
    pub faults: Vec<UnusableSnapshot>,
}

impl Recovery {
    /// When the last event happened, if there was one.
    #[must_use]
    pub fn last_at(&self) -> Option<Timestamp> {
        (self.anchor.sequence > 0).then(|| self.anchor.at())
    }
}

/// Makes the books of a log again, up to the event at `until`, or to the last.
///
/// # Errors
/// [`JournalError::Damaged`], if neither a snapshot nor the events lead to them.
pub fn recover(connection: &Connection, path: &Path, until: Option<u64>) -> Result<Recovery, JournalError> {
    recover_by(replay, connection, path, until.unwrap_or(u64::MAX), &|| true)
}

/// Does what [`recover`] does beside the work of others: on one thread only, though slower, and given up with an error as
/// soon as `goes_on` says no.
pub(super) fn recover_aside(
    connection: &Connection,
    path: &Path,
    until: u64,
    goes_on: &dyn Fn() -> bool,
) -> Result<Recovery, JournalError> {
    recover_by(replay_aside, connection, path, until, goes_on)
}

type Replay = fn(EventRows<'_>, u64, &mut Recovery, &dyn Fn() -> bool) -> Result<(), JournalError>;

fn recover_by(
    replay: Replay,
    connection: &Connection,
    path: &Path,
    until: u64,
    goes_on: &dyn Fn() -> bool,
) -> Result<Recovery, JournalError> {
    let explained = |error| schema::explain(path, "read", error);
    let log_id = schema::log_id(connection).map_err(explained)?;
    let first = check_end(connection, path)?.map(|(first, _)| first);
    let (snapshot, faults) = snapshots::newest_good(path, connection, &log_id, until, goes_on)?;
    let (base, mut recovery) = match snapshot {
        Some(Snapshot { anchor, books }) => {
            let base = Some(anchor.sequence);
            (base, Recovery { books, anchor, snapshot: base, replayed: 0, faults })
        }
        None if first.is_some_and(|first| first > 1) || (first.is_none() && !faults.is_empty()) => {
            return Err(JournalError::Damaged { path: path.to_owned(), what: no_way_back(first, &faults) });
        }
        None => {
            let chain = rows::chain_start(&log_id);
            let anchor = Anchor { log_id, sequence: 0, chain, at_millis: 0 };
            (None, Recovery { books: Cluster::default(), anchor, snapshot: None, replayed: 0, faults })
        }
    };
    let from = base.unwrap_or(0);
    let rows = EventRows::after(connection, path, from, Some(recovery.anchor.chain));
    replay(rows, until, &mut recovery, goes_on)?;
    recovery.replayed = recovery.anchor.sequence - from;
    Ok(recovery)
}

/// Looks whether the end of the log is there, by all that is known of it, and gives the place of its first and last event.
///
/// # Errors
/// [`JournalError::Damaged`], if events are missing at the end: what was granted in them is held by somebody, and going on
/// from before them would grant it again.
pub fn check_end(connection: &Connection, path: &Path) -> Result<Option<(u64, u64)>, JournalError> {
    let explained = |error| schema::explain(path, "read", error);
    let log_id = schema::log_id(connection).map_err(explained)?;
    // These are looked at before the end of the log, which its owner may move on meanwhile.
    let mark = mark::read(path).filter(|mark| mark.log_id == log_id);
    let snapshots = snapshots::find_snapshots(path)?;
    let ends = rows::ends(connection).map_err(explained)?;
    let last = ends.map_or(0, |(_, last)| last);
    if let Some((further, snapshot)) = snapshots::ahead_of(snapshots, &log_id, last) {
        let what = format!(
            "its log ends at event {last}, and its snapshot {} goes up to event {further}: the events between are missing, \
             as in an older copy of the log (to go on without them, remove that snapshot and {})",
            snapshot.display(),
            mark::mark_path(path).display()
        );
        return Err(JournalError::Damaged { path: path.to_owned(), what });
    }
    if let Some(mark) = mark {
        check_mark(connection, path, &mark, last)?;
    }
    Ok(ends)
}

/// Holds the log against its mark: what was once told of must be there.
fn check_mark(connection: &Connection, path: &Path, mark: &Mark, last: u64) -> Result<(), JournalError> {
    let damaged = |what| Err(JournalError::Damaged { path: path.to_owned(), what });
    if mark.sequence > last && mark.may_be_ahead() {
        tracing::warn!(
            events = last,
            lost = mark.sequence - last,
            "the machine went down and took the last events with it, as it may with --durability normal"
        );
    } else if mark.sequence > last {
        return damaged(format!(
            "its log ends at event {last}, and it had come to event {}: the events between are missing, as with a damaged \
             write-ahead file or an older copy of the log (to go on without them, remove {} and the snapshots behind event {last})",
            mark.sequence,
            mark::mark_path(path).display()
        ));
    } else {
        let chain = rows::chain_at(connection, mark.sequence).map_err(|error| schema::explain(path, "read", error))?;
        if chain.is_some_and(|chain| chain != mark.chain) {
            return damaged(format!(
                "its event {} is another than it was: the log is another copy (to go on with it, remove {})",
                mark.sequence,
                mark::mark_path(path).display()
            ));
        }
    }
    Ok(())
}

fn no_way_back(first: Option<u64>, faults: &[UnusableSnapshot]) -> String {
    let events = match first {
        Some(first) => format!("the events before {first} were tidied away"),
        None => "its events are gone".to_owned(),
    };
    let snapshots = match faults.split_first() {
        None => "there is no snapshot to go on from".to_owned(),
        Some((first, more)) => more.iter().fold(first.to_string(), |all, fault| format!("{all}; {fault}")),
    };
    format!("{events}, and {snapshots}")
}

/// An event that was read: its place, the checksum up to it, and itself.
type Read = (u64, u32, Recorded);

/// Applies rows to books. One thread reads and checks them, another applies them, which halves the time.
fn replay(
    rows: EventRows<'_>,
    until: u64,
    recovery: &mut Recovery,
    goes_on: &dyn Fn() -> bool,
) -> Result<(), JournalError> {
    let path = rows.path().to_owned();
    let (hand, hands) = mpsc::sync_channel(HANDS_WAITING_MAX);
    std::thread::scope(|scope| {
        let applying = scope.spawn(move || hands.into_iter().try_for_each(|events| apply_all(events, recovery)));
        // Whoever applies stops listening at an event that does not follow.
        let read = read_all(rows, until, goes_on, &mut |events| Ok(hand.send(events).is_ok()));
        drop(hand);
        // A panic of the thread that applies would be one outside of `apply`.
        applying
            .join()
            .unwrap_or_else(|_| Err("it could not be replayed".to_owned()))
            .map_or_else(|what| Err(JournalError::Damaged { path: path.clone(), what }), |()| read)
    })
}

/// Applies rows to books, one after the other.
fn replay_aside(
    rows: EventRows<'_>,
    until: u64,
    recovery: &mut Recovery,
    goes_on: &dyn Fn() -> bool,
) -> Result<(), JournalError> {
    let path = rows.path().to_owned();
    let damaged = |what| JournalError::Damaged { path: path.clone(), what };
    read_all(rows, until, goes_on, &mut |events| apply_all(events, recovery).map(|()| true).map_err(damaged))
}

fn apply_all(events: Vec<Read>, recovery: &mut Recovery) -> Result<(), String> {
    let Recovery { books, anchor, .. } = recovery;
    for (sequence, chain, recorded) in events {
        rows::apply(books, sequence, &recorded)?;
        (anchor.sequence, anchor.chain, anchor.at_millis) = (sequence, chain, recorded.at.as_millis());
    }
    Ok(())
}

/// Reads rows and hands their events over, until `take` says that it wants no more.
fn read_all(
    mut rows: EventRows<'_>,
    until: u64,
    goes_on: &dyn Fn() -> bool,
    take: &mut dyn FnMut(Vec<Read>) -> Result<bool, JournalError>,
) -> Result<(), JournalError> {
    loop {
        if !goes_on() {
            return Err(snapshots::given_up(rows.path()));
        }
        let mut events = Vec::with_capacity(EVENTS_HANDED);
        while events.len() < EVENTS_HANDED
            && rows.last() < until
            && let Some(row) = rows.next_row()?
        {
            let damaged = |what| JournalError::Damaged { path: rows.path().to_owned(), what };
            events.push((row.sequence, row.chain, row.recorded().map_err(damaged)?));
        }
        if events.is_empty() || !take(events)? {
            return Ok(());
        }
    }
}
