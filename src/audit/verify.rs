//! The proof of a state: everything is replayed, every invariant checked, every snapshot held against the events.

use cortex_core::allocation::State;
use cortex_core::time::Timestamp;
use cortex_core::view::Filter;
use cortex_core::{Cluster, check};
use cortex_journal::{
    EventRows, JournalError, SCHEMA_VERSION, UnusableSnapshot, check_end, check_pages, find_snapshots, open_to_read,
    read_snapshot,
};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often the invariants are checked on the way, in all: a check costs as much as the books are large.
const CHECKS: u64 = 100;

/// How much time there is between two reports of progress.
const PROGRESS_WAIT: Duration = Duration::from_secs(1);

/// How many complaints are told; more of them say nothing new.
const COMPLAINTS_MAX: usize = 20;

/// What was seen of a state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// What was looked at, a line each.
    pub seen: Vec<String>,
    /// What is wrong, a line each; a sound state has none.
    pub wrong: Vec<String>,
}

impl Verdict {
    /// Whether nothing is wrong.
    #[must_use]
    pub(crate) const fn is_sound(&self) -> bool {
        self.wrong.is_empty()
    }

    fn complain(&mut self, complaint: String) {
        if self.wrong.len() < COMPLAINTS_MAX {
            self.wrong.push(complaint);
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.seen.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        self.wrong.iter().try_for_each(|line| writeln!(f, "WRONG: {line}"))?;
        writeln!(f, "{}", if self.is_sound() { "sound" } else { "not sound" })
    }
}

/// Replays a state and checks it. `progress` is told now and then how many of how many events are behind.
///
/// # Errors
/// There is no such state, or it is not one that this program can read.
pub(crate) fn verify(state: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Verdict, JournalError> {
    let connection = open_to_read(state)?;
    let mut verdict = Verdict::default();
    verdict.seen.push(format!("state: {}, schema version {SCHEMA_VERSION}", state.display()));
    if let Err(error) = check_end(&connection, state) {
        verdict.complain(error.to_string());
    }
    // One view of the log for all that follows: meanwhile its owner may go on, and tidy old events away.
    connection.execute_batch("BEGIN").map_err(|source| JournalError::Database {
        path: state.to_owned(),
        action: "read",
        source,
    })?;
    for complaint in check_pages(&connection, state)? {
        verdict.complain(format!("the database says: {complaint}"));
    }
    let Some((first, last)) = EventRows::ends(&connection, state)? else {
        verdict.seen.push("events: none".to_owned());
        return Ok(verdict);
    };
    let mut snapshots = read_snapshots(state, last, &mut verdict)?;
    // Where older events were tidied away, the books begin with the oldest snapshot.
    let mut books = (first == 1).then(Cluster::default);
    let mut rows = EventRows::kept(&connection, state, None)?;
    let mut span: Option<(Timestamp, Timestamp)> = None;
    let (mut checks, mut reported) = (0_u64, Instant::now());
    let step = ((last - first) / CHECKS).max(1);
    while rows.last() < last {
        let row = match rows.next_row() {
            Ok(Some(row)) => row,
            Ok(None) => break,
            Err(error @ JournalError::Damaged { .. }) => {
                verdict.complain(error.to_string());
                break;
            }
            Err(error) => return Err(error),
        };
        span = Some((span.map_or(row.at, |(from, _)| from), row.at));
        if let Err(complaint) = row.recorded().and_then(|recorded| match &mut books {
            Some(books) => row.apply(&recorded, books),
            None => Ok(()),
        }) {
            verdict.complain(complaint);
            break;
        }
        if let Some(snapshot) = snapshots.remove(&row.sequence) {
            match &books {
                Some(books) if !books.has_image_of(&snapshot) => {
                    verdict.complain(format!("the snapshot at event {} is not what the events make", row.sequence));
                }
                Some(_) => {}
                None => books = Some(snapshot),
            }
        }
        if let Some(books) = books.as_mut().filter(|_| row.sequence.is_multiple_of(step) || row.sequence == last) {
            books.observe(row.at);
            checks += 1;
            for violation in check::violations(books) {
                verdict.complain(format!("at event {}: {violation}", row.sequence));
            }
        }
        if reported.elapsed() >= PROGRESS_WAIT {
            progress(row.sequence - first, last - first);
            reported = Instant::now();
        }
    }
    describe(&mut verdict, (first, rows.last()), span, books.as_ref(), checks);
    Ok(verdict)
}

/// The snapshots up to the last event, by the last event in them; those that cannot be read are complained of.
fn read_snapshots(state: &Path, last: u64, verdict: &mut Verdict) -> Result<BTreeMap<u64, Cluster>, JournalError> {
    let mut good = BTreeMap::new();
    for (sequence, path) in find_snapshots(state)?.into_iter().filter(|(sequence, _)| *sequence <= last) {
        match read_snapshot(&path) {
            Ok((anchor, books)) => {
                verdict.seen.push(format!("snapshot: at event {}, of {}", anchor.sequence, anchor.at()));
                good.insert(sequence, books);
            }
            // The owner drops a snapshot when there are two newer ones.
            Err(_) if !path.exists() => {}
            Err(fault) => verdict.complain(UnusableSnapshot(path, fault).to_string()),
        }
    }
    Ok(good)
}

fn describe(
    verdict: &mut Verdict,
    (first, last): (u64, u64),
    span: Option<(Timestamp, Timestamp)>,
    books: Option<&Cluster>,
    checks: u64,
) {
    if let Some((from, to)) = span {
        verdict.seen.push(format!("events: {first} to {last}, from {from} to {to}, checksums looked at one by one"));
    }
    let (Some(books), Some((_, at))) = (books, span) else {
        verdict.complain(format!("the events before {first} are gone, and no snapshot leads on from there"));
        return;
    };
    let capacity = books.capacity(at);
    let records = books.count(&Filter::default());
    let active = books.count(&Filter { state: Some(State::Active), job: None });
    verdict.seen.push(format!(
        "books: {records} allocations on record, {} of them live, {active} active; last fencing token {}",
        capacity.live_allocations,
        books.last_token()
    ));
    verdict.seen.push(format!(
        "leased: {} of {} workers, {} of {} CPU cores, {} of {} MB",
        capacity.leased.workers,
        capacity.total.workers,
        capacity.leased.cpu_millis,
        capacity.total.cpu_millis,
        capacity.leased.memory_mb,
        capacity.total.memory_mb
    ));
    verdict.seen.extend(books.fleet_summary(at).to_string().lines().map(str::to_owned));
    verdict.seen.push(format!("invariants: checked {checks} times on the way"));
}
