//! Scaling: how many agents there should be, and how many worker slots for them and for allocations.
//!
//! Two rules look at what was seen. That of the fleet goes by the queue, the time tasks wait, and how busy agents are; that of
//! the pool by what is leased and refused. The pool must have room for what either wants. Where a capacity plan is to be trusted,
//! there is to be as much as it wants at least, and no more while there is calm.

use super::observation::Observation;
use super::plan::Plan;
use cortex_core::policy::{Percent, Policy};

/// In how many seconds what waits is to be worked off: the time of two plans, of which the first is for new agents to start.
const BACKLOG_SECONDS: f64 = 60.0;

/// A number of workers that is wanted.
pub(super) struct Wanted {
    pub(super) workers: u64,
    /// Whether somebody waits or was refused, so that a small difference counts too.
    pub(super) is_pressing: bool,
}

/// How many agents there should be: never fewer than one, than those at work, and never more than the quota admits. `ahead` is what
/// the capacity plan wants.
pub(super) fn agents(seen: &Observation, ahead: Option<u64>, reasons: &mut Vec<String>) -> u64 {
    let (policy, fleet) = (&seen.policy, seen.fleet);
    let in_use = part(fleet.running, fleet.room);
    let for_target = (fleet.running as f64 / fleet.room_each() / policy.utilization_target.as_part()).ceil() as u64;
    let for_load = for_load(seen);
    let mut wanted = agents_in_need(seen, in_use, for_load, for_target, reasons);
    if let Some(ahead) = ahead.filter(|ahead| *ahead > wanted && !is_about(seen, *ahead, fleet.agents)) {
        reasons.push(format!("{ahead} agents are planned for what is to come"));
        wanted = ahead;
    }
    let is_calm = fleet.waiting < policy.queue_depth_down
        && (fleet.waiting == 0 || fleet.wait_mean < policy.wait_down_ms)
        && wanted == fleet.agents
        && fleet.agents > 1;
    // Whoever has work keeps it, and one is there for what comes next.
    let known = ahead.max(for_load);
    let enough = for_target.max(fleet.agents_at_work).max(known.unwrap_or(0)).clamp(1, fleet.agents.max(1));
    if is_calm && in_use < policy.utilization_down.as_part() {
        if enough < fleet.agents {
            let (share, least) = (percent(in_use), policy.utilization_down);
            reasons.push(format!("agents are {share} in use, under {least}, and few tasks wait: {enough} are enough"));
        }
        wanted = enough;
    } else if is_calm && known.is_some() && !is_about(seen, enough, fleet.agents) {
        reasons.push(format!("few tasks wait, and {enough} agents are enough for those that come"));
        wanted = enough;
    }
    if let Some(quota) = fleet.quota.filter(|_| wanted > fleet.agents_max()) {
        reasons.push(format!("{wanted} agents would be wanted, and the quota is {quota}"));
    }
    wanted.min(fleet.agents_max())
}

/// How many agents the tasks take that come now, by Little's law: so many that the part of them is in use that should be, or that
/// what waits is worked off in time, whichever is more. Agents that are all busy do not tell how many more it takes; this does.
/// Nothing while it is not known how many tasks come, or how long they take.
fn for_load(seen: &Observation) -> Option<u64> {
    let fleet = seen.fleet;
    let seconds = fleet.durations?.mean.0 as f64 / 1_000.0;
    let under_way = seen.tasks_per_second? * seconds;
    let for_target = under_way / seen.policy.utilization_target.as_part();
    let for_backlog = under_way + fleet.waiting as f64 * seconds / BACKLOG_SECONDS;
    Some((for_target.max(for_backlog) / fleet.room_each()).ceil() as u64)
}

