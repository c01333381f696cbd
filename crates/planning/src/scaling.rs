//! Scaling rules: how many agents there should be, and how many worker slots for them and for allocations.
//!
//! Two rules use the observation. The fleet rule considers the queue, the wait times and the utilization of agents;
//! the pool rule considers leased workers and refused requests. The pool needs workers for whichever needs more. A
//! trusted capacity plan is a lower bound for both, and limits how much is kept while the load is low.

use super::observation::Observation;
use super::plan::Plan;
use cortex_core::policy::{Percent, Policy};

/// The time within which the backlog should be processed, in seconds: that of two plans, the first of which new
/// agents need to start.
const BACKLOG_SECONDS: f64 = 60.0;

/// The number of workers needed.
pub(super) struct NeededWorkers {
    pub(super) workers: u64,
    /// Whether agents or requests wait for workers, so that the tolerance does not apply.
    pub(super) is_urgent: bool,
}

/// Returns the number of agents needed: at least one if there are any, at least those at work, and at most what the
/// quota admits. `ahead` is the number that the capacity plan requires.
pub(super) fn agents(seen: &Observation, ahead: Option<u64>, reasons: &mut Vec<String>) -> u64 {
    let (policy, fleet) = (&seen.policy, seen.fleet);
    let in_use = fraction(fleet.running, fleet.task_slots);
    let for_target =
        (fleet.running as f64 / fleet.task_slots_per_agent() / policy.utilization_target.as_fraction()).ceil() as u64;
    let for_load = agents_for_load(seen);
    let mut wanted = agents_under_load(seen, in_use, for_load, for_target, reasons);
    if let Some(ahead) = ahead.filter(|ahead| *ahead > wanted && !is_within_tolerance(seen, *ahead, fleet.agents)) {
        reasons.push(format!("the demand forecast requires {ahead} agents"));
        wanted = ahead;
    }
    let is_calm = fleet.waiting < policy.queue_depth_down
        && (fleet.waiting == 0 || fleet.wait_mean < policy.wait_down_ms)
        && wanted == fleet.agents
        && fleet.agents > 1;
    // Agents at work stay, and one agent stays for the next tasks.
    let known = ahead.max(for_load);
    let enough = for_target.max(fleet.agents_at_work).max(known.unwrap_or(0)).clamp(1, fleet.agents.max(1));
    if is_calm && in_use < policy.utilization_down.as_fraction() {
        if enough < fleet.agents {
            let (share, least) = (percent(in_use), policy.utilization_down);
            reasons.push(format!(
                "agent utilization is {share}, under {least}, and few tasks wait: {enough} agents are enough"
            ));
        }
        wanted = enough;
    } else if is_calm && known.is_some() && !is_within_tolerance(seen, enough, fleet.agents) {
        reasons.push(format!("few tasks wait, and {enough} agents are enough for the arriving tasks"));
        wanted = enough;
    }
    if let Some(quota) = fleet.quota.filter(|_| wanted > fleet.agents_max()) {
        reasons.push(format!("{wanted} agents are needed, but the quota is {quota}"));
    }
    wanted.min(fleet.agents_max())
}

/// Returns how many agents the arriving tasks require by Little's law: enough for the target utilization, or to
/// process the backlog in time, whichever is more. The utilization alone cannot tell this once all agents are busy.
/// Returns `None` while the arrival rate or the durations are unknown.
fn agents_for_load(seen: &Observation) -> Option<u64> {
    let fleet = seen.fleet;
    let seconds = fleet.durations?.mean.0 as f64 / 1_000.0;
    let concurrent_tasks = seen.tasks_per_second? * seconds;
    let for_target = concurrent_tasks / seen.policy.utilization_target.as_fraction();
    let for_backlog = concurrent_tasks + fleet.waiting as f64 * seconds / BACKLOG_SECONDS;
    Some((for_target.max(for_backlog) / fleet.task_slots_per_agent()).ceil() as u64)
}

