//! Exclusive ownership: a locked file with a record of its owner.
//!
//! The lock is the system's lock on the open file, so that it is released when its process ends for any reason. The
//! content only identifies the owner for others. Invariants: the file is never removed, since a process that has it
//! open would then hold a lock that no other process sees; only the holder writes the content, and empties it on an
//! orderly release.

use std::{
    fmt,
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

#[cfg(unix)]
use crate::file_id::FileId;
use cortex_core::time::Timestamp;

/// The longest record that is read, in bytes: two paths of maximum length, and a margin.
const RECORD_BYTES_MAX: u64 = 16_384;

/// The interval between two attempts to acquire a lock that another process holds.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// How long a starting process waits for an owner that is about to end.
pub const LOCK_WAIT_MAX: Duration = Duration::from_secs(3);

/// The owner of a lock, as recorded for other processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerRecord {
    pub pid: u32,
    pub version: String,
    /// The version of the socket's protocol, if there is a socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u32>,
    /// The socket at which the owner accepts sessions; only a daemon has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// The path of the owned state, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<PathBuf>,
    /// The time at which the process became the owner, as in `2026-01-31T12:00:00Z`.
    pub started_at: String,
}

/// A lock that is held until this is dropped.
#[derive(Debug)]
#[must_use = "dropping it releases the lock"]
pub struct OwnerLock {
    file: File,
    path: PathBuf,
}

/// A lock that was not acquired.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("{} is held by {}", path.display(), OwnerText(owner.as_deref()))]
    Held {
        path: PathBuf,
        /// The record of the owner, if it can be read.
        owner: Option<Box<OwnerRecord>>,
    },
    /// The file cannot be opened, locked or written.
    #[error("failed to lock {}: its folder must exist and the file must be writable", path.display())]
    Failed {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
}

/// Returns whether a daemon already holds the lock that another daemon requests. The second one must not wait, since it
/// would replace a daemon that was stopped on purpose.
fn is_served(file: &File, requested_by: &OwnerRecord) -> bool {
    let has_socket = |owner: OwnerRecord| owner.socket.is_some();
    requested_by.socket.is_some() && read_record(file).ok().flatten().is_some_and(has_socket)
}

impl OwnerRecord {
    /// Creates the record of this process, starting now, without a socket or a state.
    #[must_use]
    pub fn of_this_process() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            pid: std::process::id(),
            version: crate::program::VERSION.to_owned(),
            protocol: None,
            socket: None,
            state: None,
            started_at: Timestamp::since_1970(since).to_string(),
        }
    }

    /// Reads the record of a file without checking its lock. Returns `None` if there is no such file, or no record in
    /// it.
    ///
    /// # Errors
    /// The file exists and cannot be read.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        match File::open(path) {
            Ok(file) => read_record(&file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl OwnerLock {
    /// Acquires the lock on the file at `path`, which is created if missing, and writes `record` into it. Blocks the
    /// thread for up to `wait_max` while another process holds the lock.
    ///
    /// # Errors
    /// [`LockError::Held`] if another process still holds it, [`LockError::Failed`] if the file cannot be used.
    pub fn acquire(path: &Path, record: &OwnerRecord, wait_max: Duration) -> Result<Self, LockError> {
        let failed = |error| LockError::Failed { path: path.to_owned(), error };
        let file = open(path).map_err(failed)?;
        let until = Instant::now() + wait_max;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < until && !is_served(&file, record) => {
                    thread::sleep(RETRY_INTERVAL);
                }
                Err(TryLockError::WouldBlock) => {
                    let owner = read_record(&file).map_err(failed)?.map(Box::new);
                    return Err(LockError::Held { path: path.to_owned(), owner });
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
        let mut lock = Self { file, path: path.to_owned() };
        lock.write(record).map_err(failed)?;
        Ok(lock)
    }

    /// Checks whether a process holds the lock on the file at `path`, without acquiring it or creating the file. The
    /// result may be out of date immediately.
    ///
    /// # Errors
    /// [`LockError::Held`] with the owner if it is held; [`LockError::Failed`] if the file cannot be read.
    pub fn check_free(path: &Path) -> Result<(), LockError> {
        let failed = |error| LockError::Failed { path: path.to_owned(), error };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        // A shared lock, so that two concurrent checks do not conflict. It is released with the file.
        match file.try_lock_shared() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => {
                let owner = read_record(&file).map_err(failed)?.map(Box::new);
                Err(LockError::Held { path: path.to_owned(), owner })
            }
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Returns whether the locked file is still the one at its path. A lock on a removed or replaced file excludes no
    /// other process.
    #[cfg(unix)]
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(ours), Ok(there)) => FileId::of(&ours) == FileId::of(&there),
            _ => false,
        }
    }

    /// Returns the path of the locked file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the content of the file.
    fn write(&mut self, record: &OwnerRecord) -> io::Result<()> {
        let text = serde_json::to_vec(record)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&text)?;
        self.file.write_all(b"\n")?;
        // Removes the rest of a longer record.
        let length = self.file.stream_position()?;
        self.file.set_len(length)
    }
}

