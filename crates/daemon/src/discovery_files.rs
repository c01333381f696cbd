//! The files by which sessions find the daemon: the runtime directory with the socket and the record, and the lock of
//! the in-memory state.
//!
//! They may be removed while the daemon runs, for example at the end of a login. Invariants: files are created and
//! removed only while holding the lock, and files that another daemon created at the same path are left alone.

use std::{fs, io, path::Path, time::Duration};

use tokio::{net::UnixListener, time::sleep};

use super::runtime_directory::{DaemonFiles, prepare};
use cortex_serving::StartupError;
use cortex_util::atomic_file;
use cortex_util::file_id::FileId;
use cortex_util::lock::{LockError, OwnerLock, OwnerRecord};

/// The interval between two checks whether the files still exist.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// The daemon's socket, record and lock.
pub(super) struct DiscoveryFiles {
    files: DaemonFiles,
    record: OwnerRecord,
    /// The lock of the in-memory state; a state on disk has its own lock.
    lock: Option<OwnerLock>,
    /// The id of the socket's file, once it is created.
    socket: Option<FileId>,
    /// The error of the last check, so that it is logged once.
    last_error: Option<StartupError>,
}

impl DiscoveryFiles {
    /// Creates the socket and the record. The caller holds the lock, so that existing files were left by a crash.
    ///
    /// # Errors
    /// One of them cannot be created.
    pub(super) fn create(
        files: DaemonFiles,
        record: OwnerRecord,
        lock: Option<OwnerLock>,
    ) -> Result<(Self, UnixListener), StartupError> {
        let mut discovery = Self { files, record, lock, socket: None, last_error: None };
        let listener = discovery.bind()?;
        discovery.write_record()?;
        Ok((discovery, listener))
    }

    /// Checks the files at intervals, and creates missing ones again. Returns when the socket was created again.
    ///
    /// # Errors
    /// Another daemon now owns the in-memory state.
    pub(super) async fn maintain(&mut self) -> Result<UnixListener, StartupError> {
        loop {
            sleep(CHECK_INTERVAL).await;
            match self.restore() {
                Ok(None) => self.last_error = None,
                Ok(Some(socket)) => {
                    tracing::warn!(socket = %self.files.socket.display(), "socket was missing and has been recreated");
                    return Ok(socket);
                }
                Err(error) if error.held => return Err(error),
                Err(error) if self.last_error.as_ref() == Some(&error) => {}
                Err(error) => {
                    tracing::warn!("new sessions cannot find this daemon: {error}");
                    self.last_error = Some(error);
                }
            }
        }
    }

    fn restore(&mut self) -> Result<Option<UnixListener>, StartupError> {
        let directory = self.files.socket.parent().unwrap_or_else(|| Path::new("/"));
        prepare(directory)?;
        if self.lock.as_ref().is_some_and(|lock| !lock.is_in_place()) {
            self.lock = Some(OwnerLock::acquire(&self.files.lock, &self.record, Duration::ZERO).map_err(not_owned)?);
        }
        let socket = if self.owns_socket() { None } else { Some(self.bind()?) };
        if !self.owns_record() {
            self.write_record()?;
        }
        Ok(socket)
    }

    /// Removes the socket and the record, so that new sessions start another daemon, which waits for the lock.
    pub(super) fn remove(&self) {
        if self.owns_socket() {
            remove(&self.files.socket);
        }
        if self.owns_record() {
            remove(&self.files.record);
        }
    }

    /// Returns whether the socket at the path is the one that was created.
    fn owns_socket(&self) -> bool {
        self.socket.is_some() && file_at(&self.files.socket) == self.socket
    }

    fn bind(&mut self) -> Result<UnixListener, StartupError> {
        let path = &self.files.socket;
        let bound = match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => UnixListener::bind(path),
        };
        let listener = bound
            .map_err(|error| StartupError::new(format!("failed to create the socket {} ({error})", path.display())))?;
        // If it was removed immediately, the next check finds it missing.
        self.socket = file_at(path);
        Ok(listener)
    }

    fn owns_record(&self) -> bool {
        OwnerRecord::read(&self.files.record).is_ok_and(|record| record.as_ref() == Some(&self.record))
    }

    fn write_record(&self) -> Result<(), StartupError> {
        let path = &self.files.record;
        let write = || {
            let mut text = serde_json::to_vec(&self.record)?;
            text.push(b'\n');
            atomic_file::replace(path, &text)
        };
        write().map_err(|error: io::Error| {
            StartupError::new(format!("failed to write the record {} ({error})", path.display()))
        })
    }
}

/// Returns the id of the file at a path, if there is one.
fn file_at(path: &Path) -> Option<FileId> {
    fs::symlink_metadata(path).ok().map(|metadata| FileId::of(&metadata))
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "failed to remove a file");
        }
        _ => {}
    }
}

/// Converts an error of the in-memory state's lock.
pub(super) fn not_owned(error: LockError) -> StartupError {
    match error {
        error @ LockError::Held { .. } => StartupError {
            text: format!("another daemon is running: {error}; stop it with `{}` first", super::stop_command(None)),
            held: true,
        },
        LockError::Failed { path, error } => {
            StartupError::new(format!("failed to lock {} ({error}): make it writable", path.display()))
        }
    }
}
