//! Demand: the requests and tasks that arrived, counted in bins of five minutes. The history of two weeks is part of
//! the state, so that a restart does not lose the data that forecasts are based on.

use super::time::{Millis, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// The length of a bin.
pub const DEMAND_BIN: Millis = Millis::from_seconds(300);

/// The most bins that are kept: those of 14 days.
pub const DEMAND_BINS_MAX: usize = 4_032;

/// The demand in one bin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DemandBin {
    /// When the bin begins: a multiple of [`DEMAND_BIN`] since 1970.
    pub from: Timestamp,
    /// Requests for resources, granted and refused. Repeats of a granted request count once.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub requests: u64,
    /// The number of them that were refused for lack of capacity.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refused: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub task_submissions: u64,
    /// The most workers that were needed at the same time: those in use, plus those of a refused request.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub workers_max: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl DemandBin {
    /// Returns an empty bin.
    #[must_use]
    pub const fn empty(from: Timestamp) -> Self {
        Self { from, requests: 0, refused: 0, task_submissions: 0, workers_max: 0 }
    }

    /// Returns the beginning of the bin that contains a moment.
    #[must_use]
    pub fn start_of(at: Timestamp) -> Timestamp {
        let since = at.as_millis().rem_euclid(i64::try_from(DEMAND_BIN.0).unwrap_or(i64::MAX));
        at.before(Millis(since.unsigned_abs()))
    }

    /// Returns the first moment after the bin.
    #[must_use]
    pub fn end(&self) -> Timestamp {
        self.from.after(DEMAND_BIN)
    }

    /// Adds the counts of the same bin from another source.
    const fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.refused = self.refused.saturating_add(other.refused);
        self.task_submissions = self.task_submissions.saturating_add(other.task_submissions);
        if other.workers_max > self.workers_max {
            self.workers_max = other.workers_max;
        }
    }
}

/// The bins of the last 14 days that are not empty, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct DemandHistory(VecDeque<DemandBin>);

impl DemandHistory {
    /// Returns the bins that begin after this moment.
    pub(super) fn since(&self, after: Option<Timestamp>) -> impl Iterator<Item = &DemandBin> {
        let first = after.map_or(0, |after| self.0.partition_point(|bin| bin.from <= after));
        self.0.range(first..)
    }

    /// Returns what to add for a bin: nothing if it is empty. Demand from before the last bin is added to the last
    /// one.
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

    /// Returns whether the bins are in order and within their bounds.
    pub(super) fn is_sound(&self) -> bool {
        self.0.len() <= DEMAND_BINS_MAX
            && self.0.iter().is_sorted_by(|one, next| one.from < next.from)
            && self.0.iter().all(|bin| bin.from == DemandBin::start_of(bin.from))
    }
}

/// Counts demand that is not in the state yet.
#[derive(Clone, Debug, Default)]
pub struct DemandCounter {
    /// The bins to write, oldest first.
    counted: VecDeque<DemandBin>,
    /// The bins that are being written.
    in_flight: Vec<DemandBin>,
    /// The last bin for which workers were counted, and their number. Only a larger number is written.
    workers: Option<(Timestamp, u64)>,
}

impl DemandCounter {
    /// Counts a request for resources that was decided at `now`. `workers` is the total number needed then.
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

    /// Records that `workers` workers are needed at `now`.
    pub fn note_workers(&mut self, now: Timestamp, workers: u64) {
        let from = DemandBin::start_of(now);
        let is_known = self.workers.is_some_and(|(bin, most)| bin == from && most >= workers);
        if workers > 0 && !is_known {
            self.workers = Some((from, workers));
            let bin = self.bin(now);
            bin.workers_max = bin.workers_max.max(workers);
        }
    }

    /// Returns whether a finished bin has demand that is not in the state.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.counted.front().is_some_and(|bin| bin.end() <= now)
    }

    /// Takes the demand counted since the last call, to be written. It is in flight until [`Self::commit`] or
    /// [`Self::rollback`].
    pub fn drain(&mut self) -> Vec<DemandBin> {
        let bins: Vec<DemandBin> = self.counted.drain(..).collect();
        self.in_flight.extend(&bins);
        bins
    }

    /// Marks the demand in flight as written.
    pub fn commit(&mut self) {
        self.in_flight.clear();
    }

    /// Counts the demand in flight again: writing it failed.
    pub fn rollback(&mut self) {
        self.in_flight.drain(..).rev().for_each(|bin| self.counted.push_front(bin));
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
        assert_eq!(counter.drain(), [bin(0, [2, 1, 0, 8]), bin(5, [0, 0, 1, 0])]);
        assert_eq!(counter.drain(), []);
        counter.note_submission(at(301));
        counter.rollback();
        assert_eq!(counter.drain(), [bin(0, [2, 1, 0, 8]), bin(5, [0, 0, 1, 0]), bin(5, [0, 0, 1, 0])]);
        counter.commit();
        counter.rollback();
        assert_eq!(counter.drain(), []);
        // The same number of workers is not counted twice within a bin.
        counter.note_workers(at(302), 8);
        counter.note_workers(at(303), 8);
        counter.note_workers(at(304), 5);
        assert_eq!(counter.drain(), [bin(5, [0, 0, 0, 8])]);
        counter.note_workers(at(305), 8);
        assert_eq!(counter.drain(), []);
        counter.note_workers(at(600), 8);
        assert_eq!(counter.drain(), [bin(10, [0, 0, 0, 8])]);
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
