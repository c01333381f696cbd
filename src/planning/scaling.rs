//! Scaling: how many agents there should be, and how many worker slots for them and for allocations.
//!
//! Two rules look at what was seen. That of the fleet goes by the queue, the time tasks wait, and how busy agents are; that of
//! the pool by what is leased and refused. The pool must have room for what either wants. What follows keeps the number from
//! going up and down: a band in which nothing changes, a cooldown, a bound on each step, and for going down the highest
//! number that was recommended lately.

use super::forecast::Forecast;
use super::policy::{Policy, PolicyName};
use crate::core::{Demand, FleetLoad, Millis, Timestamp};
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

/// What was seen since the last plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// When.
    pub at: Timestamp,
    /// Over how long the requests were counted.
    pub window: Millis,
    /// Worker slots there are.
    pub workers_total: u64,
    /// Worker slots taken, those of leases past their deadline left out: they are there for the next request.
    pub workers_leased: u64,
    /// Worker slots that cannot be taken away: all that are taken.
    pub workers_held: u64,
    /// Requests granted in the window.
    pub granted: u64,
    /// Requests refused for want of room in the window.
    pub refused: u64,
    /// The most workers that one of those asked for which were refused for want of workers; 0 if none was.
    pub refused_workers_max: u64,
    /// The fleet.
    pub fleet: FleetLoad,
}

/// What a plan does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// More workers.
    ScaleUp,
    /// Fewer workers.
    ScaleDown,
    /// As many as there are.
    Hold,
}

/// What the planner would do, with the figures and the reasons that led to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// When it was made.
    pub planned_at: Timestamp,
    /// By which policy.
    pub policy: PolicyName,
    /// What it does.
    pub action: Action,
    /// Worker slots there are.
    pub current_workers: u64,
    /// Worker slots there should be.
    pub target_workers: u64,
    /// Worker slots that are wanted, before bounds, steps and patience.
    pub wanted_workers: u64,
    /// The fewest there may be.
    pub min_workers: u64,
    /// The most there may be.
    pub max_workers: u64,
    /// Worker slots taken, those of leases past their deadline left out.
    pub leased_workers: u64,
    /// The part of the workers that is taken, from 0 to 1; 0 if there are none.
    pub utilization: f64,
    /// Agents there are.
    pub current_agents: u64,
    /// Agents there should be. None is ever registered or sent away: whoever runs agents does that.
    pub target_agents: u64,
    /// Agents that are wanted, before steps and patience.
    pub wanted_agents: u64,
    /// The part of what the agents may hold that they hold, from 0 to 1; 0 if there are none.
    pub agent_utilization: f64,
    /// Tasks that wait for an agent.
    pub pending_tasks: u64,
    /// How long what waits has waited, in the mean, in milliseconds.
    pub avg_wait_time_ms: u64,
    /// Over how many seconds requests were counted.
    pub window_seconds: f64,
    /// Requests granted in that time.
    pub granted_requests: u64,
    /// Requests refused in that time.
    pub refused_requests: u64,
    /// The rate of requests, and the one to expect.
    pub forecast: Forecast,
    /// Why, in order.
    pub reasons: Vec<String>,
}

/// Other figures than those that were seen, to ask what would be done then.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WhatIf {
    /// So many tasks wait for an agent.
    pub waiting: Option<u64>,
    /// So many requests a minute come.
    pub requests_per_minute: Option<u64>,
    /// There are so many agents.
    pub agents: Option<u64>,
}

/// How many tasks an agent may hold of whom nothing is known: the default of its registration.
const ROOM_EACH_DEFAULT: u64 = 3;

impl Observation {
    /// The same with other figures. What they lead to follows: more agents have more room, and fewer hold fewer tasks.
    #[must_use]
    pub fn with(self, what_if: &WhatIf) -> Self {
        let mut seen = self;
        if let Some(waiting) = what_if.waiting {
            seen.fleet.waiting = waiting;
        }
        if let Some(agents) = what_if.agents.filter(|agents| *agents != seen.fleet.agents) {
            let fleet = &mut seen.fleet;
            let room_each = fleet.room.checked_div(fleet.agents).unwrap_or(ROOM_EACH_DEFAULT);
            fleet.room = agents.saturating_mul(room_each);
            fleet.running = fleet.running.min(fleet.room);
            (fleet.agents, fleet.agents_at_work) = (agents, fleet.agents_at_work.min(agents));
        }
        if let Some(requests) = what_if.requests_per_minute {
            // A whole minute, so that no rate is lost between two looks that are close together.
            seen.window = Millis::from_seconds(60);
            seen.refused = seen.refused.min(requests);
            seen.granted = requests - seen.refused;
        }
        seen
    }
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

