//! The rows of the log, read in order and verified by their checksums.

use super::super::JournalError;
use super::schema;
use cortex_core::Cluster;
use cortex_core::event::Recorded;
use cortex_core::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The number of rows per query. Between two queries the owner of the log can checkpoint its write-ahead log.
const ROWS_READ: i64 = 1_000;

/// A row of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRow {
    /// The sequence number, starting at 1.
    pub sequence: u64,
    pub at: Timestamp,
    /// The job that the event belongs to, if any.
    pub job: Option<String>,
    /// The event as JSON.
    pub event: String,
    /// The checksum over this row and all rows before it.
    pub chain: u32,
}

/// Why the event of a row cannot be replayed.
#[derive(Debug, Error)]
pub enum EventError {
    #[error("event {sequence} cannot be parsed: {error}")]
    NotParsed { sequence: u64, error: serde_json::Error },
    #[error("event {sequence} has the time {of_event}, but its row has {of_row}")]
    OtherTime { sequence: u64, of_event: Timestamp, of_row: Timestamp },
    #[error("event {sequence} does not follow from those before it")]
    DoesNotFollow { sequence: u64 },
}

impl EventRow {
    /// Parses the event.
    ///
    /// # Errors
    /// Returns [`EventError`] if the event cannot be parsed or its time differs from that of the row.
    pub fn recorded(&self) -> Result<Recorded, EventError> {
        let (sequence, of_row) = (self.sequence, self.at);
        let recorded: Recorded =
            serde_json::from_str(&self.event).map_err(|error| EventError::NotParsed { sequence, error })?;
        if recorded.at == of_row {
            Ok(recorded)
        } else {
            Err(EventError::OtherTime { sequence, of_event: recorded.at, of_row })
        }
    }

    /// Applies the event to the cluster as it was before the event.
    ///
    /// # Errors
    /// Returns [`EventError::DoesNotFollow`] if the event does not follow. The cluster is unusable then.
    pub fn apply(&self, recorded: &Recorded, cluster: &mut Cluster) -> Result<(), EventError> {
        apply(cluster, self.sequence, recorded)
    }
}

/// Applies an event to the cluster as it was before the event. The cluster panics on an event that it cannot have
/// decided.
pub(super) fn apply(cluster: &mut Cluster, sequence: u64, recorded: &Recorded) -> Result<(), EventError> {
    catch_unwind(AssertUnwindSafe(|| cluster.apply(recorded))).map_err(|_| EventError::DoesNotFollow { sequence })
}

/// Returns the checksum over a row and, through `before`, over all rows before it.
pub(super) fn chain(before: u32, sequence: u64, at: Timestamp, job: Option<&str>, event: &str) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(before);
    hasher.update(&sequence.to_le_bytes());
    hasher.update(&at.as_millis().to_le_bytes());
    // No name contains this byte, so two different pairs of job and event never hash the same bytes.
    hasher.update(job.map_or(&[0xff], str::as_bytes));
    hasher.update(&[0xff]);
    hasher.update(event.as_bytes());
    hasher.finalize()
}

/// The checksum at the start of a log's chain.
pub(super) fn chain_start(log_id: &str) -> u32 {
    crc32fast::hash(log_id.as_bytes())
}

/// The checksum of a row, if it exists.
pub(super) fn chain_at(connection: &Connection, sequence: u64) -> rusqlite::Result<Option<u32>> {
    let mut find = connection.prepare_cached("SELECT chain FROM events WHERE sequence = ?1")?;
    find.query_row([to_sql(sequence)], |row| row.get(0)).optional()
}

/// The sequence numbers of the first and the last row; `None` in an empty log.
pub(super) fn ends(connection: &Connection) -> rusqlite::Result<Option<(u64, u64)>> {
    let first: Option<i64> = connection.query_row("SELECT min(sequence) FROM events", [], |row| row.get(0))?;
    let last: Option<i64> = connection.query_row("SELECT max(sequence) FROM events", [], |row| row.get(0))?;
    let Some((first, last)) = first.zip(last) else { return Ok(None) };
    // The two come from both ends of the index, so in a damaged database they may be any numbers.
    if last < first {
        return Err(rusqlite::Error::IntegralValueOutOfRange(0, last));
    }
    Ok(Some((to_sequence(first)?, to_sequence(last)?)))
}

/// The time of the first event that is kept.
pub(super) fn oldest_at(connection: &Connection) -> rusqlite::Result<Option<Timestamp>> {
    let mut find = connection.prepare_cached("SELECT at FROM events ORDER BY sequence LIMIT 1")?;
    find.query_row([], |row| Ok(Timestamp::from_millis(row.get(0)?))).optional()
}