impl Drop for OwnerLock {
    fn drop(&mut self) {
        // A record that remains is harmless: without the lock it is ignored.
        let _ = self.file.set_len(0);
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Reads the record of a file. Returns `None` if there is none, for example while its owner is writing it.
fn read_record(mut file: &File) -> io::Result<Option<OwnerRecord>> {
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(RECORD_BYTES_MAX).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text).ok())
}

/// Formats the owner of a lock for errors.
struct OwnerText<'a>(Option<&'a OwnerRecord>);

impl fmt::Display for OwnerText<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(owner) => {
                write!(formatter, "process {} (version {}), since {}", owner.pid, owner.version, owner.started_at)
            }
            None => formatter.write_str("an unknown process without an owner record"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(version: &str) -> OwnerRecord {
        OwnerRecord { version: version.to_owned(), ..OwnerRecord::of_this_process() }
    }

    #[test]
    fn a_held_lock_names_its_holder_and_is_free_again_when_released() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state.lock");
        OwnerLock::check_free(&path).expect("no file, no lock");
        let long = record("a version that is longer than the one after it");
        drop(OwnerLock::acquire(&path, &long, Duration::ZERO).expect("a free lock"));
        assert_eq!(OwnerRecord::read(&path).expect("a file"), None, "emptied at the end");

        std::fs::write(&path, serde_json::to_vec(&long).expect("JSON")).expect("a file left by a crash");
        OwnerLock::check_free(&path).expect("a record alone does not hold the lock");
        let ours = OwnerRecord { socket: Some("/run/x.sock".into()), protocol: Some(1), ..record("1.2.3") };
        let lock = OwnerLock::acquire(&path, &ours, Duration::ZERO).expect("a free lock");
        assert_eq!(OwnerRecord::read(&path).expect("a file"), Some(ours.clone()));
        for refused in [
            OwnerLock::acquire(&path, &record("2"), Duration::ZERO).map(drop),
            OwnerLock::acquire(&path, &record("2"), Duration::from_millis(50)).map(drop),
            OwnerLock::check_free(&path),
        ] {
            let error = refused.expect_err("it is held");
            let text = error.to_string();
            assert!(text.contains(&format!("process {} (version 1.2.3)", ours.pid)), "{text}");
            assert!(matches!(error, LockError::Held { owner: Some(owner), .. } if *owner == ours));
        }
        drop(lock);
        let lock = OwnerLock::acquire(&path, &ours, Duration::ZERO).expect("free again");
        #[cfg(unix)]
        {
            assert!(lock.is_in_place());
            std::fs::remove_file(&path).expect("a file");
            assert!(!lock.is_in_place(), "removed");
            std::fs::write(&path, b"").expect("a file");
            assert!(!lock.is_in_place(), "another");
        }
        drop(lock);
    }

    #[test]
    fn acquiring_waits_for_an_owner_that_is_ending() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lock");
        let lock = OwnerLock::acquire(&path, &record("1"), Duration::ZERO).expect("a free lock");
        let waiting = {
            let path = path.clone();
            thread::spawn(move || OwnerLock::acquire(&path, &record("2"), Duration::from_secs(30)).map(drop))
        };
        // A failed attempt shows nothing to wait for. Usually the other thread has made one by then.
        thread::sleep(RETRY_INTERVAL * 2);
        drop(lock);
        waiting.join().expect("no panic").expect("the lock, in the end");
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("missing").join("lock");
        let error = OwnerLock::acquire(&path, &record("1"), Duration::ZERO).expect_err("no such folder");
        assert!(error.to_string().contains("missing"), "{error}");

        let garbled = folder.path().join("garbled");
        std::fs::write(&garbled, b"\xFF{").expect("a file");
        assert_eq!(OwnerRecord::read(&garbled).expect("a file"), None);
        drop(OwnerLock::acquire(&garbled, &record("1"), Duration::ZERO).expect("a free lock"));
    }
}