    /// Plans by other figures from now on. What was wanted lately still counts.
    pub const fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
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
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { workers_min: 2, workers_max: 40 };

    fn seen(total: u64, leased: u64, refused: u64) -> Observation {
        Observation {
            at: Timestamp::from_millis(1_000_000),
            window: Millis::from_seconds(30),
            workers_total: total,
            workers_leased: leased,
            workers_held: leased,
            granted: 5,
            refused,
            refused_workers_max: 0,
            fleet: FleetLoad::default(),
        }
    }

    /// A planner without patience: what it wants it does.
    fn planner(min: u64, max: u64) -> Planner {
        let policy = Policy { scale_in_window: Millis(0), ..Policy::BALANCED };
        Planner::new(policy, Bounds { workers_min: min, workers_max: max })
    }

    fn check(planner: &Planner, seen: &Observation, action: Action, target: u64, because: &[&str]) {
        let plan = planner.plan(seen);
        assert_eq!((plan.action, plan.target_workers), (action, target), "{plan:#?}");
        for reason in because {
            assert!(plan.reasons.iter().any(|said| said.contains(reason)), "{reason:?} is not in {:#?}", plan.reasons);
        }
    }

    #[test]
    fn utilization_decides() {
        let p = planner(2, 40);
        check(
            &p,
            &seen(10, 9, 0),
            Action::ScaleUp,
            13,
            &["90 % of the workers are leased, over 80 %", "takes 13 workers"],
        );
        check(&p, &seen(10, 8, 0), Action::Hold, 10, &["80 % of the workers are leased, between 20 % and 80 %"]);
        check(&p, &seen(10, 2, 0), Action::Hold, 10, &["between"]);
        check(&p, &seen(10, 1, 0), Action::ScaleDown, 5, &["10 % of the workers are leased, under 20 %"]);
        check(&p, &seen(10, 0, 0), Action::ScaleDown, 5, &["0 would be wanted, and 2 to 40 are allowed"]);
        check(&p, &seen(40, 40, 0), Action::Hold, 40, &["58 would be wanted, and 2 to 40 are allowed"]);
        check(&p, &seen(0, 0, 0), Action::ScaleUp, 2, &[]);
    }

    #[test]
    fn a_refusal_scales_up_whatever_the_utilization() {
        let p = planner(2, 40);
        let refused = Observation { refused_workers_max: 8, ..seen(10, 3, 4) };
        check(&p, &refused, Action::ScaleUp, 11, &["refused for want of workers (4 refused in all)"]);
        check(&p, &Observation { refused_workers_max: 0, ..refused }, Action::Hold, 10, &[]);
        let large = Observation { refused_workers_max: 20, ..refused };
        check(&p, &large, Action::ScaleUp, 20, &["of up to 20 workers", "23 would be wanted, and one step goes to 20"]);
        check(&p, &Observation { refused_workers_max: u64::from(u32::MAX), ..refused }, Action::ScaleUp, 20, &[]);
    }

    #[test]
    fn nothing_is_done_before_anything_was_observed() {
        let first = Observation { window: Millis(0), ..seen(10, 0, 0) };
        check(&planner(2, 40), &first, Action::Hold, 10, &["nothing has been observed yet"]);
    }

    #[test]
    fn equal_bounds_hold() {
        check(&planner(10, 10), &seen(10, 10, 9), Action::Hold, 10, &["both 10: the number is fixed"]);
        check(&planner(10, 10), &seen(10, 0, 0), Action::Hold, 10, &[]);
    }

    #[test]
    fn the_trend_moves_the_target() {
        let mut p = planner(1, 100);
        let calm = Observation { granted: 5, ..seen(10, 9, 0) };
        let plan = p.plan(&calm);
        p.note(&plan, false);
        check(
            &p,
            &Observation { granted: 50, ..calm },
            Action::ScaleUp,
            16,
            &["increasing: 100.0 a minute, 120.0 to expect"],
        );
        check(
            &p,
            &Observation { refused_workers_max: 1, granted: 1, ..calm },
            Action::ScaleUp,
            11,
            &["decreasing: 2.0 a minute, 1.6 to expect"],
        );
    }

    #[test]
    fn nothing_changes_within_the_cooldown() {
        for policy in Policy::NAMED {
            let mut p = Planner::new(policy, BOUNDS);
            let busy = seen(10, 9, 0);
            let plan = p.plan(&busy);
            p.note(&plan, true);
            let later = |ms| Observation { at: busy.at.after(Millis(ms)), ..busy };
            check(&p, &later(policy.cooldown.0 - 1), Action::Hold, 10, &["the last change was less than"]);
            check(&p, &later(policy.cooldown.0), Action::ScaleUp, 13, &[]);
        }
    }

