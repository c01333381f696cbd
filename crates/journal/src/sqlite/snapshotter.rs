//! The thread that writes a snapshot from what is on the disk, while the journal and the engine go on.

use super::recovery::{Recovery, recover_aside};
use super::{schema, snapshots};
use cortex_core::view::Filter;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// By how much the thread that writes snapshots gives way to others: a tenth of their weight, so that it still gets on where
/// they leave nothing.
#[cfg(target_os = "linux")]
const SNAPSHOT_NICENESS: i32 = 10;

/// A snapshot that was written.
pub(super) struct Snapshotted {
    /// The last event in it.
    pub(super) sequence: u64,
    /// The last event in the snapshot that it was made from, which was kept; 0 if there was none.
    pub(super) made_from: u64,
    /// How many records its books have.
    pub(super) records: u64,
}

/// Lets the threads that somebody waits for go first, and the caller's take what they leave.
pub(super) fn give_way() {
    // Elsewhere it would be the whole process that gives way.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(SNAPSHOT_NICENESS) {
        tracing::debug!(%error, "the snapshot's thread does not give way");
    }
}

/// Makes the books at a place in the log again and writes them as a snapshot: the engine goes on meanwhile, and is never
/// asked for them. Gives also how many records they have.
pub(super) fn write_snapshot(path: &Path, until: u64, is_ending: &AtomicBool) -> Result<Snapshotted, String> {
    let write = || -> Result<Snapshotted, anyhow::Error> {
        let goes_on = || !is_ending.load(Ordering::Relaxed);
        let connection = schema::open_to_read(path)?;
        let Recovery { books, anchor, snapshot, .. } = recover_aside(&connection, path, until, &goes_on)?;
        snapshots::add(path, &anchor, &books, snapshot, &goes_on)?;
        let records = books.count(&Filter::default());
        Ok(Snapshotted { sequence: anchor.sequence, made_from: snapshot.unwrap_or(0), records })
    };
    write().map_err(|error| format!("{error:#}"))
}
