//! Counts the arrivals of a trace in bins, one row at a time: the file may have any length.

use anyhow::ensure;
use cortex_simulation::TraceRows;
use std::path::Path;

/// The longest gap in a trace, in bins. A longer gap is a mistake in the times, and would take hours to count.
const GAP_BINS_MAX: u64 = 1_000_000;

/// The demand in each bin of a trace, from the bin of the first row to that of the last. The last bin of single
/// arrivals is left out, because the trace may end within it.
pub(crate) struct Bins {
    rows: TraceRows,
    bin_seconds: f64,
    /// The current bin and its demand; `None` before the first row.
    counted: Option<(u64, u64)>,
    /// The bin and the requests of the first row after the current bin, once known.
    next: Option<(u64, u64)>,
    is_over: bool,
}

impl Bins {
    /// Opens a file and reads its header.
    pub(crate) fn open(path: &Path, bin_seconds: u32) -> anyhow::Result<Self> {
        let rows = TraceRows::open(path)?;
        Ok(Self { rows, bin_seconds: f64::from(bin_seconds), counted: None, next: None, is_over: false })
    }

    /// Returns the bin of the next row and its requests; `None` at the end.
    fn row(&mut self) -> anyhow::Result<Option<(u64, u64)>> {
        let Some(row) = self.rows.next().transpose()? else { return Ok(None) };
        let bin = (row.seconds / self.bin_seconds) as u64;
        if let Some((counted, _)) = self.counted {
            let gap = bin - counted;
            let line = row.line;
            ensure!(
                gap <= GAP_BINS_MAX,
                "line {line}: {gap} bins after the previous row, over {GAP_BINS_MAX}: correct the times"
            );
        }
        Ok(Some((bin, row.requests)))
    }

    /// Returns the demand of the current bin, once a row after it was read.
    fn count(&mut self) -> anyhow::Result<Option<u64>> {
        let (bin, mut demand) = match self.counted {
            Some(counted) => counted,
            None => match self.row()? {
                Some(first) => *self.counted.insert(first),
                None => return Ok(None),
            },
        };
        while self.next.is_none() {
            match self.row()? {
                Some((of, requests)) if of == bin => demand = demand.saturating_add(requests),
                Some(row) => self.next = Some(row),
                None => {
                    self.is_over = true;
                    return Ok(self.rows.are_counted().then_some(demand));
                }
            }
        }
        let of_next = self.next.take_if(|(of, _)| *of == bin + 1).map_or(0, |(_, requests)| requests);
        self.counted = Some((bin + 1, of_next));
        Ok(Some(demand))
    }
}

impl Iterator for Bins {
    type Item = anyhow::Result<u64>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let counted = self.count();
        self.is_over |= counted.is_err();
        counted.transpose()
    }
}
