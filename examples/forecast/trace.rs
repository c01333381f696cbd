//! Reading a trace, one row at a time: the file may be of any length.

use anyhow::{Context, anyhow, bail, ensure};
use csv::{Reader, ReaderBuilder, StringRecord};
use std::fs::File;
use std::path::Path;

/// The longest hole in a trace, in bins. A longer one is a mistake in the times, and would be counted for hours.
const HOLE_BINS_MAX: u64 = 1_000_000;

/// The latest time, in seconds: some 30,000 years, far within what a number with a fraction is exact for.
const SECONDS_MAX: f64 = 1e12;

/// The most requests in one row, up to which every whole number is exact.
const REQUESTS_MAX: f64 = 9_007_199_254_740_992.0;

/// The demand in each bin of a trace, from that of the first row to that of the last. The last bin of single arrivals is left
/// out, since the trace may end within it.
pub(crate) struct Bins {
    reader: Reader<File>,
    record: StringRecord,
    bin_seconds: f64,
    /// How many columns the header has, and so each row.
    columns: usize,
    /// Whether each row has a number of requests.
    is_counted: bool,
    /// The time of the last row.
    seconds: Option<f64>,
    /// The bin that is being counted, and its demand.
    bin: u64,
    demand: u64,
    /// The first row behind it, once it is known: its bin, and its requests.
    next: Option<(u64, u64)>,
    is_over: bool,
}

impl Bins {
    /// Opens a file, and looks at its header.
    pub(crate) fn open(path: &Path, bin_seconds: u32) -> anyhow::Result<Self> {
        let mut reader = ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_path(path)?;
        let header = reader.headers().context("line 1")?;
        ensure!(!header.is_empty(), "the file is empty: give a header and rows");
        ensure!(
            &header[0] == "seconds",
            "line 1: the first column is {:?}: give seconds, and requests behind it if they are counted",
            &header[0]
        );
        let (columns, is_counted) = (header.len(), header.get(1) == Some("requests"));
        Ok(Self {
            reader,
            record: StringRecord::new(),
            bin_seconds: f64::from(bin_seconds),
            columns,
            is_counted,
            seconds: None,
            bin: 0,
            demand: 0,
            next: None,
            is_over: false,
        })
    }

    /// The bin of the next row, and its requests; nothing at the end.
    fn row(&mut self) -> anyhow::Result<Option<(u64, u64)>> {
        if !self.reader.read_record(&mut self.record)? {
            return Ok(None);
        }
        let line = self.record.position().map_or(0, csv::Position::line);
        let columns = self.record.len();
        ensure!(columns == self.columns, "line {line}: {columns} columns, and the header has {}", self.columns);
        let in_line = |problem| anyhow!("line {line}: {problem}");
        let seconds = self.seconds_of_row().map_err(in_line)?;
        let requests = if self.is_counted { requests(&self.record[1]) } else { Ok(1) };
        let requests = requests.map_err(in_line)?;
        let bin = (seconds / self.bin_seconds) as u64;
        if self.seconds.replace(seconds).is_some() {
            let hole = bin - self.bin;
            ensure!(
                hole <= HOLE_BINS_MAX,
                "line {line}: {hole} bins after the row above: {HOLE_BINS_MAX} are the most"
            );
        }
        Ok(Some((bin, requests)))
    }

    fn seconds_of_row(&self) -> anyhow::Result<f64> {
        let text = &self.record[0];
        let Ok(seconds) = text.parse::<f64>() else { bail!("seconds is {text:?}: give a number") };
        ensure!((0.0..=SECONDS_MAX).contains(&seconds), "seconds is {text}: give 0 to {SECONDS_MAX}");
        if let Some(before) = self.seconds {
            ensure!(seconds >= before, "seconds is {text}, after {before} in the row above: sort the rows by time");
        }
        Ok(seconds)
    }

    /// The demand of the bin that is being counted, once a row behind it was seen.
    fn count(&mut self) -> anyhow::Result<Option<u64>> {
        if self.seconds.is_none() {
            let Some((bin, requests)) = self.row()? else { bail!("there are no rows behind the header") };
            (self.bin, self.demand) = (bin, requests);
        }
        while self.next.is_none() {
            match self.row()? {
                Some((bin, requests)) if bin == self.bin => self.demand = self.demand.saturating_add(requests),
                Some(row) => self.next = Some(row),
                None => {
                    self.is_over = true;
                    return Ok(self.is_counted.then_some(self.demand));
                }
            }
        }
        let demand = self.demand;
        self.bin += 1;
        self.demand = 0;
        if let Some((_, requests)) = self.next.take_if(|(bin, _)| *bin == self.bin) {
            self.demand = requests;
        }
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

fn requests(text: &str) -> anyhow::Result<u64> {
    let Ok(requests) = text.parse::<f64>() else { bail!("requests is {text:?}: give a whole number") };
    let is_whole = (0.0..=REQUESTS_MAX).contains(&requests) && requests.fract() == 0.0;
    ensure!(is_whole, "requests is {text}: give a whole number from 0 to {REQUESTS_MAX}");
    Ok(requests as u64)
}