    #[test]
    fn what_is_leased_stays() {
        let overdue = Observation { workers_held: 7, ..seen(10, 0, 0) };
        check(&planner(1, 10), &overdue, Action::ScaleDown, 7, &["7 workers are leased and stay"]);
    }

    #[test]
    fn the_number_goes_down_to_the_highest_that_was_wanted_lately() {
        let mut p = Planner::new(Policy::BALANCED, BOUNDS);
        let start = seen(30, 0, 0).at;
        let mut plan_at = |seconds: u64, leased| {
            let plan = p.plan(&Observation { at: start.after(Millis::from_seconds(seconds)), ..seen(30, leased, 0) });
            p.note(&plan, false);
            (plan.action, plan.target_workers)
        };
        // What was wanted before the first plan is not known.
        assert_eq!(plan_at(0, 0), (Action::Hold, 30));
        assert_eq!(plan_at(299, 5), (Action::Hold, 30));
        assert_eq!(plan_at(300, 0), (Action::ScaleDown, 15), "8 were wanted for 5, and a step is half");
        assert_eq!(plan_at(301, 25), (Action::ScaleUp, 36));
        assert_eq!(plan_at(600, 0), (Action::Hold, 30), "36 were wanted 299 s ago");
        assert_eq!(plan_at(601, 0), (Action::ScaleDown, 15));
    }

    #[test]
    fn what_is_about_as_many_stays_unless_somebody_waits() {
        let p = planner(1, 1_000);
        // 91 of 100 are too many for 130, and 107 for 9 of 110 no more than a tenth beside it.
        let policy = Policy { utilization_up: 0.7, ..p.policy };
        let p = Planner::new(policy, p.bounds);
        check(&p, &seen(100, 71, 0), Action::Hold, 100, &["102 are about as many as 100"]);
        check(&p, &Observation { refused_workers_max: 1, ..seen(100, 71, 1) }, Action::ScaleUp, 102, &[]);
        check(&p, &seen(100, 78, 0), Action::ScaleUp, 112, &[]);
    }

    /// Agents of which each may hold 4 tasks.
    fn fleet(agents: u64, running: u64, waiting: u64) -> FleetLoad {
        FleetLoad {
            agents,
            agents_at_work: running.div_ceil(4).min(agents),
            room: 4 * agents,
            running,
            waiting,
            wait_mean: Millis(0),
            quota: None,
        }
    }

    fn agents(policy: Policy, fleet: FleetLoad) -> u64 {
        // Without patience: what it wants it does.
        let policy = Policy { scale_in_window: Millis(0), ..policy };
        let plan = Planner::new(policy, BOUNDS).plan(&Observation { fleet, ..seen(10, 3, 0) });
        assert!(plan.target_agents == fleet.agents || plan.reasons.len() > 1, "without a reason: {plan:#?}");
        plan.target_agents
    }

    #[test]
    fn each_policy_goes_by_its_row_of_the_table() {
        let check = |policy, waiting, expected| {
            assert_eq!(agents(policy, fleet(5, 10, waiting)), expected, "{policy:?}, {waiting} waiting");
        };
        check(Policy::AGGRESSIVE, 20, 5);
        check(Policy::AGGRESSIVE, 21, 6);
        check(Policy::AGGRESSIVE, 50, 7);
        check(Policy::BALANCED, 30, 5);
        check(Policy::BALANCED, 31, 6);
        check(Policy::BALANCED, 69, 6);
        check(Policy::BALANCED, 70, 7);
        check(Policy::CONSERVATIVE, 50, 5);
        check(Policy::CONSERVATIVE, 51, 6);
        check(Policy::CONSERVATIVE, 100, 7);
    }

    #[test]
    fn waiting_and_work_take_more_agents_too() {
        let waits = |wait_ms, waiting| FleetLoad { wait_mean: Millis(wait_ms), ..fleet(5, 10, waiting) };
        assert_eq!(agents(Policy::BALANCED, waits(5_000, 1)), 5);
        assert_eq!(agents(Policy::BALANCED, waits(5_001, 1)), 6);
        assert_eq!(agents(Policy::BALANCED, waits(5_001, 0)), 5, "nobody waits");
        assert_eq!(agents(Policy::BALANCED, fleet(5, 16, 0)), 5);
        assert_eq!(agents(Policy::BALANCED, fleet(5, 17, 0)), 7, "17 of 28 are 61 %, of 24 more than 70 %");
        assert_eq!(agents(Policy::BALANCED, fleet(0, 0, 1)), 1);
        assert_eq!(agents(Policy::BALANCED, fleet(0, 0, 0)), 0);
        assert_eq!(agents(Policy::BALANCED, FleetLoad { quota: Some(6), ..fleet(5, 10, 500) }), 6);
        assert_eq!(agents(Policy::BALANCED, FleetLoad { quota: Some(3), ..fleet(5, 10, 500) }), 5);
    }

