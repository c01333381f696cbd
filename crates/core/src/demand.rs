//! Demand: what was asked for, counted in bins of five minutes. The history of two weeks is part of the books, so that a
//! restart does not forget what forecasts are made of.

use super::time::{Millis, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// How long a bin is.
pub const DEMAND_BIN: Millis = Millis::from_seconds(300);

/// How many bins are kept at most: those of 14 days.
pub const DEMAND_BINS_MAX: usize = 4_032;

/// What was asked for in one bin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DemandBin {
    /// When the bin begins: a whole number of bins after 1970.
    pub from: Timestamp,
    /// Requests for resources, granted and refused. Repeats of one that was granted count once.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub requests: u64,
    /// How many of them were refused for want of room.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refused: u64,
    /// Tasks that were submitted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub task_submissions: u64,
    /// The most workers that were wanted at once: those taken, and beside them those of a request that was refused.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub workers_max: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl DemandBin {
    /// The bin that begins then, before anything was asked for.
    #[must_use]
    pub const fn empty(from: Timestamp) -> Self {
        Self { from, requests: 0, refused: 0, task_submissions: 0, workers_max: 0 }
    }

    /// When the bin begins that a moment is in.
    #[must_use]
    pub fn start_of(at: Timestamp) -> Timestamp {
        let since = at.as_millis().rem_euclid(i64::try_from(DEMAND_BIN.0).unwrap_or(i64::MAX));
        at.before(Millis(since.unsigned_abs()))
    }

    /// The first moment behind it.
    #[must_use]
    pub fn end(&self) -> Timestamp {
        self.from.after(DEMAND_BIN)
    }

    /// Adds what was counted besides in the same bin.
    const fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.refused = self.refused.saturating_add(other.refused);
        self.task_submissions = self.task_submissions.saturating_add(other.task_submissions);
        if other.workers_max > self.workers_max {
            self.workers_max = other.workers_max;
        }
    }
}

/// The bins of the last 14 days in which anything was asked for, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct DemandHistory(VecDeque<DemandBin>);

impl DemandHistory {
    /// The bins that begin after this moment.
    pub(super) fn since(&self, after: Option<Timestamp>) -> impl Iterator<Item = &DemandBin> {
        let first = after.map_or(0, |after| self.0.partition_point(|bin| bin.from <= after));
        self.0.range(first..)
    }

    /// What of this is to be added: nothing of an empty bin, and what would lie before the last one belongs to that.
    pub(super) fn addition(&self, bin: &DemandBin) -> Option<DemandBin> {
        let from = self.0.back().map_or(bin.from, |last| last.from.max(bin.from));
        let addition = DemandBin { from, ..*bin };
        (addition != DemandBin::empty(from)).then_some(addition)
    }

    /// # Panics
    /// If the bin lies before the last one.
    pub(super) fn add(&mut self, bin: &DemandBin) {
        match self.0.back_mut() {
            Some(last) if last.from == bin.from => last.add(bin),
            last => {
                assert!(last.is_none_or(|last| last.from < bin.from), "demand from {} was counted before", bin.from);
                self.0.push_back(*bin);
            }
        }
        let oldest = bin.from.before(Millis(DEMAND_BIN.0 * (DEMAND_BINS_MAX as u64 - 1)));
        while self.0.front().is_some_and(|first| first.from < oldest) {
            self.0.pop_front();
        }
    }

    /// Whether they are in order, and no more than may be.
    pub(super) fn is_sound(&self) -> bool {
        self.0.len() <= DEMAND_BINS_MAX
            && self.0.iter().is_sorted_by(|one, next| one.from < next.from)
            && self.0.iter().all(|bin| bin.from == DemandBin::start_of(bin.from))
    }
}

/// Counts demand that is not in the books yet.
#[derive(Clone, Debug, Default)]
pub struct DemandCounter {
    /// What is to be written, oldest first.
    counted: VecDeque<DemandBin>,
    /// What is on its way into the books.
    handed_over: Vec<DemandBin>,
    /// The last bin for which workers were counted, and how many: only more need be written.
    workers: Option<(Timestamp, u64)>,
}

impl DemandCounter {
    /// Counts a request for resources that was decided on at `now`; `workers` are wanted in all.
    pub fn note_request(&mut self, now: Timestamp, is_refused: bool, workers: u64) {
        let bin = self.bin(now);
        bin.requests = bin.requests.saturating_add(1);
        bin.refused = bin.refused.saturating_add(u64::from(is_refused));
        self.note_workers(now, workers);
    }

    /// Counts a task that was submitted at `now`.
    pub fn note_submission(&mut self, now: Timestamp) {
        let bin = self.bin(now);
        bin.task_submissions = bin.task_submissions.saturating_add(1);
    }

