//! Scaling: how many agents there should be, and how many worker slots for them and for allocations.
//!
//! Two rules look at what was seen. That of the fleet goes by the queue, the time tasks wait, and how busy agents are; that of
//! the pool by what is leased and refused. The pool must have room for what either wants. What follows keeps the number from
//! going up and down: a band in which nothing changes, a cooldown, a bound on each step, and for going down the highest
//! number that was recommended lately.

use super::forecast::Forecast;
use super::observation::Observation;
use super::plan::{Action, Plan};
use super::policy::Policy;
use crate::core::{Demand, Timestamp};
use std::cmp::Ordering;
use std::collections::VecDeque;

/// How much a step may add or take at least, however small the number: four, as in the Horizontal Pod Autoscaler of Kubernetes.
const STEP_MIN: u64 = 4;

/// How many recommendations are remembered at most. At one every 30 s, 300 s are ten; more come only if plans are made by hand.
const RECOMMENDATIONS_MAX: usize = 1_024;

/// How far the number of workers may be moved. The least is never above the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The fewest.
    pub workers_min: u64,
    /// The most.
    pub workers_max: u64,
}

/// What was counted at the last look.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Timestamp,
    granted: u64,
    refused: u64,
}

/// Makes plans, and remembers what the next one is compared with.
#[derive(Clone, Debug)]
pub struct Planner {
    policy: Policy,
    bounds: Bounds,
    last: Option<Look>,
    previous_rate: Option<f64>,
    changed_at: Option<Timestamp>,
    /// What was wanted lately, oldest first.
    lately: VecDeque<Lately>,
}

/// What was wanted at a moment.
#[derive(Clone, Copy, Debug)]
struct Lately {
    at: Timestamp,
    workers: u64,
    agents: u64,
}

/// A number of workers that is wanted.
struct Wanted {
    workers: u64,
    /// Whether somebody waits or was refused, so that a small difference counts too.
    is_pressing: bool,
}

impl Planner {
    /// A planner that has seen nothing yet.
    #[must_use]
    pub const fn new(policy: Policy, bounds: Bounds) -> Self {
        Self { policy, bounds, last: None, previous_rate: None, changed_at: None, lately: VecDeque::new() }
    }

    /// What is seen at `at` since the last look.
    #[must_use]
    pub fn observe(&self, at: Timestamp, demand: &Demand) -> Observation {
        let Demand { capacity, granted, refused, refused_workers_max, fleet } = demand;
        // Before the first look nothing was counted, and so nothing counts.
        let last = self.last.unwrap_or(Look { at, granted: *granted, refused: *refused });
        Observation {
            at,
            window: at.since(last.at),
            workers_total: capacity.total.workers,
            workers_leased: capacity.leased.workers.saturating_sub(capacity.reclaimable.workers),
            workers_held: capacity.leased.workers,
            granted: granted.saturating_sub(last.granted),
            refused: refused.saturating_sub(last.refused),
            refused_workers_max: *refused_workers_max,
            fleet: *fleet,
        }
    }

    /// The same, and this look counts as the last from now on.
    pub fn look(&mut self, at: Timestamp, demand: &Demand) -> Observation {
        let seen = self.observe(at, demand);
        self.last = Some(Look { at, granted: demand.granted, refused: demand.refused });
        seen
    }

    /// What to do, given what was seen. Nothing is remembered of it: the same question has the same answer.
    #[must_use]
    pub fn plan(&self, seen: &Observation) -> Plan {
        let window_seconds = seen.window.0 as f64 / 1000.0;
        let requests = (seen.granted + seen.refused) as f64;
        let rate = if seen.window.0 == 0 { 0.0 } else { requests * 60.0 / window_seconds };
        let forecast = Forecast::by_trend(self.previous_rate.filter(|_| seen.window.0 > 0), rate);
        let mut plan = Plan {
            planned_at: seen.at,
            policy: self.policy.name,
            action: Action::Hold,
            current_workers: seen.workers_total,
            target_workers: seen.workers_total,
            wanted_workers: seen.workers_total,
            min_workers: self.bounds.workers_min,
            max_workers: self.bounds.workers_max,
            leased_workers: seen.workers_leased,
            utilization: part(seen.workers_leased, seen.workers_total),
            current_agents: seen.fleet.agents,
            target_agents: seen.fleet.agents,
            wanted_agents: seen.fleet.agents,
            agent_utilization: part(seen.fleet.running, seen.fleet.room),
            pending_tasks: seen.fleet.waiting,
            avg_wait_time_ms: seen.fleet.wait_mean.0,
            window_seconds,
            granted_requests: seen.granted,
            refused_requests: seen.refused,
            forecast,
            reasons: Vec::new(),
        };
        if seen.window.0 == 0 {
            plan.reasons.push("nothing has been observed yet".to_owned());
            return plan;
        }
        let current = seen.fleet.agents;
        plan.wanted_agents = self.agents(seen, &mut plan.reasons);
        let patient = self.patiently(seen.at, current, plan.wanted_agents, |lately| lately.agents, &mut plan.reasons);
        plan.target_agents = step(current, patient);
        if plan.target_agents != patient {
            plan.reasons.push(format!("{patient} agents would be wanted, and one step goes to {}", plan.target_agents));
        }
        let wanted = self.workers(seen, &mut plan);
        self.settle(seen, &wanted, &mut plan);
        plan
    }