/// Returns the present number of agents, or more if tasks wait or agents are busy.
fn agents_under_load(
    seen: &Observation,
    in_use: f64,
    for_load: Option<u64>,
    for_target: u64,
    reasons: &mut Vec<String>,
) -> u64 {
    let (policy, fleet) = (&seen.policy, seen.fleet);
    let mut wanted = fleet.agents;
    if fleet.waiting > policy.queue_depth_up {
        let more = ((fleet.waiting - policy.queue_depth_up) / policy.tasks_per_agent.max(1)).max(1);
        wanted = wanted.max(fleet.agents.saturating_add(more));
        reasons.push(format!("{} tasks wait, over {}: {more} more agents", fleet.waiting, policy.queue_depth_up));
    }
    if fleet.waiting > 0 && fleet.wait_mean > policy.wait_up_ms {
        wanted = wanted.max(fleet.agents.saturating_add(1));
        let (waited, most) = (fleet.wait_mean.0, policy.wait_up_ms.0);
        reasons.push(format!("tasks have waited {waited} ms on average, over {most} ms: 1 more agent"));
    }
    if in_use > policy.utilization_up.as_fraction() {
        let (share, most) = (percent(in_use), policy.utilization_up);
        if let (Some(for_load), Some(rate), Some(durations)) = (for_load, seen.tasks_per_second, fleet.durations) {
            wanted = wanted.max(for_load);
            reasons.push(format!(
                "agent utilization is {share}, over {most}: {:.1} tasks per minute of {:.1} s each and {} waiting \
                 tasks require {for_load} agents",
                rate * 60.0,
                durations.mean.0 as f64 / 1_000.0,
                fleet.waiting,
            ));
        } else {
            wanted = wanted.max(for_target).max(fleet.agents.saturating_add(1));
            let target = policy.utilization_target;
            reasons.push(format!(
                "agent utilization is {share}, over {most}: {target} utilization requires {for_target} agents"
            ));
        }
    }
    if fleet.waiting > 0 && fleet.agents == 0 {
        wanted = wanted.max(1).max(for_load.unwrap_or(0));
        reasons.push(format!("{} tasks wait, and no agent is registered: {wanted} agents are needed", fleet.waiting));
    }
    wanted
}

/// Returns the number of workers needed, before limits, step size, stabilization and cooldown.
pub(super) fn workers(seen: &Observation, plan: &mut Plan) -> NeededWorkers {
    let Policy { utilization_up, utilization_down, utilization_target, .. } = seen.policy;
    let forecast = plan.forecast;
    // The expected leases grow in proportion to the request rate, as long as leases keep their duration.
    let expected = seen.workers_leased as f64 * forecast.trend.factor();
    let for_target = (expected / utilization_target.as_fraction()).ceil() as u64;
    let ahead = plan.capacity.trusted_workers();
    let share = percent(plan.utilization);
    let trend = format!(
        "{} workers are in use, and the request rate is {:?} ({:.1} per minute, {:.1} expected): \
         {utilization_target} utilization requires {for_target} workers",
        seen.workers_leased, forecast.trend, forecast.current_rate_per_minute, forecast.predicted_rate_per_minute,
    )
    .to_lowercase();
    let agents_to_add = plan.target_agents.saturating_sub(plan.current_agents);
    let for_agents = if agents_to_add == 0 { 0 } else { seen.workers_held.saturating_add(agents_to_add) };
    let is_refused = seen.refused_workers_max > 0;
    let is_urgent = is_refused || agents_to_add > 0;
    let is_over = |most: Percent| plan.utilization > most.as_fraction();
    let mut wanted = if is_over(utilization_up) || is_refused {
        if is_over(utilization_up) {
            plan.reasons.push(format!("{share} of the workers are leased, over {utilization_up}"));
        }
        if is_refused {
            let (refused, most) = (seen.refused, seen.refused_workers_max);
            plan.reasons.push(format!(
                "requests for up to {most} workers were refused for lack of workers ({refused} refused in total)"
            ));
        }
        plan.reasons.push(trend);
        for_target.max(seen.workers_total + 1).max(seen.workers_held + seen.refused_workers_max)
    } else if plan.utilization < utilization_down.as_fraction() {
        plan.reasons.push(format!("{share} of the workers are leased, under {utilization_down}"));
        plan.reasons.push(trend);
        for_target.max(ahead.unwrap_or(0)).min(seen.workers_total)
    } else {
        plan.reasons
            .push(format!("{share} of the workers are leased, between {utilization_down} and {utilization_up}"));
        match ahead {
            Some(ahead) => for_target.max(ahead).min(seen.workers_total),
            None => seen.workers_total,
        }
    };
    if let Some(ahead) = ahead {
        if ahead > wanted.max(seen.workers_total) {
            plan.reasons.push(format!("the demand forecast requires {ahead} workers"));
        }
        wanted = wanted.max(ahead);
    }
    if for_agents > wanted.max(seen.workers_total) {
        plan.reasons.push(format!("{agents_to_add} more agents require as many workers"));
    }
    NeededWorkers { workers: wanted.max(for_agents), is_urgent }
}

/// Returns whether two numbers differ by at most the tolerance of the policy.
pub(super) fn is_within_tolerance(seen: &Observation, one: u64, other: u64) -> bool {
    one.abs_diff(other) as f64 <= seen.policy.tolerance.as_fraction() * other as f64
}

/// Returns `some` as a fraction of `all`; 0 if `all` is 0.
pub(super) fn fraction(some: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { some as f64 / all as f64 }
}

fn percent(fraction: f64) -> String {
    format!("{:.0} %", fraction * 100.0)
}
