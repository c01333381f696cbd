//! A trace file as a source of arrivals.

use super::arrivals::{Arrival, Arrivals};
use super::comparison::{ArrivalSource, ReadProgress};
use super::trace::{TraceError, TraceRows};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The number of rows between two progress updates.
const PROGRESS_ROWS: u64 = 1_024;

/// A file that contains a trace.
#[derive(Clone, Debug)]
pub struct TraceFile {
    path: PathBuf,
    bytes: u64,
    seed: u64,
}

impl TraceFile {
    /// Opens a trace file. If its rows count requests, their times are generated from `seed`.
    ///
    /// # Errors
    /// [`TraceError`] if the file cannot be read, is not a regular file, or has an invalid header.
    pub fn open(path: &Path, seed: u64) -> Result<Self, TraceError> {
        let metadata = fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(TraceError::NotAFile);
        }
        TraceRows::open(path)?;
        Ok(Self { path: path.to_owned(), bytes: metadata.len(), seed })
    }

    /// Opens the rows from the first one on.
    ///
    /// # Errors
    /// As in [`TraceRows::open`].
    pub fn rows(&self) -> Result<TraceRows, TraceError> {
        TraceRows::open(&self.path)
    }
}

impl ArrivalSource for TraceFile {
    fn arrivals(
        &self,
        progress: &Arc<ReadProgress>,
    ) -> Result<impl Iterator<Item = Result<Arrival, TraceError>>, TraceError> {
        let mut rows = self.rows()?;
        let (are_counted, bytes, progress) = (rows.are_counted(), self.bytes.max(1), Arc::clone(progress));
        let mut count = 0_u64;
        let tracked = std::iter::from_fn(move || {
            let row = rows.next();
            count += 1;
            if count.is_multiple_of(PROGRESS_ROWS) {
                let thousandths = u128::from(rows.bytes()) * 1_000 / u128::from(bytes);
                // The file may grow while it is read.
                progress.thousandths.store(u64::try_from(thousandths).unwrap_or(1_000).min(1_000), Ordering::Relaxed);
                progress.rows.store(count, Ordering::Relaxed);
            }
            row
        });
        Ok(Arrivals::new(tracked, are_counted, self.seed))
    }
}