    /// Takes note of what the next plan is compared with, once this one is carried out or only shown.
    pub fn note(&mut self, plan: &Plan, carried_out: bool) {
        if plan.window_seconds > 0.0 {
            self.previous_rate = Some(plan.forecast.current_rate_per_minute);
        }
        if carried_out {
            self.changed_at = Some(plan.planned_at);
        }
        let oldest = plan.planned_at.before(self.policy.scale_in_window);
        self.lately.retain(|lately| lately.at > oldest);
        if self.lately.len() == RECOMMENDATIONS_MAX {
            self.lately.pop_front();
        }
        let (mut workers, mut agents) = (plan.wanted_workers, plan.wanted_agents);
        if self.lately.is_empty() {
            // What was wanted before the first plan is not known: it is taken for what there was.
            (workers, agents) = (workers.max(plan.current_workers), agents.max(plan.current_agents));
        }
        self.lately.push_back(Lately { at: plan.planned_at, workers, agents });
    }

    /// How many agents there should be: never fewer than one, than those at work, and never more than the quota admits.
    fn agents(&self, seen: &Observation, reasons: &mut Vec<String>) -> u64 {
        let (policy, fleet) = (&self.policy, seen.fleet);
        let in_use = part(fleet.running, fleet.room);
        // An agent as they are now, in the mean.
        let room_each = if fleet.agents == 0 { 1.0 } else { (fleet.room as f64 / fleet.agents as f64).max(1.0) };
        let for_target = (fleet.running as f64 / room_each / policy.utilization_target).ceil() as u64;
        let mut wanted = fleet.agents;
        if fleet.waiting > policy.queue_depth_up {
            let more = ((fleet.waiting - policy.queue_depth_up) / policy.tasks_per_agent.max(1)).max(1);
            wanted = wanted.max(fleet.agents.saturating_add(more));
            reasons.push(format!("{} tasks wait, over {}: {more} agents more", fleet.waiting, policy.queue_depth_up));
        }
        if fleet.waiting > 0 && fleet.wait_mean > policy.wait_up {
            wanted = wanted.max(fleet.agents.saturating_add(1));
            let (waited, most) = (fleet.wait_mean.0, policy.wait_up.0);
            reasons.push(format!("tasks have waited {waited} ms in the mean, over {most} ms: an agent more"));
        }
        if in_use > policy.utilization_up {
            wanted = wanted.max(for_target).max(fleet.agents.saturating_add(1));
            let (share, most, aim) =
                (percent(in_use), percent(policy.utilization_up), percent(policy.utilization_target));
            reasons.push(format!("agents are {share} in use, over {most}: for {aim} it takes {for_target} agents"));
        }
        if fleet.waiting > 0 && fleet.agents == 0 {
            wanted = wanted.max(1);
            reasons.push(format!("{} tasks wait, and there is no agent", fleet.waiting));
        }
        let is_calm = fleet.waiting < policy.queue_depth_down
            && (fleet.waiting == 0 || fleet.wait_mean < policy.wait_down)
            && in_use < policy.utilization_down;
        if wanted == fleet.agents && is_calm && fleet.agents > 1 {
            // Whoever has work keeps it, and one is there for what comes next.
            wanted = for_target.max(fleet.agents_at_work).clamp(1, fleet.agents);
            if wanted < fleet.agents {
                let (share, least) = (percent(in_use), percent(policy.utilization_down));
                reasons
                    .push(format!("agents are {share} in use, under {least}, and few tasks wait: {wanted} are enough"));
            }
        }
        match fleet.quota {
            Some(quota) if wanted > quota.max(fleet.agents) => {
                reasons.push(format!("{wanted} agents would be wanted, and the quota is {quota}"));
                quota.max(fleet.agents)
            }
            _ => wanted,
        }
    }

    /// As few as are wanted, but no fewer than the most that were wanted lately.
    fn patiently(
        &self,
        at: Timestamp,
        current: u64,
        wanted: u64,
        of: impl Fn(&Lately) -> u64,
        reasons: &mut Vec<String>,
    ) -> u64 {
        let window = self.policy.scale_in_window;
        if wanted >= current || window.is_zero() {
            return wanted;
        }
        let lately = self.lately.iter().filter(|lately| at.since(lately.at) < window);
        let highest = lately.map(of).max().unwrap_or(current).min(current);
        if highest > wanted {
            reasons.push(format!("up to {highest} were wanted over the last {} s", window.as_seconds()));
        }
        highest.max(wanted)
    }

