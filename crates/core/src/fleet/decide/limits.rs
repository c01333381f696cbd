//! Decisions on token budgets and agent quotas.

use super::super::super::cluster::Cluster;
use super::super::super::command::{Decision, Denied};
use super::super::super::event::Event;
use super::super::super::ids::{AgentType, JobId};
use super::super::super::time::{Millis, Timestamp};
use super::super::command::{FleetDenied, FleetOutcome};
use super::super::token_budgets::JOB_BUDGETS_MAX;
use super::super::view::BudgetUsage;
use super::decision;

/// The maximum number of agent types with a quota.
const QUOTAS_MAX: usize = 1_000;

impl Cluster {
    pub(super) fn set_token_budget(
        &self,
        now: Timestamp,
        tokens: Option<u64>,
        window: Option<Millis>,
    ) -> Result<Decision, Denied> {
        let budgets = &self.fleet.budgets;
        let total = tokens.unwrap_or(budgets.all.total);
        self.check_lowering(now, &budgets.all, total)?;
        let window_ms = window.filter(|window| *window != budgets.window);
        let tokens = Some(total).filter(|total| *total != budgets.all.total);
        let changes = tokens.is_some() || window_ms.is_some();
        let event = changes.then_some(Event::TokenBudgetSet { job: None, tokens, window_ms });
        Ok(self.budget_decision(now, event))
    }

    /// Returns the refill, if one is due.
    pub(super) fn refill(&self, now: Timestamp) -> Option<Event> {
        let budgets = &self.fleet.budgets;
        budgets.refill_due().filter(|at| *at <= now)?;
        Some(Event::TokenBudgetRefilled { window_started_at: budgets.window_start(now) })
    }

    pub(super) fn set_job_budget(&self, now: Timestamp, job: &JobId, tokens: Option<u64>) -> Result<Decision, Denied> {
        let jobs = &self.fleet.budgets.jobs;
        match (jobs.get(job), tokens) {
            (Some(budget), Some(total)) => self.check_lowering(now, budget, total)?,
            (None, Some(_)) if jobs.len() >= JOB_BUDGETS_MAX => {
                return Err(FleetDenied::TooMany { what: "jobs", limit: JOB_BUDGETS_MAX }.into());
            }
            _ => {}
        }
        let changes = jobs.get(job).map(|budget| budget.total) != tokens;
        let event = changes.then(|| Event::TokenBudgetSet { job: Some(job.clone()), tokens, window_ms: None });
        Ok(self.budget_decision(now, event))
    }

    /// Rejects a budget that is lower than today's and than what is used. Tokens of a past window do not count as used,
    /// even if the refill has not been recorded yet.
    fn check_lowering(&self, now: Timestamp, budget: &BudgetUsage, total: u64) -> Result<(), FleetDenied> {
        let budget = if self.refill(now).is_some() { budget.refilled() } else { *budget };
        let used = budget.settled.saturating_add(budget.reserved);
        if total < budget.total && total < used {
            let (settled, reserved) = (budget.settled, budget.reserved);
            return Err(FleetDenied::BudgetBelowUse { given: total, settled, reserved });
        }
        Ok(())
    }

    /// Returns the decision that sets a budget, preceded by the refill if one is due.
    fn budget_decision(&self, now: Timestamp, event: Option<Event>) -> Decision {
        let refill = event.as_ref().and_then(|_| self.refill(now));
        decision(refill.into_iter().chain(event), FleetOutcome::Done)
    }

    pub(super) fn set_agent_quota(
        &self,
        agent_type: Option<&AgentType>,
        agents: Option<u64>,
    ) -> Result<Decision, Denied> {
        let quotas = &self.fleet.quotas;
        let before = match agent_type {
            Some(agent_type) => quotas.get(agent_type).copied(),
            None => self.fleet.quota,
        };
        if agent_type.is_some() && before.is_none() && agents.is_some() && quotas.len() >= QUOTAS_MAX {
            return Err(FleetDenied::TooMany { what: "types of agents", limit: QUOTAS_MAX }.into());
        }
        let changes = before != agents;
        let event = changes.then(|| Event::AgentQuotaSet { agent_type: agent_type.cloned(), agents });
        Ok(decision(event, FleetOutcome::Done))
    }
}
