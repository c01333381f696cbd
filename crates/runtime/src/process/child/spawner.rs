//! The spawner: starts the children of one manager with the settings that they share.

use std::{
    io,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

use uuid::Uuid;

use super::{Child, ChildSpec};
use crate::process::{memory_limit::MemoryLimiter, open_files, tree::Marker};
use cortex_util::program;

/// Starts children. Invariant: no two have the same marker.
#[derive(Debug)]
pub struct Spawner {
    instance: Uuid,
    started: AtomicU64,
    /// The program that runs as guardian; this one if absent.
    program: Option<PathBuf>,
    limiter: MemoryLimiter,
    /// The limit on open files of a child; that of this process if absent.
    open_files: Option<u64>,
}

impl Spawner {
    /// Returns a spawner for the children of this instance, without cgroups. Raises the limit on open files of this
    /// process.
    #[must_use]
    pub fn new(instance: Uuid) -> Self {
        Self {
            instance,
            started: AtomicU64::new(0),
            program: None,
            limiter: MemoryLimiter::without_cgroup(),
            open_files: open_files::raise(),
        }
    }

    /// Replaces the limiter of memory.
    #[must_use]
    pub fn with_limiter(self, limiter: MemoryLimiter) -> Self {
        Self { limiter, ..self }
    }

    /// Replaces the program that runs as guardian. A test needs this, since its own program is not one.
    #[must_use]
    pub fn with_program(self, program: PathBuf) -> Self {
        Self { program: Some(program), ..self }
    }

    /// Starts a child. Must be called on a tokio runtime with I/O and time. A command that cannot be started is no
    /// error here: the child ends with [`NotStarted`](super::ExitReason::NotStarted).
    ///
    /// # Errors
    /// A variable is invalid, or the guardian cannot be started.
    pub fn start(&self, spec: ChildSpec) -> io::Result<Child> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        Child::start(spec, Marker { instance: self.instance, number }, self)
    }

    /// Returns the program of the guardian. Its path is looked up each time, since an upgrade may replace the file.
    pub(super) fn program(&self) -> PathBuf {
        self.program.clone().unwrap_or_else(program::path)
    }

    pub(super) fn open_files(&self) -> Option<u64> {
        self.open_files
    }

    pub(super) fn limiter(&self) -> &MemoryLimiter {
        &self.limiter
    }
}
