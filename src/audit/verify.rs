//! Verification of a state: replays all events, checks every invariant, and compares every snapshot with the events.

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

/// How many times the invariants are checked during a replay: the cost of a check grows with the size of the state.
const CHECKS: u64 = 100;

/// The interval between two reports of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// The maximum number of problems in a report; further ones rarely add information.
const PROBLEMS_MAX: usize = 20;

/// The report of a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VerifyReport {
    /// The facts that were checked, one line each.
    pub facts: Vec<String>,
    /// The problems that were found, one line each; a sound state has none.
    pub problems: Vec<String>,
}

impl VerifyReport {
    /// Returns whether no problem was found.
    #[must_use]
    pub(crate) const fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    fn add_problem(&mut self, problem: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.facts.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        self.problems.iter().try_for_each(|line| writeln!(f, "WRONG: {line}"))?;
        writeln!(f, "{}", if self.is_sound() { "sound" } else { "not sound" })
    }
}

/// Replays a state and checks it. `progress` regularly receives the number of replayed events and the total.
///
/// # Errors
/// The state does not exist, or this program cannot read it.
pub(crate) fn verify(state: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<VerifyReport, JournalError> {
    let connection = open_to_read(state)?;
    let mut report = VerifyReport::default();
    report.facts.push(format!("state: {}, schema version {SCHEMA_VERSION}", state.display()));
    if let Err(error) = check_end(&connection, state) {
        report.add_problem(error.to_string());
    }
    // One read transaction for all of the following, since the owner may add events and delete old ones.
    connection.execute_batch("BEGIN").map_err(|source| JournalError::Database {
        path: state.to_owned(),
        action: "read",
        source,
    })?;
    for problem in check_pages(&connection, state)? {
        report.add_problem(format!("the database reports: {problem}"));
    }
    let Some((first, last)) = EventRows::ends(&connection, state)? else {
        report.facts.push("events: none".to_owned());
        return Ok(report);
    };
    let mut snapshots = read_snapshots(state, last, &mut report)?;
    // If older events were deleted, the replay begins with the oldest snapshot.
    let mut cluster = (first == 1).then(Cluster::default);
    let mut rows = EventRows::kept(&connection, state, None)?;
    let mut span: Option<(Timestamp, Timestamp)> = None;
    let (mut checks, mut reported) = (0_u64, Instant::now());
    let step = ((last - first) / CHECKS).max(1);
    while rows.last() < last {
        let row = match rows.next_row() {
            Ok(Some(row)) => row,
            Ok(None) => break,
            Err(error @ JournalError::Damaged { .. }) => {
                report.add_problem(error.to_string());
                break;
            }
            Err(error) => return Err(error),
        };
        span = Some((span.map_or(row.at, |(from, _)| from), row.at));
        if let Err(error) = row.recorded().and_then(|recorded| match &mut cluster {
            Some(cluster) => row.apply(&recorded, cluster),
            None => Ok(()),
        }) {
            report.add_problem(error.to_string());
            break;
        }
        if let Some(snapshot) = snapshots.remove(&row.sequence) {
            match &cluster {
                Some(cluster) if !cluster.has_image_of(&snapshot) => {
                    report.add_problem(format!(
                        "the snapshot at event {} differs from the replayed events",
                        row.sequence
                    ));
                }
                Some(_) => {}
                None => cluster = Some(snapshot),
            }
        }
        if let Some(cluster) = cluster.as_mut().filter(|_| row.sequence.is_multiple_of(step) || row.sequence == last) {
            cluster.observe(row.at);
            checks += 1;
            for violation in check::violations(cluster) {
                report.add_problem(format!("at event {}: {violation}", row.sequence));
            }
        }
        if reported.elapsed() >= PROGRESS_INTERVAL {
            progress(row.sequence - first, last - first);
            reported = Instant::now();
        }
    }
    describe(&mut report, (first, rows.last()), span, cluster.as_ref(), checks);
    Ok(report)
}

/// Reads the snapshots up to the last event, by the last event that each contains. Unreadable ones are problems.
fn read_snapshots(state: &Path, last: u64, report: &mut VerifyReport) -> Result<BTreeMap<u64, Cluster>, JournalError> {
    let mut snapshots = BTreeMap::new();
    for (sequence, path) in find_snapshots(state)?.into_iter().filter(|(sequence, _)| *sequence <= last) {
        match read_snapshot(&path) {
            Ok((anchor, cluster)) => {
                report.facts.push(format!("snapshot: at event {}, of {}", anchor.sequence, anchor.at()));
                snapshots.insert(sequence, cluster);
            }
            // The owner deletes a snapshot once there are two newer ones.
            Err(_) if !path.exists() => {}
            Err(fault) => report.add_problem(UnusableSnapshot(path, fault).to_string()),
        }
    }
    Ok(snapshots)
}

fn describe(
    report: &mut VerifyReport,
    (first, last): (u64, u64),
    span: Option<(Timestamp, Timestamp)>,
    cluster: Option<&Cluster>,
    checks: u64,
) {
    if let Some((from, to)) = span {
        report.facts.push(format!("events: {first} to {last}, from {from} to {to}, every checksum verified"));
    }
    let (Some(cluster), Some((_, at))) = (cluster, span) else {
        report.add_problem(format!("the events before {first} are missing, and no snapshot contains them"));
        return;
    };
    let capacity = cluster.capacity(at);
    let records = cluster.count(&Filter::default());
    let active = cluster.count(&Filter { state: Some(State::Active), job: None });
    report.facts.push(format!(
        "books: {records} allocations on record, {} of them live, {active} active; last fencing token {}",
        capacity.live_allocations,
        cluster.last_token()
    ));
    report.facts.push(format!(
        "leased: {} of {} workers, {} of {} CPU cores, {} of {} MB",
        capacity.leased.workers,
        capacity.total.workers,
        capacity.leased.cpu_millis,
        capacity.total.cpu_millis,
        capacity.leased.memory_mb,
        capacity.total.memory_mb
    ));
    report.facts.extend(cluster.fleet_summary(at).to_string().lines().map(str::to_owned));
    report.facts.push(format!("invariants: checked {checks} times during the replay"));
}
