//! The thread that writes a snapshot from the log on disk, while the journal and the engine continue.

use super::super::JournalError;
use super::recovery::{Recovery, recover_in_background};
use super::{schema, snapshots};
use cortex_core::view::Filter;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use thiserror::Error;

/// The niceness of the snapshot thread: a tenth of the weight of other threads, so that it still makes progress on a
/// busy machine.
#[cfg(target_os = "linux")]
const SNAPSHOT_NICENESS: i32 = 10;

/// A snapshot that the thread has written.
pub(super) struct WrittenSnapshot {
    /// The last event in it.
    pub(super) sequence: u64,
    /// The last event in the snapshot that it is based on, which was kept; 0 if there was none.
    pub(super) made_from: u64,
    /// The number of records in it.
    pub(super) records: u64,
}

/// Lowers the priority of the calling thread.
pub(super) fn lower_priority() {
    // On other systems this would lower the priority of the whole process.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(SNAPSHOT_NICENESS) {
        tracing::debug!(%error, "priority of the snapshot thread not lowered");
    }
}

/// Why no snapshot was written.
#[derive(Debug, Error)]
pub(super) enum SnapshotFailure {
    #[error(transparent)]
    Recovery(#[from] JournalError),
    #[error("the file of the snapshot cannot be written")]
    Write(#[from] io::Error),
}

/// Recovers the cluster as of the event `until` from the log and writes a snapshot of it. The engine is not involved
/// and continues.
pub(super) fn write_snapshot(
    path: &Path,
    until: u64,
    is_ending: &AtomicBool,
) -> Result<WrittenSnapshot, SnapshotFailure> {
    let should_continue = || !is_ending.load(Ordering::Relaxed);
    let connection = schema::open_to_read(path)?;
    let Recovery { cluster, anchor, snapshot, .. } = recover_in_background(&connection, path, until, &should_continue)?;
    snapshots::add(path, &anchor, &cluster, snapshot, &should_continue)?;
    let records = cluster.count(&Filter::default());
    Ok(WrittenSnapshot { sequence: anchor.sequence, made_from: snapshot.unwrap_or(0), records })
}
