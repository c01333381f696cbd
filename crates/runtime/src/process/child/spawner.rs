//! What all children of one manager have in common.

use std::{
    io,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

use uuid::Uuid;

use super::{Child, Launch};
use crate::process::{memory_limit::MemoryLimiter, open_files, tree::Marker};
use cortex_util::program;

/// Where children are started. Invariant: no two have the same marker.
#[derive(Debug)]
pub struct Spawner {
    instance: Uuid,
    started: AtomicU64,
    /// The program of the guardians, if it is not this one.
    program: Option<PathBuf>,
    limiter: MemoryLimiter,
    /// How many files children may have open, if not as many as this process.
    open_files: Option<u64>,
}

impl Spawner {
    /// For the children of this instance, without cgroups. From here on this process may have as many files open as the system
    /// lets it.
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

    /// The same with another way to bound memory.
    #[must_use]
    pub fn with_limiter(self, limiter: MemoryLimiter) -> Self {
        Self { limiter, ..self }
    }

    /// The same with the guardian of another program than the running one, such as a test.
    #[must_use]
    pub fn with_program(self, program: PathBuf) -> Self {
        Self { program: Some(program), ..self }
    }

    /// Starts a child. It must be called on a tokio runtime with I/O and time. That the command cannot be started is only seen
    /// from how the child ends.
    ///
    /// # Errors
    /// What is named cannot be passed on, or no process can be started.
    pub fn start(&self, launch: Launch) -> io::Result<Child> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        Child::start(launch, Marker { instance: self.instance, number }, self)
    }

    /// Asked for anew each time, since the file may be replaced at any time.
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