    /// Notes that so many workers are wanted at `now`.
    pub fn note_workers(&mut self, now: Timestamp, workers: u64) {
        let from = DemandBin::start_of(now);
        let is_known = self.workers.is_some_and(|(bin, most)| bin == from && most >= workers);
        if workers > 0 && !is_known {
            self.workers = Some((from, workers));
            let bin = self.bin(now);
            bin.workers_max = bin.workers_max.max(workers);
        }
    }

    /// Whether a bin is over that the books do not have all of.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.counted.front().is_some_and(|bin| bin.end() <= now)
    }

    /// What was counted since it was last handed over, for the books.
    pub fn hand_over(&mut self) -> Vec<DemandBin> {
        let bins: Vec<DemandBin> = self.counted.drain(..).collect();
        self.handed_over.extend(&bins);
        bins
    }

    /// The books have what was handed over.
    pub fn settle(&mut self) {
        self.handed_over.clear();
    }

    /// The books do not have it: it is to be handed over again.
    pub fn take_back(&mut self) {
        self.handed_over.drain(..).rev().for_each(|bin| self.counted.push_front(bin));
    }

    fn bin(&mut self, now: Timestamp) -> &mut DemandBin {
        let from = DemandBin::start_of(now);
        let is_other = self.counted.back().is_none_or(|last| last.from < from);
        if is_other {
            if self.counted.len() == DEMAND_BINS_MAX {
                self.counted.pop_front();
            }
            self.counted.push_back(DemandBin::empty(from));
        }
        let last = self.counted.len() - 1;
        &mut self.counted[last]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bin(minute: i64, [requests, refused, task_submissions, workers_max]: [u64; 4]) -> DemandBin {
        DemandBin { from: Timestamp::from_millis(minute * 60_000), requests, refused, task_submissions, workers_max }
    }

    #[test]
    fn what_is_counted_comes_into_its_bin() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1_000);
        let mut counter = DemandCounter::default();
        counter.note_request(at(10), false, 3);
        counter.note_request(at(299), true, 8);
        counter.note_submission(at(300));
        assert!(!counter.is_due(at(299)) && counter.is_due(at(300)));
        assert_eq!(counter.hand_over(), [bin(0, [2, 1, 0, 8]), bin(5, [0, 0, 1, 0])]);
        assert_eq!(counter.hand_over(), []);
        counter.note_submission(at(301));
        counter.take_back();
        assert_eq!(counter.hand_over(), [bin(0, [2, 1, 0, 8]), bin(5, [0, 0, 1, 0]), bin(5, [0, 0, 1, 0])]);
        counter.settle();
        counter.take_back();
        assert_eq!(counter.hand_over(), []);
        // As many workers as before are no news within a bin.
        counter.note_workers(at(302), 8);
        counter.note_workers(at(303), 8);
        counter.note_workers(at(304), 5);
        assert_eq!(counter.hand_over(), [bin(5, [0, 0, 0, 8])]);
        counter.note_workers(at(305), 8);
        assert_eq!(counter.hand_over(), []);
        counter.note_workers(at(600), 8);
        assert_eq!(counter.hand_over(), [bin(10, [0, 0, 0, 8])]);
    }

    #[test]
    fn the_history_adds_up_and_ends_after_two_weeks() {
        let mut history = DemandHistory::default();
        history.add(&bin(0, [1, 0, 2, 3]));
        history.add(&bin(0, [1, 1, 0, 2]));
        history.add(&bin(15, [0, 0, 7, 0]));
        assert_eq!(Vec::from(history.0.clone()), [bin(0, [2, 1, 2, 3]), bin(15, [0, 0, 7, 0])]);
        assert_eq!(history.since(Some(Timestamp::from_millis(0))).count(), 1);
        // Two weeks are 4,032 bins of five minutes.
        history.add(&bin(5 * 4_031, [1, 0, 0, 0]));
        assert_eq!(history.0.len(), 3);
        history.add(&bin(5 * 4_032, [1, 0, 0, 0]));
        assert_eq!(history.0.len(), 3, "the first is forgotten");
        assert!(history.is_sound());
        for number in 0..10_000 {
            history.add(&bin(5 * (5_000 + number), [1, 0, 0, 0]));
        }
        assert_eq!(history.0.len(), DEMAND_BINS_MAX);
        assert!(history.is_sound());
    }

    #[test]
    fn what_comes_late_belongs_to_the_last_bin() {
        let mut history = DemandHistory::default();
        assert_eq!(history.addition(&bin(5, [0; 4])), None);
        history.add(&bin(10, [1, 0, 0, 0]));
        assert_eq!(history.addition(&bin(5, [1, 0, 0, 0])), Some(bin(10, [1, 0, 0, 0])));
        assert_eq!(history.addition(&bin(15, [1, 0, 0, 0])), Some(bin(15, [1, 0, 0, 0])));
    }
}