/// Reads rows in order and verifies their checksums.
#[derive(Debug)]
pub struct EventRows<'a> {
    connection: &'a Connection,
    path: PathBuf,
    read: VecDeque<EventRow>,
    last: u64,
    /// The checksum up to the last row; `None` if it is unknown, since that row was pruned.
    chain: Option<u32>,
}

impl<'a> EventRows<'a> {
    /// The sequence numbers of the first and the last row; `None` in an empty log.
    ///
    /// # Errors
    /// Returns [`JournalError`] if the log cannot be read.
    pub fn ends(connection: &Connection, path: &Path) -> Result<Option<(u64, u64)>, JournalError> {
        ends(connection).map_err(|error| schema::classify(path, "read", error))
    }

    /// Reads the rows after `last`, whose checksum is `chain`.
    pub(super) fn after(connection: &'a Connection, path: &Path, last: u64, chain: Option<u32>) -> Self {
        Self { connection, path: path.to_owned(), read: VecDeque::new(), last, chain }
    }

    /// Reads all rows that are kept, or those at or after the time `since`.
    ///
    /// # Errors
    /// Returns [`JournalError`] if the log cannot be read.
    pub fn kept(connection: &'a Connection, path: &Path, since: Option<Timestamp>) -> Result<Self, JournalError> {
        let classified = |error| schema::classify(path, "read", error);
        let start = chain_start(&schema::log_id(connection).map_err(classified)?);
        let Some((first, last)) = ends(connection).map_err(classified)? else {
            return Ok(Self::after(connection, path, 0, Some(start)));
        };
        let from = match since {
            Some(since) => first_since(connection, (first, last), since).map_err(classified)?,
            None => first,
        };
        let before = from - 1;
        let chain = if before == 0 { Some(start) } else { chain_at(connection, before).map_err(classified)? };
        Ok(Self::after(connection, path, before, chain))
    }

    /// The sequence number of the row that was returned last.
    #[must_use]
    pub const fn last(&self) -> u64 {
        self.last
    }

    /// The path of the state file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the next row, or `None` at the present end of the log.
    ///
    /// # Errors
    /// Returns [`JournalError::Damaged`] if the row does not follow from the one before.
    pub fn next_row(&mut self) -> Result<Option<EventRow>, JournalError> {
        if self.read.is_empty() {
            self.read = self.read_rows().map_err(|error| schema::classify(&self.path, "read", error))?;
        }
        let Some(row) = self.read.pop_front() else { return Ok(None) };
        let damaged = |what| JournalError::Damaged { path: self.path.clone(), what };
        if row.sequence != self.last + 1 {
            return Err(damaged(format!(
                "event {} directly follows event {}: rows are missing or out of order",
                row.sequence, self.last
            )));
        }
        let follows = |before| chain(before, row.sequence, row.at, row.job.as_deref(), &row.event) == row.chain;
        // The first row after pruned rows cannot be verified.
        if !self.chain.is_none_or(follows) {
            return Err(damaged(format!("event {} was changed: its checksum does not match", row.sequence)));
        }
        (self.last, self.chain) = (row.sequence, Some(row.chain));
        Ok(Some(row))
    }

    fn read_rows(&self) -> rusqlite::Result<VecDeque<EventRow>> {
        let mut select = self.connection.prepare_cached(
            "SELECT sequence, at, job, event, chain FROM events WHERE sequence > ?1 ORDER BY sequence LIMIT ?2",
        )?;
        select.query_map([to_sql(self.last), ROWS_READ], row_of)?.collect()
    }
}

fn row_of(row: &Row<'_>) -> rusqlite::Result<EventRow> {
    Ok(EventRow {
        sequence: to_sequence(row.get(0)?)?,
        at: Timestamp::from_millis(row.get(1)?),
        job: row.get(2)?,
        event: row.get(3)?,
        chain: row.get(4)?,
    })
}

/// Finds the first row at or after a time by binary search, since times are sorted. Returns the number after the last
/// row if all are earlier.
fn first_since(connection: &Connection, (first, last): (u64, u64), since: Timestamp) -> rusqlite::Result<u64> {
    let mut find = connection.prepare_cached("SELECT at FROM events WHERE sequence = ?1")?;
    let (mut low, mut high) = (first, last + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let at: i64 = find.query_row([to_sql(middle)], |row| row.get(0))?;
        if Timestamp::from_millis(at) < since { low = middle + 1 } else { high = middle }
    }
    Ok(low)
}

/// Converts a sequence number to an integer of SQLite. There are fewer events than 2^63.
pub(super) fn to_sql(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

/// Converts an integer of SQLite to a sequence number, which is at least 1.
fn to_sequence(sequence: i64) -> rusqlite::Result<u64> {
    let converted = u64::try_from(sequence).ok().filter(|sequence| *sequence > 0);
    converted.ok_or(rusqlite::Error::IntegralValueOutOfRange(0, sequence))
}
