//! The token budgets: one for all tasks together, and one for each job that has its own.
//!
//! A running attempt reserves its estimate. When it ends, the tokens that it used are settled instead. A reservation is
//! never made if it would take the settled and reserved tokens over a budget; what an attempt uses beyond its estimate
//! is booked as an overrun.

use super::super::ids::JobId;
use super::super::time::{Millis, Timestamp};
use super::view::BudgetUsage;
use std::collections::BTreeMap;

/// The maximum number of jobs with a budget.
pub(super) const JOB_BUDGETS_MAX: usize = 1_000;

/// The used part of the budget above which tokens are conserved, in fifths: 80 %.
const CONSERVATION_FIFTHS: u128 = 4;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct TokenBudgets {
    pub(super) all: BudgetUsage,
    /// The budgets of the jobs that have one.
    pub(super) jobs: BTreeMap<JobId, BudgetUsage>,
    /// The period after which settled tokens are cleared; zero for never.
    pub(super) window: Millis,
    /// The time from which windows are counted.
    pub(super) window_anchor: Timestamp,
    /// When tokens were first settled since the last refill.
    pub(super) settled_since: Option<Timestamp>,
}

/// The tokens that remain while tasks are selected one after another, before any of them is leased.
#[derive(Debug)]
pub(super) struct RemainingTokens<'a> {
    budgets: &'a TokenBudgets,
    all: u64,
    jobs: BTreeMap<&'a JobId, u64>,
}

impl<'a> RemainingTokens<'a> {
    /// Takes the tokens of a task, if they remain.
    pub(super) fn take(&mut self, job: Option<&'a JobId>, cost: u64) -> bool {
        let of_job = self
            .budgets
            .budgeted_job(job)
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

impl TokenBudgets {
    /// Returns the tokens that can still be reserved.
    pub(super) fn remaining(&self) -> RemainingTokens<'_> {
        RemainingTokens { budgets: self, all: self.all.remaining(), jobs: BTreeMap::new() }
    }

    /// The tokens that a task of this job can still reserve. The job counts only if it has a budget.
    pub(super) fn available(&self, job: Option<&JobId>) -> u64 {
        let of_job = job.and_then(|job| self.jobs.get(job)).map_or(u64::MAX, BudgetUsage::remaining);
        self.all.remaining().min(of_job)
    }

    /// Returns the job, if it has a budget.
    pub(super) fn budgeted_job<'a>(&self, job: Option<&'a JobId>) -> Option<&'a JobId> {
        job.filter(|job| self.jobs.contains_key(*job))
    }

    /// Whether the used part of the budget is so large that tokens are conserved.
    pub(super) fn is_conserving(&self) -> bool {
        let used = u128::from(self.all.settled) + u128::from(self.all.reserved);
        self.all.total == 0 || used * 5 > u128::from(self.all.total) * CONSERVATION_FIFTHS
    }

    /// Reserves the estimate of an attempt.
    pub(super) fn reserve(&mut self, job: Option<&JobId>, estimate: u64) {
        self.for_each_budget(job, |budget| budget.reserved += estimate);
    }

    /// Releases a reservation, as if there had been no attempt.
    pub(super) fn release(&mut self, job: Option<&JobId>, estimate: u64) {
        self.for_each_budget(job, |budget| budget.reserved -= estimate);
    }

    /// Replaces the reservation of an attempt with the tokens that it used.
    pub(super) fn settle(&mut self, at: Timestamp, job: Option<&JobId>, estimate: u64, used: u64) {
        self.for_each_budget(job, |budget| {
            budget.reserved -= estimate;
            budget.settled = budget.settled.saturating_add(used);
            budget.overrun = budget.overrun.saturating_add(used.saturating_sub(estimate));
        });
        if used > 0 {
            self.settled_since.get_or_insert(at);
        }
    }

    /// Clears settled tokens. Reserved tokens stay reserved.
    pub(super) fn refill(&mut self) {
        for budget in self.jobs.values_mut().chain([&mut self.all]) {
            *budget = budget.refilled();
        }
        self.settled_since = None;
    }

    /// When settled tokens are cleared next: `None` if there are none, or they are never cleared.
    pub(super) fn refill_due(&self) -> Option<Timestamp> {
        self.settled_since.and_then(|since| self.window_end(since))
    }

    /// The end of the window that contains a moment; `None` without windows.
    pub(super) fn window_end(&self, moment: Timestamp) -> Option<Timestamp> {
        (!self.window.is_zero()).then(|| self.window_start(moment).after(self.window))
    }

    /// The start of the window that contains a moment.
    pub(super) fn window_start(&self, moment: Timestamp) -> Timestamp {
        let windows = moment.since(self.window_anchor).0 / self.window.0.max(1);
        self.window_anchor.after(Millis(windows.saturating_mul(self.window.0)))
    }

    fn for_each_budget(&mut self, job: Option<&JobId>, change: impl Fn(&mut BudgetUsage)) {
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
        let mut budgets =
            TokenBudgets { window: Millis::from_seconds(60), window_anchor: at(5), ..TokenBudgets::default() };
        assert_eq!(budgets.refill_due(), None, "nothing is settled");
        budgets.reserve(None, 10);
        budgets.settle(at(70), None, 10, 3);
        assert_eq!((budgets.window_start(at(70)), budgets.refill_due()), (at(65), Some(at(125))));
        budgets.reserve(None, 10);
        budgets.settle(at(130), None, 10, 30);
        assert_eq!(budgets.refill_due(), Some(at(125)), "from the first on");
        assert_eq!((budgets.all.settled, budgets.all.overrun), (33, 20));
        budgets.refill();
        assert_eq!((budgets.all.settled, budgets.all.overrun, budgets.refill_due()), (0, 0, None));
        budgets.window = Millis(0);
        budgets.reserve(None, 1);
        budgets.settle(at(131), None, 1, 1);
        assert_eq!(budgets.refill_due(), None, "never");
    }
}
