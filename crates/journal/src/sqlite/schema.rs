//! The database: how it is opened, that it is ours, and its tables.

use super::super::JournalError;
use super::mark::mark_path;
use super::snapshots;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior};
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

/// Marks a database as a state of this program: "CRXm" in ASCII.
const APPLICATION_ID: i32 = 0x4352_586d;

/// What leads from each version of the schema to the next; the first to version 1.
///
/// `chain` is a checksum over the row and all rows before it, so that a row that was changed, moved or left out shows.
const MIGRATIONS: [&str; 1] = ["
    CREATE TABLE log (id TEXT NOT NULL) STRICT;
    CREATE TABLE events (
        sequence INTEGER PRIMARY KEY,
        at INTEGER NOT NULL,
        job TEXT,
        event TEXT NOT NULL,
        chain INTEGER NOT NULL
    ) STRICT;
"];

/// The version of the schema that this program writes.
pub const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// How long a stranger's lock on the database is waited for.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(2);

/// How large the write-ahead file stays after it once had to be larger, in bytes.
const WAL_BYTES_KEPT_MAX: i64 = 64 << 20;

/// How hard a commit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synchronous {
    /// Every commit is on the disk before it is told of: it survives a power cut.
    Full,
    /// A commit is with the operating system: it survives a crash of the process.
    Normal,
}

/// Opens the database to write, and makes it if there is none.
pub(super) fn open_to_write(path: &Path, synchronous: Synchronous) -> Result<Connection, JournalError> {
    check_folder(path)?;
    if !check_file(path)? {
        create(path)?;
    }
    let (identity, mut connection) = open(path, TO_WRITE)?;
    check_identity(path, identity)?;
    let is_old = matches!(identity, Identity::Ours { version } if version < SCHEMA_VERSION);
    set_up(&connection, synchronous)
        // Without need the write lock is not taken: a stranger may hold it for long.
        .and_then(|()| if is_old { migrate(&mut connection) } else { Ok(()) })
        .map_err(|error| explain(path, "opened", error))?;
    Ok(connection)
}

const TO_WRITE: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

/// Makes a state without events. It gets its name only once all of it is on the disk, so that an empty file of that name
/// is never one that a crash left half made.
fn create(path: &Path) -> Result<(), JournalError> {
    let unfinished = &snapshots::beside(path, ".new");
    let failed = |source| JournalError::System { path: path.to_owned(), doing: "made", source };
    match std::fs::remove_file(unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // The files that SQLite adds get the same mode.
    snapshots::create_private(unfinished).map_err(failed)?;
    let (_, mut connection) = open(unfinished, TO_WRITE)?;
    migrate(&mut connection)
        .and_then(|()| connection.close().map_err(|(_, error)| error))
        .map_err(|error| explain(path, "made", error))?;
    std::fs::rename(unfinished, path).and_then(|()| snapshots::sync_folder(path)).map_err(failed)
}

/// Opens the database to read only. Whoever owns it goes on writing.
///
/// # Errors
/// [`JournalError`], if there is no such state, or it cannot be read.
pub fn open_to_read(path: &Path) -> Result<Connection, JournalError> {
    check_folder(path)?;
    if !check_file(path)? {
        return Err(JournalError::NoState { path: path.to_owned() });
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let (identity, connection) = open(path, flags)?;
    check_identity(path, identity)?;
    Ok(connection)
}

fn open(path: &Path, flags: OpenFlags) -> Result<(Identity, Connection), JournalError> {
    let open = || {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_WAIT_MAX)?;
        Ok((identify(&connection)?, connection))
    };
    open().map_err(|error| explain(path, "opened", error))
}

/// The id that the log was given when it was made. It is the start of the chain.
pub(super) fn log_id(connection: &Connection) -> rusqlite::Result<String> {
    connection.query_row("SELECT id FROM log", [], |row| row.get(0))
}

/// What the database itself finds wrong with its pages, a line each.
///
/// # Errors
/// [`JournalError`], if it cannot even be looked at.
pub fn check_pages(connection: &Connection, path: &Path) -> Result<Vec<String>, JournalError> {
    let check = || {
        let mut check = connection.prepare("PRAGMA integrity_check(20)")?;
        check.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()
    };
    let mut found = check().map_err(|error| explain(path, "read", error))?;
    found.retain(|line| line != "ok");
    Ok(found)
}

/// An error of the database in our own words where it says something about the file.
pub(super) fn explain(path: &Path, doing: &'static str, error: rusqlite::Error) -> JournalError {
    let path = path.to_owned();
    // A value that is not of its column's kind was not written by this program.
    if let rusqlite::Error::FromSqlConversionFailure(..)
    | rusqlite::Error::IntegralValueOutOfRange(..)
    | rusqlite::Error::InvalidColumnType(..)
    | rusqlite::Error::Utf8Error(..)
    | rusqlite::Error::QueryReturnedNoRows = error
    {
        return JournalError::Damaged { path, what: error.to_string() };
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => JournalError::NotOurs { path, what: "no SQLite database".to_owned() },
        Some(ErrorCode::DatabaseCorrupt) => JournalError::Damaged { path, what: error.to_string() },
        _ => JournalError::Database { path, doing, source: error },
    }
}

/// What a database says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Identity {
    Ours { version: i64 },
    Other { application: i32 },
}

