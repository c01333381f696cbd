//! The snapshots of a state: listing them, finding the newest valid one, and adding one.

use super::super::JournalError;
use super::rows;
use super::snapshot_file::{self, Anchor, BLOCK_BYTES_MAX, read_snapshot_while};
use cortex_core::Cluster;
use cortex_core::image::InvalidImage;
use rusqlite::Connection;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The part of a snapshot's file name between the name of the state file and the sequence number.
const INFIX: &str = ".snapshot-";

/// The suffix of a snapshot's file name while it is written.
const UNFINISHED: &str = ".new";

/// The number of digits of the sequence number in a file name, padded so that names sort like numbers.
const SEQUENCE_DIGITS: usize = 20;

/// Lists the snapshots of a state with the sequence number of their last event, oldest first. Does not check their
/// content.
///
/// # Errors
/// Returns [`JournalError::System`] if the folder cannot be read.
pub fn find_snapshots(state: &Path) -> Result<Vec<(u64, PathBuf)>, JournalError> {
    find_ending_in(state, "")
}

/// Removes unfinished snapshots that crashes left. Only the owner of the state may call this, and only while it writes
/// no snapshot.
pub(super) fn remove_unfinished(state: &Path) -> Result<(), JournalError> {
    for (_, path) in find_ending_in(state, UNFINISHED)? {
        if let Err(error) = fs::remove_file(&path) {
            let path = path.display();
            tracing::warn!(%path, %error, "unfinished snapshot not removed: delete the file to free its space");
        }
    }
    Ok(())
}

fn find_ending_in(state: &Path, suffix: &str) -> Result<Vec<(u64, PathBuf)>, JournalError> {
    let folder = folder_of(state);
    let failed = |source| JournalError::System { path: folder.clone(), action: "read", source };
    let prefix = prefix(state);
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let digits = name.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes());
        let digits = digits.and_then(|digits| digits.strip_suffix(suffix.as_bytes()));
        let digits = digits.filter(|digits| digits.len() == SEQUENCE_DIGITS);
        let sequence = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        found.extend(sequence.map(|sequence| (sequence, entry.path())));
    }
    found.sort_unstable();
    Ok(found)
}

/// Why a snapshot cannot be used.
#[derive(Debug, Error)]
pub enum SnapshotError {
    #[error("it cannot be read ({0})")]
    Unreadable(io::Error),
    #[error("its format is unknown to this program")]
    UnknownFormat,
    #[error("it is truncated")]
    Truncated,
    #[error("a block has the length {length}, over the limit of {BLOCK_BYTES_MAX} bytes")]
    BlockTooLong { length: u32 },
    #[error("the checksum of a block does not match")]
    ChecksumMismatch,
    #[error("a block cannot be read: {0}")]
    InvalidBlock(postcard::Error),
    #[error("its blocks are out of order")]
    OutOfOrder,
    #[error(transparent)]
    InvalidImage(#[from] InvalidImage),
    #[error("its records contradict each other")]
    Contradictory,
    #[error("reading it was interrupted")]
    Interrupted,
    #[error("it belongs to another state")]
    OtherState,
    #[error("its name does not match its content")]
    OtherName,
    /// For example after an older copy of the log was restored and written to.
    #[error("it does not match the log")]
    OtherEvents,
}

/// A snapshot that cannot be used, with the reason.
#[derive(Debug, Error)]
#[error("the snapshot {} cannot be used: {}", .0.display(), .1)]
pub struct UnusableSnapshot(pub PathBuf, pub SnapshotError);

/// A valid snapshot of the log.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) anchor: Anchor,
    pub(super) cluster: Cluster,
}

/// Reads the newest valid snapshot of this log that is not after `until`. Returns it, if there is one, with the newer
/// snapshots that cannot be used. Fails as soon as `should_continue` returns false.
pub(super) fn newest_good(
    state: &Path,
    connection: &Connection,
    log_id: &str,
    until: u64,
    should_continue: &dyn Fn() -> bool,
) -> Result<(Option<Snapshot>, Vec<UnusableSnapshot>), JournalError> {
    let mut faults = Vec::new();
    for (sequence, path) in find_snapshots(state)?.into_iter().rev().filter(|(sequence, _)| *sequence <= until) {
        let read = match belongs(&path, sequence, state, connection, log_id)? {
            Ok(()) => read_snapshot_while(&path, should_continue),
            Err(fault) => Err(fault),
        };
        match read {
            Ok((anchor, cluster)) => return Ok((Some(Snapshot { anchor, cluster }), faults)),
            Err(SnapshotError::Interrupted) => return Err(interrupted(state)),
            Err(fault) => faults.push(UnusableSnapshot(path, fault)),
        }
    }
    Ok((None, faults))
}

