//! Token budgets of the model: settled and reserved tokens, and deferred tasks.

use super::Fleet;
use super::leases::is_eligible;
use cortex_core::command::Denied;
use cortex_core::fleet::command::{Deferral, FleetDenied, FleetOutcome};
use cortex_core::fleet::task::{Task, TaskSpec};
use cortex_core::fleet::view::BudgetUsage;
use cortex_core::ids::{JobId, TaskNumber};
use cortex_core::time::{Millis, Timestamp};

/// A budget without its reserved tokens, which are computed.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    pub(super) tokens: u64,
    pub(super) settled: u64,
    pub(super) overrun: u64,
}

#[derive(Clone, Debug)]
pub(super) struct JobBudget {
    pub(super) job: JobId,
    pub(super) budget: Budget,
}

impl Budget {
    pub(super) fn of(tokens: u64) -> Self {
        Self { tokens, settled: 0, overrun: 0 }
    }

    fn settle(&mut self, estimated: u64, used: u64) {
        self.settled = self.settled.saturating_add(used);
        self.overrun = self.overrun.saturating_add(used.saturating_sub(estimated));
    }

    /// Rejects a total that is lower than the current one and than what is used.
    fn check_lowering(&self, given: u64, reserved: u64) -> Result<(), FleetDenied> {
        let settled = self.settled;
        if given < self.tokens && given < settled.saturating_add(reserved) {
            return Err(FleetDenied::BudgetBelowUse { given, settled, reserved });
        }
        Ok(())
    }
}

impl Fleet {
    pub(super) fn set_budget(
        &mut self,
        now: Timestamp,
        tokens: Option<u64>,
        window: Option<Millis>,
    ) -> Result<FleetOutcome, Denied> {
        let before = self.clone();
        self.refill(now);
        let tokens = tokens.unwrap_or(self.budget.tokens);
        let window = window.unwrap_or(self.window);
        if let Err(denied) = self.budget.check_lowering(tokens, self.reserved(None)) {
            *self = before;
            return Err(denied.into());
        }
        if (tokens, window) == (self.budget.tokens, self.window) {
            *self = before;
            return Ok(FleetOutcome::Done);
        }
        self.budget.tokens = tokens;
        if window != self.window {
            self.window = window;
            self.window_started_at = now;
        }
        Ok(FleetOutcome::Done)
    }

    pub(super) fn set_job_budget(
        &mut self,
        now: Timestamp,
        job: &JobId,
        tokens: Option<u64>,
    ) -> Result<FleetOutcome, Denied> {
        let before = self.clone();
        self.refill(now);
        let reserved = self.reserved(Some(job));
        let known = self.job_budgets.iter_mut().find(|budget| budget.job == *job);
        match (tokens, known) {
            (None, None) => *self = before,
            (None, Some(_)) => self.job_budgets.retain(|budget| budget.job != *job),
            (Some(tokens), Some(known)) => {
                if let Err(denied) = known.budget.check_lowering(tokens, reserved) {
                    *self = before;
                    return Err(denied.into());
                }
                if tokens == known.budget.tokens {
                    *self = before;
                } else {
                    known.budget.tokens = tokens;
                }
            }
            (Some(tokens), None) => {
                self.job_budgets.push(JobBudget { job: job.clone(), budget: Budget::of(tokens) });
            }
        }
        Ok(FleetOutcome::Done)
    }

    /// Books the tokens of an attempt.
    pub(super) fn settle(&mut self, now: Timestamp, spec: &TaskSpec, used: u64) {
        if used > 0 {
            self.settled_at = self.settled_at.or(Some(now));
        }
        self.budget.settle(spec.estimated_tokens, used);
        for known in self.job_budgets.iter_mut().filter(|known| Some(&known.job) == spec.request.job.as_ref()) {
            known.budget.settle(spec.estimated_tokens, used);
        }
    }

    /// Clears settled tokens if their window has ended. Returns whether it did.
    pub(super) fn refill(&mut self, now: Timestamp) -> bool {
        if self.refill_due().is_none_or(|at| at > now) {
            return false;
        }
        self.window_started_at = self.window_end_after(now).before(self.window);
        self.settled_at = None;
        self.budget.settled = 0;
        self.budget.overrun = 0;
        for known in &mut self.job_budgets {
            known.budget.settled = 0;
            known.budget.overrun = 0;
        }
        true
    }

