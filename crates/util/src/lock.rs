//! One owner at a time: a locked file that says who holds it.
//!
//! The lock is the system's own, on the open file, so that it goes with its process however that ends. The content only
//! tells others whom to look for. Invariants: the file is never removed, since whoever has it open would then hold a lock
//! that nobody else sees; and the content is written by the holder alone, and emptied when it lets go in order.

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

/// The longest record that is read, in bytes: two paths of the greatest length and some more.
const RECORD_BYTES_MAX: u64 = 16_384;

/// The time between two attempts to take a lock that another holds.
const RETRY_WAIT: Duration = Duration::from_millis(20);

/// How long a start waits for an owner that is just ending.
pub const LOCK_WAIT_MAX: Duration = Duration::from_secs(3);

/// Who owns something, as written for others to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerRecord {
    /// The process id.
    pub pid: u32,
    /// The version of the program.
    pub version: String,
    /// The version of what is spoken over the socket, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u32>,
    /// Where the owner takes sessions of others; only a daemon does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// The state that is owned, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<PathBuf>,
    /// When the process became the owner, as in `2026-01-31T12:00:00Z`.
    pub started_at: String,
}

/// A lock that is held until this is dropped.
#[derive(Debug)]
#[must_use = "dropping it lets go of the lock"]
pub struct OwnerLock {
    file: File,
    path: PathBuf,
}

/// A lock that was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else holds it.
    #[error("{} is held by {}", path.display(), Holder(owner.as_deref()))]
    Held {
        /// The locked file.
        path: PathBuf,
        /// Who holds it, if it can be read.
        owner: Option<Box<OwnerRecord>>,
    },
    /// The file cannot be opened, locked or written.
    #[error("{} cannot be locked: its folder must exist and the file be writable", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
}

/// Whether a daemon holds the lock already that another wants: there is nothing to wait for, and whoever waited would
/// take over from one that was told to end.
fn is_served(file: &File, wanted_by: &OwnerRecord) -> bool {
    let has_socket = |owner: OwnerRecord| owner.socket.is_some();
    wanted_by.socket.is_some() && read_record(file).ok().flatten().is_some_and(has_socket)
}

impl OwnerRecord {
    /// The record of this process, from now on, without a socket or a state.
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

    /// What a file says, without looking whether it is locked: nothing if there is no such file, or no record in it.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        match File::open(path) {
            Ok(file) => read_record(&file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl OwnerLock {
    /// Takes the lock on the file at `path`, which is made if there is none, and writes `record` into it. While another
    /// holds it, it is tried again for as long as `patience`, which blocks the thread.
    ///
    /// # Errors
    /// [`LockError::Held`] if another holds it for longer, [`LockError::Failed`] if the file cannot be used.
    pub fn acquire(path: &Path, record: &OwnerRecord, patience: Duration) -> Result<Self, LockError> {
        let failed = |error| LockError::Failed { path: path.to_owned(), error };
        let file = open(path).map_err(failed)?;
        let until = Instant::now() + patience;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < until && !is_served(&file, record) => {
                    thread::sleep(RETRY_WAIT);
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

    /// Looks whether anybody holds the lock on the file at `path`, without taking it or making the file.
    /// The answer may be out of date at once.
    ///
    /// # Errors
    /// [`LockError::Held`] names who holds it; [`LockError::Failed`] if the file cannot be read.
    pub fn check_free(path: &Path) -> Result<(), LockError> {
        let failed = |error| LockError::Failed { path: path.to_owned(), error };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        // Shared, so that two who only look do not see each other; it is let go with the file.
        match file.try_lock_shared() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => {
                let owner = read_record(&file).map_err(failed)?.map(Box::new);
                Err(LockError::Held { path: path.to_owned(), owner })
            }
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Whether the file that is locked is still the one at its path. One that was removed or replaced keeps nobody out.
    #[cfg(unix)]
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(ours), Ok(there)) => FileId::of(&ours) == FileId::of(&there),
            _ => false,
        }
    }

    /// The locked file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces what the file says.
    fn write(&mut self, record: &OwnerRecord) -> io::Result<()> {
        let text = serde_json::to_vec(record)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&text)?;
        self.file.write_all(b"\n")?;
        // What was longer before leaves no rest.
        let length = self.file.stream_position()?;
        self.file.set_len(length)
    }
}

impl Drop for OwnerLock {
    fn drop(&mut self) {
        // A record that stays behind is only a hint to whoever looks: it is not believed without the lock.
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

/// The record in a file; nothing if it holds none, for example because its owner is just writing it.
fn read_record(mut file: &File) -> io::Result<Option<OwnerRecord>> {
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(RECORD_BYTES_MAX).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text).ok())
}

/// Whom to look for.
struct Holder<'a>(Option<&'a OwnerRecord>);

impl fmt::Display for Holder<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(owner) => {
                write!(formatter, "process {} (version {}), since {}", owner.pid, owner.version, owner.started_at)
            }
            None => formatter.write_str("a process that did not write its record"),
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
    fn a_held_lock_names_its_holder_and_is_free_again_when_let_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state.lock");
        OwnerLock::check_free(&path).expect("no file, no lock");
        let long = record("a version that is longer than the one after it");
        drop(OwnerLock::acquire(&path, &long, Duration::ZERO).expect("a free lock"));
        assert_eq!(OwnerRecord::read(&path).expect("a file"), None, "emptied at the end");

        std::fs::write(&path, serde_json::to_vec(&long).expect("JSON")).expect("a file left by a crash");
        OwnerLock::check_free(&path).expect("a record alone holds nothing");
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
    fn patience_waits_for_an_owner_that_is_ending() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lock");
        let lock = OwnerLock::acquire(&path, &record("1"), Duration::ZERO).expect("a free lock");
        let waiting = {
            let path = path.clone();
            thread::spawn(move || OwnerLock::acquire(&path, &record("2"), Duration::from_secs(30)).map(drop))
        };
        thread::sleep(RETRY_WAIT * 2);
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