fn identify(connection: &Connection) -> rusqlite::Result<Identity> {
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    Ok(match application {
        APPLICATION_ID => Identity::Ours { version },
        application => Identity::Other { application },
    })
}

fn check_identity(path: &Path, identity: Identity) -> Result<(), JournalError> {
    let path = path.to_owned();
    match identity {
        Identity::Ours { version } if version > SCHEMA_VERSION => {
            Err(JournalError::NewerSchema { path, found: version })
        }
        Identity::Other { application } => {
            let what = format!("a database of another program, with application id {application}");
            Err(JournalError::NotOurs { path, what })
        }
        Identity::Ours { .. } => Ok(()),
    }
}

/// Whether there is a file. None is an error where there are traces of one: whoever truncated or lost it is to hear of it.
pub(super) fn check_file(path: &Path) -> Result<bool, JournalError> {
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            Err(JournalError::NotOurs { path: path.to_owned(), what: "no plain file".to_owned() })
        }
        #[cfg(unix)]
        Ok(metadata) if std::os::unix::fs::MetadataExt::nlink(&metadata) > 1 => {
            // Under each name another owner could start.
            let what = "it has several names, hard links: leave it one".to_owned();
            Err(JournalError::NotOurs { path: path.to_owned(), what })
        }
        Ok(metadata) if metadata.len() == 0 => Err(JournalError::Empty { path: path.to_owned() }),
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match trace_of(path)? {
            Some(trace) => Err(JournalError::Gone { path: path.to_owned(), trace }),
            None => Ok(false),
        },
        Err(source) => Err(JournalError::System { path: path.to_owned(), doing: "looked at", source }),
    }
}

/// Something that a state left beside it: a snapshot, or the write-ahead file of a crash, which holds commits that the
/// database would take for those of a new file of that name.
fn trace_of(path: &Path) -> Result<Option<PathBuf>, JournalError> {
    let ahead = snapshots::beside(path, snapshots::AHEAD);
    if std::fs::metadata(&ahead).is_ok_and(|metadata| metadata.len() > 0) {
        return Ok(Some(ahead));
    }
    if let Some((_, snapshot)) = snapshots::find_snapshots(path)?.pop() {
        return Ok(Some(snapshot));
    }
    Ok(Some(mark_path(path)).filter(|mark| mark.exists()))
}

fn set_up(connection: &Connection, synchronous: Synchronous) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "journal_size_limit", WAL_BYTES_KEPT_MAX)?;
    match synchronous {
        Synchronous::Full => {
            connection.pragma_update(None, "synchronous", "full")?;
            // Where a plain flush leaves the data in the disk's cache; elsewhere it changes nothing.
            connection.pragma_update(None, "fullfsync", true)
        }
        Synchronous::Normal => connection.pragma_update(None, "synchronous", "normal"),
    }
}

/// Brings the schema to the version of this program, all at once and alone.
fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(version).unwrap_or(0);
    for step in MIGRATIONS.iter().skip(done) {
        transaction.execute_batch(step)?;
    }
    if done < MIGRATIONS.len() {
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    }
    let id: Option<String> = transaction.query_row("SELECT id FROM log", [], |row| row.get(0)).optional()?;
    if id.is_none() {
        transaction.execute("INSERT INTO log (id) VALUES (?1)", [Uuid::new_v4().to_string()])?;
    }
    transaction.commit()
}

/// The folder of a state is not made for it: a path that was mistyped is to be told of.
pub(super) fn check_folder(path: &Path) -> Result<(), JournalError> {
    let folder = snapshots::folder_of(path);
    if folder.is_dir() { Ok(()) } else { Err(JournalError::NoFolder { path: path.to_owned(), folder }) }
}
