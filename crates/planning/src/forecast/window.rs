//! The last so many numbers, and their quantiles.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// The last `capacity` numbers that were pushed, in order of time and in order of size. A push costs a search and a move within
/// the sorted ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub(super) struct Window {
    capacity: usize,
    recent: VecDeque<f64>,
    sorted: Vec<f64>,
}

/// What is written of a window: the sorted ones follow from the recent ones.
#[derive(Serialize, Deserialize)]
struct Stored {
    capacity: usize,
    recent: VecDeque<f64>,
}

impl Window {
    /// An empty window for so many numbers.
    pub(super) const fn new(capacity: usize) -> Self {
        Self { capacity, recent: VecDeque::new(), sorted: Vec::new() }
    }

    /// Takes in a number; the oldest one goes if the window is full.
    pub(super) fn push(&mut self, value: f64) {
        if self.recent.len() == self.capacity
            && let Some(oldest) = self.recent.pop_front()
            && let Ok(place) = self.sorted.binary_search_by(|other| other.total_cmp(&oldest))
        {
            self.sorted.remove(place);
        }
        self.recent.push_back(value);
        let place = self.sorted.partition_point(|other| other.total_cmp(&value).is_lt());
        self.sorted.insert(place, value);
    }

    /// How many numbers it holds.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.recent.len()
    }

    /// The largest number; nothing if there is none.
    pub(super) fn largest(&self) -> Option<f64> {
        self.sorted.last().copied()
    }

    /// The number that the next one stays at or below with at least this probability, if the order in which they came tells
    /// nothing: of `n` numbers the `⌈(n + 1) · probability⌉`-th smallest, the rule of split conformal prediction (Vovk, Gammerman
    /// and Shafer, "Algorithmic Learning in a Random World", 2005). `None` while there are too few for that rule.
    pub(super) fn quantile(&self, probability: f64) -> Option<f64> {
        let rank = ((self.sorted.len() + 1) as f64 * probability).ceil() as usize;
        self.sorted.get(rank.max(1) - 1).copied()
    }
}

impl From<Stored> for Window {
    fn from(stored: Stored) -> Self {
        let mut sorted: Vec<f64> = stored.recent.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        Self { capacity: stored.capacity, recent: stored.recent, sorted }
    }
}

impl From<Window> for Stored {
    fn from(window: Window) -> Self {
        Self { capacity: window.capacity, recent: window.recent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(capacity: usize, values: impl IntoIterator<Item = u32>) -> Window {
        let mut window = Window::new(capacity);
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
    fn what_is_old_goes() {
        let mut window = window(9, [500, 1, 2, 3, 4, 4, 4, 7, 8, 9]);
        assert_eq!((window.len(), window.quantile(0.9), window.largest()), (9, Some(9.0), Some(9.0)));
        window.push(-1.0);
        assert_eq!((window.len(), window.quantile(0.1), window.quantile(0.9)), (9, Some(-1.0), Some(9.0)));
    }

    #[test]
    fn it_comes_back_as_it_was_written() {
        let window = window(5, [3, 1, 4, 1, 5, 9, 2, 6]);
        let text = serde_json::to_string(&window).expect("plain data");
        assert_eq!(text, r#"{"capacity":5,"recent":[1.0,5.0,9.0,2.0,6.0]}"#);
        assert_eq!(serde_json::from_str::<Window>(&text).expect("what was written"), window);
    }
}
