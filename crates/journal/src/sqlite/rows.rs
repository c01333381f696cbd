//! The rows of the log, read in order and held against their checksums.

use super::super::JournalError;
use super::schema;
use cortex_core::Cluster;
use cortex_core::event::Recorded;
use cortex_core::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// How many rows are read at once. Between two reads the owner of the log can tidy up its files.
const ROWS_READ: i64 = 1_000;

/// An event as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRow {
    /// Its place, counted from 1.
    pub sequence: u64,
    /// When it happened.
    pub at: Timestamp,
    /// The job that it concerns, if it concerns one.
    pub job: Option<String>,
    /// The event as JSON.
    pub event: String,
    /// The checksum over it and all before it.
    pub chain: u32,
}

impl EventRow {
    /// The event itself.
    ///
    /// # Errors
    /// What is wrong with it, if it cannot be read or is not what the row says.
    pub fn recorded(&self) -> Result<Recorded, String> {
        let recorded: Recorded = serde_json::from_str(&self.event)
            .map_err(|error| format!("event {} cannot be read: {error}", self.sequence))?;
        if recorded.at == self.at {
            Ok(recorded)
        } else {
            Err(format!("event {} says that it happened at {}, its row {}", self.sequence, recorded.at, self.at))
        }
    }

    /// Applies the event to the books before it.
    ///
    /// # Errors
    /// It does not follow from them; then they are of no use any more.
    pub fn apply(&self, recorded: &Recorded, books: &mut Cluster) -> Result<(), String> {
        apply(books, self.sequence, recorded)
    }
}

/// Applies an event to the books before it. The lease machine refuses by a panic what no history of its own has.
pub(super) fn apply(books: &mut Cluster, sequence: u64, recorded: &Recorded) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| books.apply(recorded)))
        .map_err(|_| format!("event {sequence} does not follow from those before it"))
}

/// The checksum over a row and, through `before`, over all rows before it.
pub(super) fn chain(before: u32, sequence: u64, at: Timestamp, job: Option<&str>, event: &str) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(before);
    hasher.update(&sequence.to_le_bytes());
    hasher.update(&at.as_millis().to_le_bytes());
    // No name holds this byte, so that no job and event read as another job and event.
    hasher.update(job.map_or(&[0xff], str::as_bytes));
    hasher.update(&[0xff]);
    hasher.update(event.as_bytes());
    hasher.finalize()
}

/// The checksum that the chain of a log begins with.
pub(super) fn chain_start(log_id: &str) -> u32 {
    crc32fast::hash(log_id.as_bytes())
}

/// The checksum of the row at a place, if there is one.
pub(super) fn chain_at(connection: &Connection, sequence: u64) -> rusqlite::Result<Option<u32>> {
    let mut find = connection.prepare_cached("SELECT chain FROM events WHERE sequence = ?1")?;
    find.query_row([signed(sequence)], |row| row.get(0)).optional()
}

/// The place of the first and the last row; nothing in an empty log.
pub(super) fn ends(connection: &Connection) -> rusqlite::Result<Option<(u64, u64)>> {
    let first: Option<i64> = connection.query_row("SELECT min(sequence) FROM events", [], |row| row.get(0))?;
    let last: Option<i64> = connection.query_row("SELECT max(sequence) FROM events", [], |row| row.get(0))?;
    let Some((first, last)) = first.zip(last) else { return Ok(None) };
    // The two are looked up at either end of the table: in a damaged one they may be any numbers.
    if last < first {
        return Err(rusqlite::Error::IntegralValueOutOfRange(0, last));
    }
    Ok(Some((place(first)?, place(last)?)))
}

/// When the first event that is kept happened.
pub(super) fn oldest_at(connection: &Connection) -> rusqlite::Result<Option<Timestamp>> {
    let mut find = connection.prepare_cached("SELECT at FROM events ORDER BY sequence LIMIT 1")?;
    find.query_row([], |row| Ok(Timestamp::from_millis(row.get(0)?))).optional()
}

/// Rows in order, from a place on. The first that does not follow from the one before ends the walk with an error.
#[derive(Debug)]
pub struct EventRows<'a> {
    connection: &'a Connection,
    path: PathBuf,
    read: VecDeque<EventRow>,
    last: u64,
    /// The checksum up to the last row; nothing if there is none to go by.
    chain: Option<u32>,
}