    #[test]
    fn whoever_has_work_keeps_it_and_one_is_kept() {
        assert_eq!(agents(Policy::BALANCED, fleet(7, 5, 0)), 3, "of ten it would be more than a step");
        assert_eq!(agents(Policy::BALANCED, fleet(10, 8, 0)), 10, "a fifth is in use");
        assert_eq!(agents(Policy::BALANCED, FleetLoad { agents_at_work: 7, ..fleet(10, 7, 0) }), 7);
        assert_eq!(agents(Policy::BALANCED, fleet(5, 0, 9)), 1);
        assert_eq!(agents(Policy::BALANCED, fleet(100, 0, 0)), 50, "half of them in one step");
        assert_eq!(agents(Policy::BALANCED, fleet(3, 6, 5_000)), 7, "four more in one step");
        assert_eq!(agents(Policy::BALANCED, fleet(10, 0, 10)), 10);
        let waits = FleetLoad { wait_mean: Millis(1_000), ..fleet(10, 0, 9) };
        assert_eq!(agents(Policy::BALANCED, waits), 10);
        assert_eq!(agents(Policy::BALANCED, fleet(1, 0, 0)), 1);
    }

    #[test]
    fn what_if_figures_lead_to_what_follows_from_them() {
        let load = FleetLoad { room: 11, ..fleet(3, 8, 5) };
        let seen = Observation { fleet: load, ..seen(10, 3, 1) };
        assert_eq!(seen.with(&WhatIf::default()), seen);
        let what_if = |agents| seen.with(&WhatIf { agents: Some(agents), ..WhatIf::default() }).fleet;
        assert_eq!(what_if(3), load, "as many as there are");
        assert_eq!((what_if(6).room, what_if(6).running, what_if(6).agents_at_work), (18, 8, 2));
        assert_eq!((what_if(1).room, what_if(1).running, what_if(1).agents_at_work), (3, 3, 1));
        assert_eq!((what_if(0).room, what_if(0).running, what_if(0).agents_at_work), (0, 0, 0));
        let nobody = Observation { fleet: FleetLoad::default(), ..seen };
        assert_eq!(nobody.with(&WhatIf { agents: Some(2), ..WhatIf::default() }).fleet.room, 6);
        let rate = |window, requests| {
            let what_if = WhatIf { requests_per_minute: Some(requests), ..WhatIf::default() };
            let seen = Observation { window: Millis(window), ..seen }.with(&what_if);
            (seen.window.0, seen.granted, seen.refused)
        };
        assert_eq!(rate(30_000, 20), (60_000, 19, 1));
        assert_eq!(rate(0, 20), (60_000, 19, 1));
        assert_eq!(rate(30_000, 0), (60_000, 0, 0));
    }

    #[test]
    fn agents_are_kept_for_as_long_as_they_were_wanted_lately() {
        let mut p = Planner::new(Policy::BALANCED, BOUNDS);
        let start = seen(10, 3, 0).at;
        let mut target_at = |seconds: u64, load| {
            let at = start.after(Millis::from_seconds(seconds));
            let plan = p.plan(&Observation { at, fleet: load, ..seen(10, 3, 0) });
            p.note(&plan, false);
            plan.target_agents
        };
        assert_eq!(target_at(0, fleet(4, 8, 91)), 7, "three more for 91 tasks");
        assert_eq!(target_at(30, fleet(7, 0, 0)), 7);
        assert_eq!(target_at(299, fleet(7, 0, 0)), 7, "as many were wanted 299 s ago");
        assert_eq!(target_at(300, fleet(7, 0, 0)), 3, "four fewer in one step");
    }

    #[test]
    fn the_pool_has_room_for_the_agents_that_should_come() {
        let p = planner(2, 40);
        let busy = Observation { fleet: fleet(8, 20, 100), ..seen(10, 8, 0) };
        check(
            &p,
            &busy,
            Action::ScaleUp,
            11,
            &["100 tasks wait, over 30: 3 agents more", "3 agents more take as many"],
        );
        let roomy = Observation { fleet: fleet(8, 20, 100), ..seen(20, 8, 0) };
        check(&p, &roomy, Action::Hold, 20, &[]);
    }
}