/// As many agents as there are, or more where tasks wait or agents are busy.
fn agents_in_need(
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
        reasons.push(format!("{} tasks wait, over {}: {more} agents more", fleet.waiting, policy.queue_depth_up));
    }
    if fleet.waiting > 0 && fleet.wait_mean > policy.wait_up_ms {
        wanted = wanted.max(fleet.agents.saturating_add(1));
        let (waited, most) = (fleet.wait_mean.0, policy.wait_up_ms.0);
        reasons.push(format!("tasks have waited {waited} ms in the mean, over {most} ms: an agent more"));
    }
    if in_use > policy.utilization_up.as_part() {
        let (share, most) = (percent(in_use), policy.utilization_up);
        if let (Some(for_load), Some(rate), Some(durations)) = (for_load, seen.tasks_per_second, fleet.durations) {
            wanted = wanted.max(for_load);
            reasons.push(format!(
                "agents are {share} in use, over {most}: {:.1} tasks a minute of {:.1} s each, and {} that wait, take {for_load} agents",
                rate * 60.0,
                durations.mean.0 as f64 / 1_000.0,
                fleet.waiting,
            ));
        } else {
            wanted = wanted.max(for_target).max(fleet.agents.saturating_add(1));
            let aim = policy.utilization_target;
            reasons.push(format!("agents are {share} in use, over {most}: for {aim} it takes {for_target} agents"));
        }
    }
    if fleet.waiting > 0 && fleet.agents == 0 {
        wanted = wanted.max(1).max(for_load.unwrap_or(0));
        reasons.push(format!("{} tasks wait, and there is no agent: {wanted} are wanted", fleet.waiting));
    }
    wanted
}

/// How many workers there should be, bounds, steps and patience aside.
pub(super) fn workers(seen: &Observation, plan: &mut Plan) -> Wanted {
    let Policy { utilization_up, utilization_down, utilization_target, .. } = seen.policy;
    let forecast = plan.forecast;
    // The leases to expect grow as the requests do, while leases last as long as they did.
    let expected = seen.workers_leased as f64 * forecast.trend.factor();
    let for_target = (expected / utilization_target.as_part()).ceil() as u64;
    let ahead = plan.capacity.trusted_workers();
    let share = percent(plan.utilization);
    let trend = format!(
        "{} workers are in use, and the rate of requests is {:?} ({:.1} a minute, {:.1} to expect): for {utilization_target} in use \
         that takes {for_target} workers",
        seen.workers_leased,
        forecast.trend,
        forecast.current_rate_per_minute,
        forecast.predicted_rate_per_minute,
    )
    .to_lowercase();
    let agents_to_come = plan.target_agents.saturating_sub(plan.current_agents);
    let for_agents = if agents_to_come == 0 { 0 } else { seen.workers_held.saturating_add(agents_to_come) };
    let is_refused = seen.refused_workers_max > 0;
    let is_pressing = is_refused || agents_to_come > 0;
    let is_over = |most: Percent| plan.utilization > most.as_part();
    let mut wanted = if is_over(utilization_up) || is_refused {
        if is_over(utilization_up) {
            plan.reasons.push(format!("{share} of the workers are leased, over {utilization_up}"));
        }
        if is_refused {
            let (refused, most) = (seen.refused, seen.refused_workers_max);
            plan.reasons.push(format!(
                "requests were refused for want of workers ({refused} refused in all), of up to {most} workers"
            ));
        }
        plan.reasons.push(trend);
        for_target.max(seen.workers_total + 1).max(seen.workers_held + seen.refused_workers_max)
    } else if plan.utilization < utilization_down.as_part() {
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
            plan.reasons.push(format!("{ahead} workers are planned for what is to come"));
        }
        wanted = wanted.max(ahead);
    }
    if for_agents > wanted.max(seen.workers_total) {
        plan.reasons.push(format!("{agents_to_come} agents more take as many workers"));
    }
    Wanted { workers: wanted.max(for_agents), is_pressing }
}

/// Whether two numbers differ by no more than the policy tolerates.
pub(super) fn is_about(seen: &Observation, one: u64, other: u64) -> bool {
    one.abs_diff(other) as f64 <= seen.policy.tolerance.as_part() * other as f64
}

/// The part of `all` that `some` is; 0 of nothing.
pub(super) fn part(some: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { some as f64 / all as f64 }
}

fn percent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}
