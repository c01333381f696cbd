//! The database: opening and creating it, its identity, and its tables.

use super::super::JournalError;
use super::commit_watermark::watermark_path;
use super::snapshots;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior};
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

/// Identifies a database as a state of this program: "CRXm" in ASCII.
const APPLICATION_ID: i32 = 0x4352_586d;

/// The migration from each version of the schema to the next; the first one creates version 1.
///
/// `chain` is a checksum over the row and all rows before it, so that a changed, moved or missing row is detected.
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

/// The schema version that this program writes.
pub const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// How long SQLite waits for a lock of another process on the database.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(2);

/// The size to which the write-ahead log is truncated after a checkpoint, in bytes.
const WAL_BYTES_KEPT_MAX: i64 = 64 << 20;

/// The durability of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synchronous {
    /// A commit is on the disk before it returns: it survives a power failure.
    Full,
    /// A commit is written to the operating system: it survives a crash of the process.
    Normal,
}

/// Opens the database for writing, and creates it if there is none.
pub(super) fn open_to_write(path: &Path, synchronous: Synchronous) -> Result<Connection, JournalError> {
    check_folder(path)?;
    if !check_file(path)? {
        create(path)?;
    }
    let (identity, mut connection) = open(path, TO_WRITE)?;
    check_identity(path, identity)?;
    let is_old = matches!(identity, Identity::Ours { version } if version < SCHEMA_VERSION);
    set_up(&connection, synchronous)
        // Migrates only if needed, since another process may hold the write lock for long.
        .and_then(|()| if is_old { migrate(&mut connection) } else { Ok(()) })
        .map_err(|error| classify(path, "opened", error))?;
    Ok(connection)
}

const TO_WRITE: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

/// Creates a state without events. The file is renamed into place only after it is on the disk, so that a crash never
/// leaves an incomplete file under that name.
fn create(path: &Path) -> Result<(), JournalError> {
    let unfinished = &snapshots::with_suffix(path, ".new");
    let failed = |source| JournalError::System { path: path.to_owned(), action: "created", source };
    match std::fs::remove_file(unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // SQLite gives its other files the same mode.
    snapshots::create_private(unfinished).map_err(failed)?;
    let (_, mut connection) = open(unfinished, TO_WRITE)?;
    migrate(&mut connection)
        .and_then(|()| connection.close().map_err(|(_, error)| error))
        .map_err(|error| classify(path, "created", error))?;
    std::fs::rename(unfinished, path).and_then(|()| snapshots::sync_folder(path)).map_err(failed)
}

/// Opens the database for reading, while its owner may continue to write.
///
/// # Errors
/// Returns [`JournalError`] if the state does not exist or cannot be read.
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
    open().map_err(|error| classify(path, "opened", error))
}

/// The id that the log received at its creation. The chain of checksums starts with it.
pub(super) fn log_id(connection: &Connection) -> rusqlite::Result<String> {
    connection.query_row("SELECT id FROM log", [], |row| row.get(0))
}

/// Runs SQLite's integrity check and returns its findings, one line each.
///
/// # Errors
/// Returns [`JournalError`] if the check cannot run.
pub fn check_pages(connection: &Connection, path: &Path) -> Result<Vec<String>, JournalError> {
    let check = || {
        let mut check = connection.prepare("PRAGMA integrity_check(20)")?;
        check.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()
    };
    let mut found = check().map_err(|error| classify(path, "read", error))?;
    found.retain(|line| line != "ok");
    Ok(found)
}

/// Converts an error of SQLite: damage and files of another kind get their own variant.
pub(super) fn classify(path: &Path, action: &'static str, error: rusqlite::Error) -> JournalError {
    let path = path.to_owned();
    // A value of another type than its column was not written by this program.
    if let rusqlite::Error::FromSqlConversionFailure(..)
    | rusqlite::Error::IntegralValueOutOfRange(..)
    | rusqlite::Error::InvalidColumnType(..)
    | rusqlite::Error::Utf8Error(..)
    | rusqlite::Error::QueryReturnedNoRows = error
    {
        return JournalError::Damaged { path, what: error.to_string() };
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => {
            JournalError::NotAState { path, what: "it is not an SQLite database".to_owned() }
        }
        Some(ErrorCode::DatabaseCorrupt) => JournalError::Damaged { path, what: error.to_string() },
        _ => JournalError::Database { path, action, source: error },
    }
}

/// The identity of a database, from its header.
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
            let what = format!("it is a database of another program, with application id {application}");
            Err(JournalError::NotAState { path, what })
        }
        Identity::Ours { .. } => Ok(()),
    }
}

/// Checks whether the state file exists. An empty file, or a missing one whose accompanying files exist, is an error.
pub(super) fn check_file(path: &Path) -> Result<bool, JournalError> {
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            Err(JournalError::NotAState { path: path.to_owned(), what: "it is not a regular file".to_owned() })
        }
        #[cfg(unix)]
        Ok(metadata) if std::os::unix::fs::MetadataExt::nlink(&metadata) > 1 => {
            // Each name has its own lock file, so that two owners could start.
            let what = "it has several names (hard links): remove all but one".to_owned();
            Err(JournalError::NotAState { path: path.to_owned(), what })
        }
        Ok(metadata) if metadata.len() == 0 => Err(JournalError::Empty { path: path.to_owned() }),
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match leftover_of(path)? {
            Some(leftover) => Err(JournalError::Missing { path: path.to_owned(), leftover }),
            None => Ok(false),
        },
        Err(source) => Err(JournalError::System { path: path.to_owned(), action: "accessed", source }),
    }
}

/// Finds an accompanying file of a missing state: a snapshot, the commit watermark, or the write-ahead log that a crash
/// left. SQLite would apply the commits of the latter to a new file of that name.
fn leftover_of(path: &Path) -> Result<Option<PathBuf>, JournalError> {
    let ahead = snapshots::with_suffix(path, snapshots::WAL_SUFFIX);
    if std::fs::metadata(&ahead).is_ok_and(|metadata| metadata.len() > 0) {
        return Ok(Some(ahead));
    }
    if let Some((_, snapshot)) = snapshots::find_snapshots(path)?.pop() {
        return Ok(Some(snapshot));
    }
    Ok(Some(watermark_path(path)).filter(|watermark| watermark.exists()))
}

fn set_up(connection: &Connection, synchronous: Synchronous) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "journal_size_limit", WAL_BYTES_KEPT_MAX)?;
    match synchronous {
        Synchronous::Full => {
            connection.pragma_update(None, "synchronous", "full")?;
            // On macOS a plain sync leaves the data in the cache of the disk. No effect on other systems.
            connection.pragma_update(None, "fullfsync", true)
        }
        Synchronous::Normal => connection.pragma_update(None, "synchronous", "normal"),
    }
}

/// Migrates the schema to the version of this program, in one exclusive transaction.
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

/// Checks that the folder of the state exists. It is not created, so that a mistyped path is reported.
pub(super) fn check_folder(path: &Path) -> Result<(), JournalError> {
    let folder = snapshots::folder_of(path);
    if folder.is_dir() { Ok(()) } else { Err(JournalError::NoFolder { path: path.to_owned(), folder }) }
}