impl<'a> EventRows<'a> {
    /// The place of the first and the last row; nothing in an empty log.
    ///
    /// # Errors
    /// [`JournalError`], if the log cannot be read.
    pub fn ends(connection: &Connection, path: &Path) -> Result<Option<(u64, u64)>, JournalError> {
        ends(connection).map_err(|error| schema::explain(path, "read", error))
    }

    /// The rows behind the one at `last`, whose checksum is `chain`.
    pub(super) fn after(connection: &'a Connection, path: &Path, last: u64, chain: Option<u32>) -> Self {
        Self { connection, path: path.to_owned(), read: VecDeque::new(), last, chain }
    }

    /// All rows that there are: from the first one kept on, or, if `since` is given, from the first at that moment on.
    ///
    /// # Errors
    /// [`JournalError`], if the log cannot be read.
    pub fn kept(connection: &'a Connection, path: &Path, since: Option<Timestamp>) -> Result<Self, JournalError> {
        let explained = |error| schema::explain(path, "read", error);
        let start = chain_start(&schema::log_id(connection).map_err(explained)?);
        let Some((first, last)) = ends(connection).map_err(explained)? else {
            return Ok(Self::after(connection, path, 0, Some(start)));
        };
        let from = match since {
            Some(since) => first_since(connection, (first, last), since).map_err(explained)?,
            None => first,
        };
        let before = from - 1;
        let chain = if before == 0 { Some(start) } else { chain_at(connection, before).map_err(explained)? };
        Ok(Self::after(connection, path, before, chain))
    }

    /// The place of the last row that was given.
    #[must_use]
    pub const fn last(&self) -> u64 {
        self.last
    }

    /// The file of the log.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next row; nothing at the end, for now.
    ///
    /// # Errors
    /// [`JournalError::Damaged`], if it does not follow from the one before.
    pub fn next_row(&mut self) -> Result<Option<EventRow>, JournalError> {
        if self.read.is_empty() {
            self.read = self.read_on().map_err(|error| schema::explain(&self.path, "read", error))?;
        }
        let Some(row) = self.read.pop_front() else { return Ok(None) };
        let damaged = |what| JournalError::Damaged { path: self.path.clone(), what };
        if row.sequence != self.last + 1 {
            return Err(damaged(format!("event {} comes after event {}", row.sequence, self.last)));
        }
        let follows = |before| chain(before, row.sequence, row.at, row.job.as_deref(), &row.event) == row.chain;
        // The first row of a log whose older rows are gone has nothing to be held against.
        if !self.chain.is_none_or(follows) {
            return Err(damaged(format!("event {} is not what was written: its checksum is another", row.sequence)));
        }
        (self.last, self.chain) = (row.sequence, Some(row.chain));
        Ok(Some(row))
    }

    fn read_on(&self) -> rusqlite::Result<VecDeque<EventRow>> {
        let mut select = self.connection.prepare_cached(
            "SELECT sequence, at, job, event, chain FROM events WHERE sequence > ?1 ORDER BY sequence LIMIT ?2",
        )?;
        select.query_map([signed(self.last), ROWS_READ], row_of)?.collect()
    }
}

fn row_of(row: &Row<'_>) -> rusqlite::Result<EventRow> {
    Ok(EventRow {
        sequence: place(row.get(0)?)?,
        at: Timestamp::from_millis(row.get(1)?),
        job: row.get(2)?,
        event: row.get(3)?,
        chain: row.get(4)?,
    })
}

/// The place of the first row at or after a moment, found by halving: moments grow with places. Behind the last if all
/// are before it.
fn first_since(connection: &Connection, (first, last): (u64, u64), since: Timestamp) -> rusqlite::Result<u64> {
    let mut find = connection.prepare_cached("SELECT at FROM events WHERE sequence = ?1")?;
    let (mut low, mut high) = (first, last + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let at: i64 = find.query_row([signed(middle)], |row| row.get(0))?;
        if Timestamp::from_millis(at) < since { low = middle + 1 } else { high = middle }
    }
    Ok(low)
}

/// A place as the database keeps it. There are fewer events than 2^63.
pub(super) fn signed(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

/// A place as the database has it: they are counted from 1.
fn place(sequence: i64) -> rusqlite::Result<u64> {
    let place = u64::try_from(sequence).ok().filter(|place| *place > 0);
    place.ok_or(rusqlite::Error::IntegralValueOutOfRange(0, sequence))
}