/// Finds the newest of these snapshots that belongs to this log and is ahead of its last event.
pub(super) fn beyond_log(snapshots: Vec<(u64, PathBuf)>, log_id: &str, last: u64) -> Option<(u64, PathBuf)> {
    let is_of_log = |(sequence, path): &(u64, PathBuf)| {
        let anchor = snapshot_file::read_anchor(path);
        anchor.is_ok_and(|anchor| anchor.log_id == log_id && anchor.sequence == *sequence)
    };
    snapshots.into_iter().rev().take_while(|(sequence, _)| *sequence > last).find(is_of_log)
}

/// Finds the newest intact snapshot of this log before an event.
pub(super) fn newest_whole_before(
    state: &Path,
    connection: &Connection,
    log_id: &str,
    before: u64,
) -> Result<Option<u64>, JournalError> {
    for (sequence, path) in find_snapshots(state)?.into_iter().rev().filter(|(sequence, _)| *sequence < before) {
        if belongs(&path, sequence, state, connection, log_id)?.and_then(|()| snapshot_file::check(&path)).is_ok() {
            return Ok(Some(sequence));
        }
    }
    Ok(None)
}

/// Checks that a snapshot was taken from this log, by its anchor.
fn belongs(
    path: &Path,
    sequence: u64,
    state: &Path,
    connection: &Connection,
    log_id: &str,
) -> Result<Result<(), SnapshotError>, JournalError> {
    let anchor = match snapshot_file::read_anchor(path) {
        Ok(anchor) => anchor,
        Err(fault) => return Ok(Err(fault)),
    };
    let chain = rows::chain_at(connection, sequence).map_err(|error| super::schema::classify(state, "read", error))?;
    Ok(if anchor.log_id != log_id {
        Err(SnapshotError::OtherState)
    } else if anchor.sequence != sequence {
        Err(SnapshotError::OtherName)
    } else if chain != Some(anchor.chain) {
        Err(SnapshotError::OtherEvents)
    } else {
        Ok(())
    })
}

/// The error of reading the log or a snapshot after `should_continue` returned false.
pub(super) fn interrupted(state: &Path) -> JournalError {
    let source = io::Error::from(io::ErrorKind::Interrupted);
    JournalError::System { path: state.to_owned(), action: "read to the end", source }
}

/// Writes a snapshot and deletes all older ones except the valid one at `base`, which recovery uses if the new one is
/// ever damaged.
///
/// # Errors
/// Returns the error of the system, or [`io::ErrorKind::Interrupted`] if `should_continue` returned false. Then there
/// is no new snapshot.
pub(super) fn add(
    state: &Path,
    anchor: &Anchor,
    cluster: &Cluster,
    base: Option<u64>,
    should_continue: &dyn Fn() -> bool,
) -> io::Result<()> {
    let folder = folder_of(state);
    let mut name = prefix(state);
    name.push(format!("{:0SEQUENCE_DIGITS$}", anchor.sequence));
    let path = folder.join(&name);
    name.push(UNFINISHED);
    let unfinished = folder.join(name);
    let written = snapshot_file::write(&unfinished, anchor, cluster, should_continue).and_then(|()| {
        sync_log(state)?;
        fs::rename(&unfinished, &path)?;
        sync_folder(&path)
    });
    if let Err(error) = written {
        // Best effort: the next start removes it.
        let _ = fs::remove_file(&unfinished);
        return Err(error);
    }
    for (sequence, old) in find_snapshots(state).map_err(io::Error::other)? {
        // Snapshots with a higher sequence number are from before an older copy of the log was restored: they stay for
        // the newer log.
        if sequence < anchor.sequence && Some(sequence) != base {
            fs::remove_file(old)?;
        }
    }
    Ok(())
}

fn prefix(state: &Path) -> OsString {
    let mut name = state.file_name().unwrap_or_default().to_owned();
    name.push(INFIX);
    name
}

/// Syncs the log to the disk, since its commits may be only in the cache of the system. So no snapshot is ahead of its
/// log, even after a power failure.
fn sync_log(state: &Path) -> io::Result<()> {
    match File::open(with_suffix(state, WAL_SUFFIX)) {
        Ok(file) => file.sync_all(),
        // Without a write-ahead log all commits are in the database, which was synced when it was removed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Creates or truncates a file that only its user can read, since it contains the names and metadata of jobs.
pub(super) fn create_private(path: &Path) -> io::Result<File> {
    let file = open_private(path)?;
    file.set_len(0)?;
    Ok(file)
}

/// Opens such a file to be overwritten from its start, or creates it.
pub(super) fn open_private(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Syncs the folder of a file, so that the file's name is durable. Systems that cannot open a folder do that
/// themselves.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder_of(path)).map_or(Ok(()), |folder| folder.sync_all())
}

/// The suffix of SQLite's write-ahead log.
pub(super) const WAL_SUFFIX: &str = "-wal";

/// The path of the state with a suffix.
pub(super) fn with_suffix(state: &Path, suffix: &str) -> PathBuf {
    let mut name = state.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

pub(super) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}