    /// How many workers there should be, bounds, steps and patience aside.
    fn workers(&self, seen: &Observation, plan: &mut Plan) -> Wanted {
        let Policy { utilization_up, utilization_down, utilization_target, .. } = self.policy;
        let forecast = plan.forecast;
        // The leases to expect grow as the requests do, while leases last as long as they did.
        let expected = seen.workers_leased as f64 * forecast.trend.factor();
        let for_target = (expected / utilization_target).ceil() as u64;
        let share = percent(plan.utilization);
        let trend = format!(
            "the rate of requests is {:?}: {:.1} a minute, {:.1} to expect; for {} in use that takes {for_target} workers",
            forecast.trend,
            forecast.current_rate_per_minute,
            forecast.predicted_rate_per_minute,
            percent(utilization_target),
        )
        .to_lowercase();
        let agents_to_come = plan.target_agents.saturating_sub(plan.current_agents);
        let for_agents = if agents_to_come == 0 { 0 } else { seen.workers_held.saturating_add(agents_to_come) };
        let is_refused = seen.refused_workers_max > 0;
        let is_pressing = is_refused || agents_to_come > 0;
        let wanted = if plan.utilization > utilization_up || is_refused {
            if plan.utilization > utilization_up {
                plan.reasons.push(format!("{share} of the workers are leased, over {}", percent(utilization_up)));
            }
            if is_refused {
                let (refused, most) = (seen.refused, seen.refused_workers_max);
                plan.reasons.push(format!(
                    "requests were refused for want of workers ({refused} refused in all), of up to {most} workers"
                ));
            }
            plan.reasons.push(trend);
            for_target.max(seen.workers_total + 1).max(seen.workers_held + seen.refused_workers_max)
        } else if plan.utilization < utilization_down {
            plan.reasons.push(format!("{share} of the workers are leased, under {}", percent(utilization_down)));
            plan.reasons.push(trend);
            for_target.min(seen.workers_total)
        } else {
            let (low, high) = (percent(utilization_down), percent(utilization_up));
            plan.reasons.push(format!("{share} of the workers are leased, between {low} and {high}"));
            seen.workers_total
        };
        if for_agents > wanted.max(seen.workers_total) {
            plan.reasons.push(format!("{agents_to_come} agents more take as many workers"));
        }
        Wanted { workers: wanted.max(for_agents), is_pressing }
    }

    /// Fits what is wanted to the bounds, to what is leased, to a step, and to patience.
    fn settle(&self, seen: &Observation, wanted: &Wanted, plan: &mut Plan) {
        let Bounds { workers_min, workers_max } = self.bounds;
        let current = seen.workers_total;
        plan.wanted_workers = wanted.workers;
        let mut target = self.patiently(seen.at, current, wanted.workers, |lately| lately.workers, &mut plan.reasons);
        let difference = target.abs_diff(current) as f64;
        if target != current && !wanted.is_pressing && difference <= self.policy.tolerance * current as f64 {
            plan.reasons.push(format!("{target} are about as many as {current}"));
            target = current;
        }
        let bounded = target.clamp(workers_min, workers_max);
        if bounded != target {
            plan.reasons.push(if workers_min == workers_max {
                format!("min_workers and max_workers are both {workers_min}: the number is fixed")
            } else {
                format!("{target} would be wanted, and {workers_min} to {workers_max} are allowed")
            });
        }
        target = bounded;
        if target < seen.workers_held {
            target = seen.workers_held.min(current);
            plan.reasons.push(format!("{} workers are leased and stay", seen.workers_held));
        }
        // However few there are, the fewest that may be are one step away.
        let stepped = step(current, target).max(target.min(workers_min));
        if stepped != target {
            plan.reasons.push(format!("{target} would be wanted, and one step goes to {stepped}"));
            target = stepped;
        }
        let cooling = self.changed_at.filter(|at| seen.at.since(*at) < self.policy.cooldown);
        if target != current && cooling.is_some() {
            let seconds = self.policy.cooldown.as_seconds();
            plan.reasons.push(format!("the last change was less than {seconds} s ago: wait"));
            return;
        }
        plan.target_workers = target;
        plan.action = match target.cmp(&current) {
            Ordering::Greater => Action::ScaleUp,
            Ordering::Less => Action::ScaleDown,
            Ordering::Equal => Action::Hold,
        };
    }
}

/// As far towards `wanted` as one step goes: to twice as many or half of them, or four more or fewer.
fn step(current: u64, wanted: u64) -> u64 {
    let most = current.saturating_add(current.max(STEP_MIN));
    let least = current.saturating_sub((current / 2).max(STEP_MIN));
    wanted.clamp(least, most)
}

/// The part of `all` that `some` is; 0 of nothing.
fn part(some: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { some as f64 / all as f64 }
}

fn percent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

#[cfg(test)]
mod tests;
