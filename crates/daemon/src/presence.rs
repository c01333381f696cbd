//! What others find the daemon by: the runtime directory, the socket and the record in it, and the lock of the shared memory.
//!
//! Any of it may be removed while the daemon runs, for example at the end of a login. Invariants: nothing is made or removed
//! without the lock; and what another daemon made in the same place is left to it.

use std::{fs, io, path::Path, time::Duration};

use tokio::{net::UnixListener, time::sleep};

use super::runtime_directory::{Place, prepare};
use cortex_serving::StartupError;
use cortex_util::atomic_file;
use cortex_util::file_id::FileId;
use cortex_util::lock::{LockError, OwnerLock, OwnerRecord};

/// The time between two looks whether all is still in its place.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// The daemon's files.
pub(super) struct Presence {
    place: Place,
    record: OwnerRecord,
    /// Of the shared memory; a state has a lock of its own.
    lock: Option<OwnerLock>,
    /// The socket's file, once it is made.
    socket: Option<FileId>,
    /// What could not be mended at the last look, so that it is told once.
    told: Option<String>,
}

impl Presence {
    /// Makes the socket and the record. Whoever calls this holds the lock, so that what lies in their place was left by a
    /// crash.
    ///
    /// # Errors
    /// One of them cannot be made.
    pub(super) fn make(
        place: Place,
        record: OwnerRecord,
        lock: Option<OwnerLock>,
    ) -> Result<(Self, UnixListener), StartupError> {
        let mut presence = Self { place, record, lock, socket: None, told: None };
        let listener = presence.bind()?;
        presence.write_record()?;
        Ok((presence, listener))
    }

    /// Looks again and again whether all is in its place, and makes anew what is not. Gives a socket that was made anew.
    ///
    /// # Errors
    /// Another daemon owns the shared memory by now.
    pub(super) async fn keep(&mut self) -> Result<UnixListener, StartupError> {
        loop {
            sleep(LOOK_INTERVAL).await;
            match self.mend() {
                Ok(None) => self.told = None,
                Ok(Some(socket)) => {
                    tracing::warn!(socket = %self.place.socket.display(), "the socket was gone: it is made anew");
                    return Ok(socket);
                }
                Err(unusable) if unusable.held => return Err(unusable),
                Err(unusable) if self.told.as_deref() == Some(&unusable.text) => {}
                Err(unusable) => {
                    tracing::warn!("new sessions do not find this daemon: {unusable}");
                    self.told = Some(unusable.text);
                }
            }
        }
    }

    fn mend(&mut self) -> Result<Option<UnixListener>, StartupError> {
        let directory = self.place.socket.parent().unwrap_or_else(|| Path::new("/"));
        prepare(directory)?;
        if self.lock.as_ref().is_some_and(|lock| !lock.is_in_place()) {
            self.lock = Some(OwnerLock::acquire(&self.place.lock, &self.record, Duration::ZERO).map_err(not_owned)?);
        }
        let socket = if self.holds_socket() { None } else { Some(self.bind()?) };
        if !self.owns_record() {
            self.write_record()?;
        }
        Ok(socket)
    }

    /// Removes the socket and the record, so that those who come now find no daemon and start one, which waits for the lock.
    pub(super) fn remove(&self) {
        if self.holds_socket() {
            remove(&self.place.socket);
        }
        if self.owns_record() {
            remove(&self.place.record);
        }
    }

    /// Whether the socket in its place is the one that was made.
    fn holds_socket(&self) -> bool {
        self.socket.is_some() && file_at(&self.place.socket) == self.socket
    }

    fn bind(&mut self) -> Result<UnixListener, StartupError> {
        let path = &self.place.socket;
        let made = match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => UnixListener::bind(path),
        };
        let listener =
            made.map_err(|error| StartupError::new(format!("the socket {} cannot be made ({error})", path.display())))?;
        // One that is gone at once is found missing at the next look.
        self.socket = file_at(path);
        Ok(listener)
    }

    fn owns_record(&self) -> bool {
        OwnerRecord::read(&self.place.record).is_ok_and(|record| record.as_ref() == Some(&self.record))
    }

    fn write_record(&self) -> Result<(), StartupError> {
        let path = &self.place.record;
        let write = || {
            let mut text = serde_json::to_vec(&self.record)?;
            text.push(b'\n');
            atomic_file::replace(path, &text)
        };
        write().map_err(|error: io::Error| {
            StartupError::new(format!("the record {} cannot be written ({error})", path.display()))
        })
    }
}

/// Which file lies there, if one does.
fn file_at(path: &Path) -> Option<FileId> {
    fs::symlink_metadata(path).ok().map(|metadata| FileId::of(&metadata))
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "a file stays behind");
        }
        _ => {}
    }
}

/// Why the shared memory cannot be owned.
pub(super) fn not_owned(error: LockError) -> StartupError {
    match error {
        error @ LockError::Held { .. } => StartupError {
            text: format!("there is a daemon already: {error}; end it with `{}` first", super::stop_command(None)),
            held: true,
        },
        LockError::Failed { path, error } => {
            StartupError::new(format!("{} cannot be locked ({error}): make it writable", path.display()))
        }
    }
}