    /// The end of the window in which tokens were first settled since the last refill, if any were.
    pub(super) fn refill_due(&self) -> Option<Timestamp> {
        let settled_at = self.settled_at.filter(|_| self.window.0 > 0)?;
        Some(self.window_end_after(settled_at))
    }

    /// The end of the current window.
    pub(super) fn refills_at(&self, now: Timestamp) -> Option<Timestamp> {
        (self.window.0 > 0).then(|| self.window_end_after(now))
    }

    /// The end of the window that contains a moment, or of the first window.
    fn window_end_after(&self, moment: Timestamp) -> Timestamp {
        let windows = moment.since(self.window_started_at).0 / self.window.0 + 1;
        self.window_started_at.after(Millis(windows * self.window.0))
    }

    /// The tokens reserved by running attempts: those of a job, or all.
    fn reserved(&self, job: Option<&JobId>) -> u64 {
        let counts = |task: &&Task| job.is_none() || task.spec.request.job.as_ref() == job;
        self.running().into_iter().filter(counts).map(|task| task.spec.estimated_tokens).sum()
    }

    pub(super) fn usage_of(&self, job: Option<&JobId>, budget: &Budget) -> BudgetUsage {
        let Budget { tokens, settled, overrun } = *budget;
        BudgetUsage { total: tokens, settled, reserved: self.reserved(job), overrun }
    }

    fn remaining(&self) -> u64 {
        self.usage_of(None, &self.budget).remaining()
    }

    fn remaining_of(&self, job: &JobId) -> Option<u64> {
        let known = self.job_budgets.iter().find(|budget| budget.job == *job)?;
        Some(self.usage_of(Some(job), &known.budget).remaining())
    }

    /// What remains of the budgets that a task of this job counts towards.
    pub(super) fn remaining_for(&self, job: Option<&JobId>) -> u64 {
        let of_job = job.and_then(|job| self.remaining_of(job));
        of_job.map_or(self.remaining(), |of_job| of_job.min(self.remaining()))
    }

    /// Whether more than four fifths of the budget are used.
    pub(super) fn is_conserving(&self) -> bool {
        let used = u128::from(self.budget.settled) + u128::from(self.reserved(None));
        self.budget.tokens == 0 || 5 * used > 4 * u128::from(self.budget.tokens)
    }

    /// The tasks that wait for tokens, with the reasons.
    pub(super) fn deferrals(&self) -> Vec<(TaskNumber, Deferral)> {
        let is_conserving = self.is_conserving();
        let waiting = self.tasks_by_efficiency();
        // The tasks before the current one that tokens are reserved for.
        let mut taken: Vec<&Task> = Vec::new();
        let mut deferred = Vec::new();
        for task in waiting {
            let counts = is_conserving && self.agents.iter().any(|agent| is_eligible(agent, task));
            let ahead: &[&Task] = if counts { &taken } else { &[] };
            match self.deferral_after(task, ahead) {
                Some(reason) => deferred.push((task.spec.number, reason)),
                None if counts => taken.push(task),
                None => {}
            }
        }
        deferred
    }

    fn deferral_after(&self, task: &Task, ahead: &[&Task]) -> Option<Deferral> {
        let needed = u128::from(task.spec.estimated_tokens);
        let sum = |tasks: &[&Task]| tasks.iter().map(|task| u128::from(task.spec.estimated_tokens)).sum::<u128>();
        let fits = sum(ahead) + needed <= u128::from(self.remaining());
        let job = task.spec.request.job.as_ref();
        let Some(left) = job.and_then(|job| self.remaining_of(job)).map(u128::from) else {
            return (!fits).then_some(Deferral::Tokens);
        };
        let of_job: Vec<&Task> = ahead.iter().copied().filter(|other| other.spec.request.job.as_ref() == job).collect();
        // The reason is the job's own budget if it would not suffice even without the tasks before.
        let reason = if needed > left { Deferral::JobTokens } else { Deferral::Tokens };
        (!fits || sum(&of_job) + needed > left).then_some(reason)
    }
}

/// Why a task waits for tokens, if it does.
pub(super) fn deferral(task: &Task, deferrals: &[(TaskNumber, Deferral)]) -> Option<Deferral> {
    deferrals.iter().find(|(number, _)| *number == task.spec.number).map(|(_, reason)| *reason)
}
