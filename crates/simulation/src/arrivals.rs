//! Task arrivals in the order of time.

use super::trace::{LineProblem, TraceError, TraceRow};
use cortex_core::time::Millis;
use fastrand::Rng;

/// The longest gap between two rows, in seconds: a year. A longer gap is a mistake in the trace, and simulating it
/// would take a plan for each planning interval.
pub(super) const GAP_SECONDS_MAX: f64 = 31_536_000.0;

/// The arrival of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The time since the first row of the trace.
    pub at: Millis,
    /// The tokens of the task, if known.
    pub tokens: Option<u64>,
}

/// The arrivals of trace rows. The requests of a row that counts them are spread over random times up to the next
/// row, generated in their order; those of the last row are spread over the interval before it. The same seed gives
/// the same times.
pub struct Arrivals<R> {
    rows: R,
    are_counted: bool,
    random: Rng,
    /// The time of the first row, in seconds.
    origin: Option<f64>,
    /// The row whose requests are being generated.
    pending: PendingRow,
    /// The row after it.
    next: Option<TraceRow>,
}

/// The remaining requests of a row.
#[derive(Clone, Copy, Debug, Default)]
struct PendingRow {
    left: u64,
    from: f64,
    /// The length of the interval, in seconds.
    width: f64,
    /// The elapsed fraction of the interval, from 0 to 1.
    elapsed: f64,
    tokens: Option<u64>,
}

impl<R: Iterator<Item = Result<TraceRow, TraceError>>> Arrivals<R> {
    /// Creates the arrivals of the rows; `are_counted` tells whether the rows count requests.
    pub fn new(rows: R, are_counted: bool, seed: u64) -> Self {
        let random = Rng::with_seed(seed);
        Self { rows, are_counted, random, origin: None, pending: PendingRow::default(), next: None }
    }

    /// Advances to the next row. Returns whether there is one.
    fn advance(&mut self) -> Result<bool, TraceError> {
        let row = match self.next.take() {
            Some(row) => row,
            None if self.origin.is_some() => return Ok(false),
            None => match self.rows.next().transpose()? {
                Some(row) => row,
                None => return Ok(false),
            },
        };
        self.origin.get_or_insert(row.seconds);
        self.next = self.rows.next().transpose()?;
        let gap = self.next.map(|next| next.seconds - row.seconds);
        if let (Some(gap), Some(next)) = (gap.filter(|gap| *gap > GAP_SECONDS_MAX), self.next) {
            return Err(TraceError::Line { line: next.line, problem: LineProblem::Gap { seconds: gap } });
        }
        let width = if self.are_counted { gap.unwrap_or(self.pending.width) } else { 0.0 };
        self.pending = PendingRow { left: row.requests, from: row.seconds, width, elapsed: 0.0, tokens: row.tokens };
        Ok(true)
    }

    /// Generates the next arrival of this row. The first of `left` uniform times in the remaining interval is
    /// distributed as the minimum of that many uniform values.
    fn generate(&mut self) -> Arrival {
        let row = &mut self.pending;
        if row.width > 0.0 {
            let remaining = (1.0 - self.random.f64()).powf(1.0 / row.left as f64);
            row.elapsed = 1.0 - (1.0 - row.elapsed) * remaining;
        }
        row.left -= 1;
        let seconds = row.from + row.elapsed * row.width - self.origin.unwrap_or(0.0);
        Arrival { at: Millis((seconds * 1_000.0).round() as u64), tokens: row.tokens }
    }
}

impl<R: Iterator<Item = Result<TraceRow, TraceError>>> Iterator for Arrivals<R> {
    type Item = Result<Arrival, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.pending.left == 0 {
            match self.advance() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    // Nothing follows an error.
                    self.next = None;
                    self.origin.get_or_insert(0.0);
                    return Some(Err(error));
                }
            }
        }
        Some(Ok(self.generate()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(line: u64, seconds: f64, requests: u64) -> Result<TraceRow, TraceError> {
        Ok(TraceRow { line, seconds, requests, tokens: None })
    }

    fn times(rows: Vec<Result<TraceRow, TraceError>>, are_counted: bool, seed: u64) -> Vec<u64> {
        let arrivals = Arrivals::new(rows.into_iter(), are_counted, seed);
        arrivals.map(|arrival| arrival.expect("a valid row").at.0).collect()
    }

    #[test]
    fn single_arrivals_have_the_times_of_their_rows() {
        let rows = vec![row(2, 100.0, 1), row(3, 100.25, 1), row(4, 101.0, 1)];
        assert_eq!(times(rows, false, 1), [0, 250, 1_000]);
    }

    #[test]
    fn counted_arrivals_are_spread_up_to_the_next_row() {
        let rows = || vec![row(2, 0.0, 10_000), row(3, 100.0, 0), row(4, 200.0, 10_000)];
        let at = times(rows(), true, 7);
        assert_eq!(at.len(), 20_000);
        assert!(at.is_sorted());
        let count = |from: u64, to: u64| at.iter().filter(|at| (from * 1_000..to * 1_000).contains(*at)).count();
        assert_eq!((count(0, 100), count(100, 200), count(200, 301)), (10_000, 0, 10_000));
        // A tenth of 10,000, plus or minus five standard deviations of 30.
        for tenth in (0..100).step_by(10).chain((200..300).step_by(10)) {
            let seen = count(tenth, tenth + 10);
            assert!((850..=1_150).contains(&seen), "{seen} from {tenth} s on");
        }
        assert_eq!(at, times(rows(), true, 7), "the same seed");
        assert_ne!(at, times(rows(), true, 8), "another seed");
    }

    #[test]
    fn a_huge_row_takes_no_memory_and_a_gap_of_years_is_rejected() {
        let mut huge = Arrivals::new(vec![row(2, 0.0, 1 << 53), row(3, 1.0, 0)].into_iter(), true, 1);
        assert!(huge.by_ref().take(1_000).all(|arrival| arrival.is_ok_and(|arrival| arrival.at.0 <= 1_000)));

        let mut gap = Arrivals::new(vec![row(2, 0.0, 1), row(3, 4e7, 1)].into_iter(), false, 1);
        let error = gap.next().expect("an item").expect_err("a gap");
        assert!(error.to_string().starts_with("line 3: seconds is 40000000 after the previous row"), "{error}");
        assert!(gap.next().is_none());
    }
}
