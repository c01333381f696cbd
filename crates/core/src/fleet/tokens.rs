//! The token budgets: of all tasks together, and of jobs that have one of their own.
//!
//! A running attempt has its estimate reserved; when it ends, what it took is settled. Nothing is reserved that would take
//! what is settled and reserved over a budget; what an attempt takes beyond its estimate is booked as an overrun.

use super::super::ids::JobId;
use super::super::time::{Millis, Timestamp};
use super::view::BudgetUsage;
use std::collections::BTreeMap;

/// How many jobs may have a budget of their own.
pub(super) const JOB_BUDGETS_MAX: usize = 1_000;

/// Above which part of the budget tokens are saved: 80 %, in fifths.
const CONSERVATION_FIFTHS: u128 = 4;

/// All budgets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Tokens {
    pub(super) all: BudgetUsage,
    /// Of each job with a budget of its own.
    pub(super) jobs: BTreeMap<JobId, BudgetUsage>,
    /// After how long what is settled is cleared; zero for never.
    pub(super) window: Millis,
    /// From where windows are counted.
    pub(super) window_anchor: Timestamp,
    /// When something was settled for the first time since the last refill.
    pub(super) settled_since: Option<Timestamp>,
}

/// What is left of the budgets while tokens are given to one task after the other, on paper.
#[derive(Debug)]
pub(super) struct Left<'a> {
    budgets: &'a Tokens,
    all: u64,
    jobs: BTreeMap<&'a JobId, u64>,
}

impl<'a> Left<'a> {
    /// Gives a task its tokens if they are there.
    pub(super) fn take(&mut self, job: Option<&'a JobId>, cost: u64) -> bool {
        let of_job = self
            .budgets
            .budgeted(job)
            .map(|job| self.jobs.entry(job).or_insert_with(|| self.budgets.jobs[job].remaining()));
        if cost > self.all || of_job.as_ref().is_some_and(|of_job| cost > **of_job) {
            return false;
        }
        self.all -= cost;
        if let Some(of_job) = of_job {
            *of_job -= cost;
        }
        true
    }
}

impl Tokens {
    /// What is left to be reserved.
    pub(super) fn left(&self) -> Left<'_> {
        Left { budgets: self, all: self.all.remaining(), jobs: BTreeMap::new() }
    }

    /// How many tokens a task of this job may still reserve; the job counts only if it has a budget of its own.
    pub(super) fn available(&self, job: Option<&JobId>) -> u64 {
        let of_job = job.and_then(|job| self.jobs.get(job)).map_or(u64::MAX, BudgetUsage::remaining);
        self.all.remaining().min(of_job)
    }

    /// The job, if it has a budget of its own.
    pub(super) fn budgeted<'a>(&self, job: Option<&'a JobId>) -> Option<&'a JobId> {
        job.filter(|job| self.jobs.contains_key(*job))
    }

    /// Whether so much is used that tokens are saved.
    pub(super) fn is_conserving(&self) -> bool {
        let used = u128::from(self.all.settled) + u128::from(self.all.reserved);
        self.all.total == 0 || used * 5 > u128::from(self.all.total) * CONSERVATION_FIFTHS
    }

    /// Reserves the estimate of an attempt.
    pub(super) fn reserve(&mut self, job: Option<&JobId>, estimate: u64) {
        self.each(job, |budget| budget.reserved += estimate);
    }

    /// Frees what was reserved, as if there had been no attempt.
    pub(super) fn give_back(&mut self, job: Option<&JobId>, estimate: u64) {
        self.each(job, |budget| budget.reserved -= estimate);
    }

    /// Books what an attempt took instead of what was reserved for it.
    pub(super) fn settle(&mut self, at: Timestamp, job: Option<&JobId>, estimate: u64, taken: u64) {
        self.each(job, |budget| {
            budget.reserved -= estimate;
            budget.settled = budget.settled.saturating_add(taken);
            budget.overrun = budget.overrun.saturating_add(taken.saturating_sub(estimate));
        });
        if taken > 0 {
            self.settled_since.get_or_insert(at);
        }
    }

    /// Clears what is settled. What is reserved stays so.
    pub(super) fn refill(&mut self) {
        for budget in self.jobs.values_mut().chain([&mut self.all]) {
            *budget = budget.refilled();
        }
        self.settled_since = None;
    }

    /// When what is settled is to be cleared: nothing if nothing is, or it never is.
    pub(super) fn refill_due(&self) -> Option<Timestamp> {
        self.settled_since.and_then(|since| self.window_end(since))
    }

    /// The end of the window in which a moment lies.
    pub(super) fn window_end(&self, moment: Timestamp) -> Option<Timestamp> {
        (!self.window.is_zero()).then(|| self.window_start(moment).after(self.window))
    }

    /// The start of the window in which a moment lies.
    pub(super) fn window_start(&self, moment: Timestamp) -> Timestamp {
        let windows = moment.since(self.window_anchor).0 / self.window.0.max(1);
        self.window_anchor.after(Millis(windows.saturating_mul(self.window.0)))
    }

    fn each(&mut self, job: Option<&JobId>, change: impl Fn(&mut BudgetUsage)) {
        change(&mut self.all);
        if let Some(budget) = job.and_then(|job| self.jobs.get_mut(job)) {
            change(budget);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_follow_each_other_from_the_anchor() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1_000);
        let mut tokens = Tokens { window: Millis::from_seconds(60), window_anchor: at(5), ..Tokens::default() };
        assert_eq!(tokens.refill_due(), None, "nothing is settled");
        tokens.reserve(None, 10);
        tokens.settle(at(70), None, 10, 3);
        assert_eq!((tokens.window_start(at(70)), tokens.refill_due()), (at(65), Some(at(125))));
        tokens.reserve(None, 10);
        tokens.settle(at(130), None, 10, 30);
        assert_eq!(tokens.refill_due(), Some(at(125)), "from the first on");
        assert_eq!((tokens.all.settled, tokens.all.overrun), (33, 20));
        tokens.refill();
        assert_eq!((tokens.all.settled, tokens.all.overrun, tokens.refill_due()), (0, 0, None));
        tokens.window = Millis(0);
        tokens.reserve(None, 1);
        tokens.settle(at(131), None, 1, 1);
        assert_eq!(tokens.refill_due(), None, "never");
    }
}
