//! A trace in a file, as a source of arrivals.

use super::arrivals::{Arrival, Arrivals};
use super::comparison::{Reading, Source};
use super::trace::{Rows, TraceError};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// After how many rows it is told how far the file was read.
const TOLD_ROWS: u64 = 1_024;

/// A file with a trace.
#[derive(Clone, Debug)]
pub struct TraceFile {
    path: PathBuf,
    bytes: u64,
    seed: u64,
}

impl TraceFile {
    /// The trace in a file. Where its rows count arrivals, their moments are drawn from `seed`.
    ///
    /// # Errors
    /// There is no such file, it cannot be read more than once, or its header is no header of a trace.
    pub fn open(path: &Path, seed: u64) -> Result<Self, TraceError> {
        let metadata = fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(TraceError::NotAFile);
        }
        Rows::open(path)?;
        Ok(Self { path: path.to_owned(), bytes: metadata.len(), seed })
    }

    /// The rows, from the first one on.
    ///
    /// # Errors
    /// As of [`Rows::open`].
    pub fn rows(&self) -> Result<Rows, TraceError> {
        Rows::open(&self.path)
    }
}

impl Source for TraceFile {
    fn arrivals(
        &self,
        reading: &Arc<Reading>,
    ) -> Result<impl Iterator<Item = Result<Arrival, TraceError>>, TraceError> {
        let mut rows = self.rows()?;
        let (are_counted, bytes, reading) = (rows.are_counted(), self.bytes.max(1), Arc::clone(reading));
        let mut count = 0_u64;
        let told = std::iter::from_fn(move || {
            let row = rows.next();
            count += 1;
            if count.is_multiple_of(TOLD_ROWS) {
                let thousandths = u128::from(rows.bytes()) * 1_000 / u128::from(bytes);
                // A file may grow meanwhile.
                reading.thousandths.store(u64::try_from(thousandths).unwrap_or(1_000).min(1_000), Ordering::Relaxed);
                reading.rows.store(count, Ordering::Relaxed);
            }
            row
        });
        Ok(Arrivals::new(told, are_counted, self.seed))
    }
}
