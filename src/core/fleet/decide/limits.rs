//! Decisions on budgets of tokens and quotas of agents.

use super::super::super::cluster::Cluster;
use super::super::super::command::{Decision, Denied};
use super::super::super::event::Event;
use super::super::super::ids::{AgentType, JobId};
use super::super::super::time::{Millis, Timestamp};
use super::super::command::{FleetDenied, FleetOutcome};
use super::super::tokens::JOB_BUDGETS_MAX;
use super::super::view::BudgetUsage;
use super::decision;

/// How many types of agents may have a quota of their own.
const QUOTAS_MAX: usize = 1_000;

impl Cluster {
    pub(super) fn set_token_budget(
        &self,
        now: Timestamp,
        tokens: Option<u64>,
        window: Option<Millis>,
    ) -> Result<Decision, Denied> {
        let budgets = &self.fleet.tokens;
        let total = tokens.unwrap_or(budgets.all.total);
        // What was used in a window that is over counts no more, whether or not that was recorded.
        let refill = self.refill(now);
        let used = if refill.is_some() { budgets.all.refilled() } else { budgets.all };
        check_lowering(&used, total)?;
        let window_ms = window.filter(|window| *window != budgets.window);
        let tokens = Some(total).filter(|total| *total != budgets.all.total);
        let changes = tokens.is_some() || window_ms.is_some();
        let event = changes.then_some(Event::TokenBudgetSet { job: None, tokens, window_ms });
        Ok(decision(event.map(|event| refill.into_iter().chain([event])).into_iter().flatten(), FleetOutcome::Done))
    }

    /// The refill that is due, if one is.
    pub(super) fn refill(&self, now: Timestamp) -> Option<Event> {
        let tokens = &self.fleet.tokens;
        tokens.refill_due().filter(|at| *at <= now)?;
        Some(Event::TokenBudgetRefilled { window_started_at: tokens.window_start(now) })
    }

    pub(super) fn set_job_budget(&self, now: Timestamp, job: &JobId, tokens: Option<u64>) -> Result<Decision, Denied> {
        let jobs = &self.fleet.tokens.jobs;
        let refill = self.refill(now);
        match (jobs.get(job), tokens) {
            (Some(budget), Some(total)) => {
                check_lowering(&if refill.is_some() { budget.refilled() } else { *budget }, total)?;
            }
            (None, Some(_)) if jobs.len() >= JOB_BUDGETS_MAX => {
                return Err(FleetDenied::TooMany { what: "jobs", limit: JOB_BUDGETS_MAX }.into());
            }
            _ => {}
        }
        let changes = jobs.get(job).map(|budget| budget.total) != tokens;
        let event = changes.then(|| Event::TokenBudgetSet { job: Some(job.clone()), tokens, window_ms: None });
        Ok(decision(event.map(|event| refill.into_iter().chain([event])).into_iter().flatten(), FleetOutcome::Done))
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

fn check_lowering(budget: &BudgetUsage, total: u64) -> Result<(), FleetDenied> {
    let used = budget.settled.saturating_add(budget.reserved);
    if total < budget.total && total < used {
        let (settled, reserved) = (budget.settled, budget.reserved);
        return Err(FleetDenied::BudgetBelowUse { given: total, settled, reserved });
    }
    Ok(())
}
