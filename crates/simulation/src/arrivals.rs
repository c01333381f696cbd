//! Arrivals: the moments at which tasks come, one after the other.

use super::trace::{Row, TraceError};
use cortex_core::time::Millis;
use fastrand::Rng;

/// The longest time from one row to the next, in seconds: a year. A longer one is a mistake in the times, and would be lived
/// through plan by plan.
const HOLE_SECONDS_MAX: f64 = 31_536_000.0;

/// A task that comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When, from the first row of the trace on.
    pub at: Millis,
    /// How many tokens it takes, if that is known.
    pub tokens: Option<u64>,
}

/// The arrivals that rows tell of. Where a row counts requests, they come at random moments up to the next row, drawn one by
/// one in their order; behind the last row, over as long as between the last two. The same seed gives the same moments.
pub struct Arrivals<R> {
    rows: R,
    are_counted: bool,
    random: Rng,
    /// The time of the first row.
    origin: Option<f64>,
    /// The row whose requests come.
    spread: Spread,
    /// The one behind it.
    next: Option<Row>,
}

/// Requests of a row that are still to come.
#[derive(Clone, Copy, Debug, Default)]
struct Spread {
    left: u64,
    from: f64,
    /// Over how many seconds.
    width: f64,
    /// Which part of these is behind.
    behind: f64,
    tokens: Option<u64>,
}

impl<R: Iterator<Item = Result<Row, TraceError>>> Arrivals<R> {
    /// The arrivals of these rows.
    pub fn new(rows: R, are_counted: bool, seed: u64) -> Self {
        let random = Rng::with_seed(seed);
        Self { rows, are_counted, random, origin: None, spread: Spread::default(), next: None }
    }

    /// Goes on to the next row; nothing behind the last one.
    fn turn(&mut self) -> Result<Option<()>, TraceError> {
        let row = match self.next.take() {
            Some(row) => row,
            None if self.origin.is_some() => return Ok(None),
            None => match self.rows.next().transpose()? {
                Some(row) => row,
                None => return Ok(None),
            },
        };
        self.origin.get_or_insert(row.seconds);
        self.next = self.rows.next().transpose()?;
        let gap = self.next.map(|next| next.seconds - row.seconds);
        if let (Some(gap), Some(next)) = (gap.filter(|gap| *gap > HOLE_SECONDS_MAX), self.next) {
            let problem = format!(
                "seconds is {gap} after the row above: {HOLE_SECONDS_MAX} (a year) are the most, so mend the times or cut the trace"
            );
            return Err(TraceError::Line { line: next.line, problem });
        }
        let width = if self.are_counted { gap.unwrap_or(self.spread.width) } else { 0.0 };
        self.spread = Spread { left: row.requests, from: row.seconds, width, behind: 0.0, tokens: row.tokens };
        Ok(Some(()))
    }

    /// The next of the moments of this row. The first of `left` moments that are even over what remains lies where the
    /// greatest of as many draws leaves it.
    fn draw(&mut self) -> Arrival {
        let spread = &mut self.spread;
        if spread.width > 0.0 {
            let greatest = (1.0 - self.random.f64()).powf(1.0 / spread.left as f64);
            spread.behind = 1.0 - (1.0 - spread.behind) * greatest;
        }
        spread.left -= 1;
        let seconds = spread.from + spread.behind * spread.width - self.origin.unwrap_or(0.0);
        Arrival { at: Millis((seconds * 1_000.0).round() as u64), tokens: spread.tokens }
    }
}

impl<R: Iterator<Item = Result<Row, TraceError>>> Iterator for Arrivals<R> {
    type Item = Result<Arrival, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.spread.left == 0 {
            match self.turn() {
                Ok(Some(())) => {}
                Ok(None) => return None,
                Err(error) => {
                    // Nothing comes behind an error.
                    self.next = None;
                    self.origin.get_or_insert(0.0);
                    return Some(Err(error));
                }
            }
        }
        Some(Ok(self.draw()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(line: u64, seconds: f64, requests: u64) -> Result<Row, TraceError> {
        Ok(Row { line, seconds, requests, tokens: None })
    }

    fn moments(rows: Vec<Result<Row, TraceError>>, are_counted: bool, seed: u64) -> Vec<u64> {
        let arrivals = Arrivals::new(rows.into_iter(), are_counted, seed);
        arrivals.map(|arrival| arrival.expect("a good row").at.0).collect()
    }

    #[test]
    fn single_arrivals_come_when_their_rows_say() {
        let rows = vec![row(2, 100.0, 1), row(3, 100.25, 1), row(4, 101.0, 1)];
        assert_eq!(moments(rows, false, 1), [0, 250, 1_000]);
    }

    #[test]
    fn counted_ones_come_evenly_up_to_the_next_row() {
        let rows = || vec![row(2, 0.0, 10_000), row(3, 100.0, 0), row(4, 200.0, 10_000)];
        let at = moments(rows(), true, 7);
        assert_eq!(at.len(), 20_000);
        assert!(at.is_sorted());
        let count = |from: u64, to: u64| at.iter().filter(|at| (from * 1_000..to * 1_000).contains(*at)).count();
        assert_eq!((count(0, 100), count(100, 200), count(200, 301)), (10_000, 0, 10_000));
        // A tenth of 10,000, give or take five standard deviations of 30.
        for tenth in (0..100).step_by(10).chain((200..300).step_by(10)) {
            let seen = count(tenth, tenth + 10);
            assert!((850..=1_150).contains(&seen), "{seen} from {tenth} s on");
        }
        assert_eq!(at, moments(rows(), true, 7), "the same seed");
        assert_ne!(at, moments(rows(), true, 8), "another one");
    }

    #[test]
    fn an_endless_row_takes_no_memory_and_a_hole_of_years_is_refused() {
        let mut endless = Arrivals::new(vec![row(2, 0.0, 1 << 53), row(3, 1.0, 0)].into_iter(), true, 1);
        assert!(endless.by_ref().take(1_000).all(|arrival| arrival.is_ok_and(|arrival| arrival.at.0 <= 1_000)));

        let mut hole = Arrivals::new(vec![row(2, 0.0, 1), row(3, 4e7, 1)].into_iter(), false, 1);
        let error = hole.next().expect("an answer").expect_err("a hole");
        assert!(error.to_string().starts_with("line 3: seconds is 40000000 after the row above"), "{error}");
        assert!(hole.next().is_none());
    }
}
