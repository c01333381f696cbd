//! The snapshots beside a state: which there are, which is the newest good one, and how one is added.

use super::super::{JournalError, SnapshotFault};
use super::rows;
use super::snapshot_file::{self, Anchor, read_snapshot_while};
use cortex_core::Cluster;
use rusqlite::Connection;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// What stands between the name of the state and the place in the log in the name of a snapshot.
const INFIX: &str = ".snapshot-";

/// What the name of a snapshot ends with while it is being written.
const UNFINISHED: &str = ".new";

/// How many digits the place in the log has in the name of a snapshot, so that names sort as numbers do.
const SEQUENCE_DIGITS: usize = 20;

/// The snapshots beside a state by the last event in them, oldest first. Whether they are good is not looked at.
///
/// # Errors
/// [`JournalError::System`], if the folder cannot be read.
pub fn find_snapshots(state: &Path) -> Result<Vec<(u64, PathBuf)>, JournalError> {
    find_ending_in(state, "")
}

/// Removes what crashes left of snapshots. Only whoever owns the state and writes none meanwhile may do so.
pub(super) fn remove_unfinished(state: &Path) -> Result<(), JournalError> {
    for (_, path) in find_ending_in(state, UNFINISHED)? {
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "an unfinished snapshot takes up room and cannot be removed");
        }
    }
    Ok(())
}

fn find_ending_in(state: &Path, suffix: &str) -> Result<Vec<(u64, PathBuf)>, JournalError> {
    let folder = folder_of(state);
    let failed = |source| JournalError::System { path: folder.clone(), doing: "read", source };
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

/// A snapshot that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot {} cannot be used: {}", .0.display(), .1)]
pub struct UnusableSnapshot(pub PathBuf, pub SnapshotFault);

/// A snapshot that was read and belongs to the log.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) anchor: Anchor,
    pub(super) books: Cluster,
}

/// The newest snapshot that is good, taken from this log and not from behind `until`, if there is one, and what is wrong
/// with newer ones. Given up with an error as soon as `goes_on` says no.
pub(super) fn newest_good(
    state: &Path,
    connection: &Connection,
    log_id: &str,
    until: u64,
    goes_on: &dyn Fn() -> bool,
) -> Result<(Option<Snapshot>, Vec<UnusableSnapshot>), JournalError> {
    let mut faults = Vec::new();
    for (sequence, path) in find_snapshots(state)?.into_iter().rev().filter(|(sequence, _)| *sequence <= until) {
        let read = match belongs(&path, sequence, state, connection, log_id)? {
            Ok(()) => read_snapshot_while(&path, goes_on),
            Err(fault) => Err(fault),
        };
        match read {
            Ok((anchor, books)) => return Ok((Some(Snapshot { anchor, books }), faults)),
            Err(_) if !goes_on() => return Err(given_up(state)),
            Err(fault) => faults.push(UnusableSnapshot(path, fault)),
        }
    }
    Ok((None, faults))
}

/// The one of these snapshots that is of this log and goes further than the log itself, if there is one.
pub(super) fn ahead_of(snapshots: Vec<(u64, PathBuf)>, log_id: &str, last: u64) -> Option<(u64, PathBuf)> {
    let is_of_log = |(sequence, path): &(u64, PathBuf)| {
        let anchor = snapshot_file::read_anchor(path);
        anchor.is_ok_and(|anchor| anchor.log_id == log_id && anchor.sequence == *sequence)
    };
    snapshots.into_iter().rev().take_while(|(sequence, _)| *sequence > last).find(is_of_log)
}

/// The newest snapshot before a place that is whole and taken from this log.
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

/// Whether a snapshot was taken from this log, by what it says of itself.
fn belongs(
    path: &Path,
    sequence: u64,
    state: &Path,
    connection: &Connection,
    log_id: &str,
) -> Result<Result<(), SnapshotFault>, JournalError> {
    let anchor = match snapshot_file::read_anchor(path) {
        Ok(anchor) => anchor,
        Err(fault) => return Ok(Err(fault)),
    };
    let chain = rows::chain_at(connection, sequence).map_err(|error| super::schema::explain(state, "read", error))?;
    let fault = if anchor.log_id != log_id {
        Some("it was taken from another state")
    } else if anchor.sequence != sequence {
        Some("its name is not its own")
    } else if chain != Some(anchor.chain) {
        // As after an older copy of the log was brought back.
        Some("the log did not go through it")
    } else {
        None
    };
    Ok(match fault {
        Some(fault) => Err(SnapshotFault(fault.to_owned())),
        None => Ok(()),
    })
}

/// What a walk over the log or a snapshot ends with that was not to go on.
pub(super) fn given_up(state: &Path) -> JournalError {
    let source = io::Error::from(io::ErrorKind::Interrupted);
    JournalError::System { path: state.to_owned(), doing: "read to the end", source }
}

/// Writes a snapshot beside the state, and drops all before it but the good one at `base`: if the new one is damaged
/// one day, that one does.
///
/// # Errors
/// The system's; [`io::ErrorKind::Interrupted`] if `goes_on` said no. Then there is no new snapshot.
pub(super) fn add(
    state: &Path,
    anchor: &Anchor,
    books: &Cluster,
    base: Option<u64>,
    goes_on: &dyn Fn() -> bool,
) -> io::Result<()> {
    let folder = folder_of(state);
    let mut name = prefix(state);
    name.push(format!("{:0SEQUENCE_DIGITS$}", anchor.sequence));
    let path = folder.join(&name);
    name.push(UNFINISHED);
    let unfinished = folder.join(name);
    let written = snapshot_file::write(&unfinished, anchor, books, goes_on).and_then(|()| {
        sync_log(state)?;
        fs::rename(&unfinished, &path)?;
        sync_folder(&path)
    });
    if let Err(error) = written {
        // What is left of it is of no use, and is written over by the next if it cannot be removed.
        let _ = fs::remove_file(&unfinished);
        return Err(error);
    }
    for (sequence, old) in find_snapshots(state).map_err(io::Error::other)? {
        // Those ahead of the log are from before an older copy of it was brought back: they go with the newer one.
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

/// Brings the log to the disk, whose commits may be with the system only: no snapshot goes further than its log, even
/// after a power cut.
fn sync_log(state: &Path) -> io::Result<()> {
    match File::open(beside(state, AHEAD)) {
        Ok(file) => file.sync_all(),
        // All of it is in the database already, which was brought to the disk with it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes a file, over what is there, that is for its user alone: jobs and what they noted are nobody else's business.
pub(super) fn create_private(path: &Path) -> io::Result<File> {
    let file = open_private(path)?;
    file.set_len(0)?;
    Ok(file)
}

/// Opens such a file to be written over from its start, or makes it.
pub(super) fn open_private(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Lets the name of a file last. Where a folder cannot be opened, the system does that by itself.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder_of(path)).map_or(Ok(()), |folder| folder.sync_all())
}

/// What the name of SQLite's write-ahead file adds to that of the state.
pub(super) const AHEAD: &str = "-wal";

/// The file whose name is that of the state and this.
pub(super) fn beside(state: &Path, suffix: &str) -> PathBuf {
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
