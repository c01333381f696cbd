//! A sliding window of numbers with quantiles.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// The last `capacity` numbers, in order of time and in order of size. A push costs a binary search and a move within
/// the sorted numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "StoredWindow", into = "StoredWindow")]
pub(super) struct SlidingWindow {
    capacity: usize,
    recent: VecDeque<f64>,
    sorted: Vec<f64>,
}

/// The serialized form: the sorted numbers follow from the recent ones.
#[derive(Serialize, Deserialize)]
struct StoredWindow {
    capacity: usize,
    recent: VecDeque<f64>,
}

impl SlidingWindow {
    /// Creates an empty window for `capacity` numbers.
    pub(super) const fn new(capacity: usize) -> Self {
        Self { capacity, recent: VecDeque::new(), sorted: Vec::new() }
    }

    /// Adds a number, and drops the oldest if the window is full.
    pub(super) fn push(&mut self, value: f64) {
        if self.recent.len() == self.capacity
            && let Some(oldest) = self.recent.pop_front()
            && let Ok(index) = self.sorted.binary_search_by(|other| other.total_cmp(&oldest))
        {
            self.sorted.remove(index);
        }
        self.recent.push_back(value);
        let index = self.sorted.partition_point(|other| other.total_cmp(&value).is_lt());
        self.sorted.insert(index, value);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.recent.len()
    }

    /// Returns the largest number; `None` if the window is empty.
    pub(super) fn largest(&self) -> Option<f64> {
        self.sorted.last().copied()
    }

    /// Returns the number that the next one does not exceed with at least this probability, if the numbers are
    /// exchangeable: of `n` numbers the `⌈(n + 1) · probability⌉`-th smallest, the rule of split conformal prediction
    /// (Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005). Returns `None` while there are
    /// too few numbers for that rule.
    pub(super) fn quantile(&self, probability: f64) -> Option<f64> {
        let rank = ((self.sorted.len() + 1) as f64 * probability).ceil() as usize;
        self.sorted.get(rank.max(1) - 1).copied()
    }
}

impl From<StoredWindow> for SlidingWindow {
    fn from(stored: StoredWindow) -> Self {
        let mut sorted: Vec<f64> = stored.recent.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        Self { capacity: stored.capacity, recent: stored.recent, sorted }
    }
}

impl From<SlidingWindow> for StoredWindow {
    fn from(window: SlidingWindow) -> Self {
        Self { capacity: window.capacity, recent: window.recent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(capacity: usize, values: impl IntoIterator<Item = u32>) -> SlidingWindow {
        let mut window = SlidingWindow::new(capacity);
        values.into_iter().for_each(|value| window.push(f64::from(value)));
        window
    }

    #[test]
    fn a_quantile_needs_as_many_numbers_as_its_rule_asks_for() {
        let check = |count, probability, expected| {
            assert_eq!(window(100, 1..=count).quantile(probability), expected, "{count} numbers at {probability}");
        };
        check(0, 0.9, None);
        check(8, 0.9, None);
        check(9, 0.9, Some(9.0));
        check(10, 0.9, Some(10.0));
        check(19, 0.9, Some(18.0));
        check(99, 0.9, Some(90.0));
        check(100, 0.9, Some(91.0));
        check(9, 0.5, Some(5.0));
    }

    #[test]
    fn the_oldest_number_is_dropped() {
        let mut window = window(9, [500, 1, 2, 3, 4, 4, 4, 7, 8, 9]);
        assert_eq!((window.len(), window.quantile(0.9), window.largest()), (9, Some(9.0), Some(9.0)));
        window.push(-1.0);
        assert_eq!((window.len(), window.quantile(0.1), window.quantile(0.9)), (9, Some(-1.0), Some(9.0)));
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let window = window(5, [3, 1, 4, 1, 5, 9, 2, 6]);
        let text = serde_json::to_string(&window).expect("plain data");
        assert_eq!(text, r#"{"capacity":5,"recent":[1.0,5.0,9.0,2.0,6.0]}"#);
        assert_eq!(serde_json::from_str::<SlidingWindow>(&text).expect("what was written"), window);
    }
}
