//! Scaling: how many worker slots there should be.

use super::forecast::Forecast;
use crate::core::{Millis, Timestamp};
use serde::Serialize;

/// When to scale, and how far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Above this part of the workers in use there are too few.
    pub scale_up_utilization: f64,
    /// Below this part of the workers in use there are too many.
    pub scale_down_utilization: f64,
    /// The part of the workers that should be in use after scaling.
    pub target_utilization: f64,
    /// How long after a change nothing is changed.
    pub cooldown: Millis,
}

impl Policy {
    /// The balanced policy of the Resource Allocation Module: up over 80 %, down under 20 %, 20 s of cooldown, and 70 %
    /// in use as the aim (30 % headroom).
    pub const BALANCED: Self = Self {
        scale_up_utilization: 0.8,
        scale_down_utilization: 0.2,
        target_utilization: 0.7,
        cooldown: Millis::from_seconds(20),
    };
}

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
    /// Worker slots leased, those of leases past their deadline left out: they are there for the next request.
    pub workers_leased: u64,
    /// Worker slots that cannot be taken away: all that are leased.
    pub workers_held: u64,
    /// Requests granted in the window.
    pub granted: u64,
    /// Requests refused for want of room in the window.
    pub refused: u64,
    /// The most workers that one of those asked for which were refused for want of workers; 0 if none was.
    pub refused_workers_max: u64,
}

/// What a plan does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// More workers.
    ScaleUp,
    /// Fewer workers.
    ScaleDown,
    /// As many as there are.
    Hold,
}

/// What the planner would do, with the figures and the reasons that led to it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// When it was made.
    pub planned_at: Timestamp,
    /// What it does.
    pub action: Action,
    /// Worker slots there are.
    pub current_workers: u64,
    /// Worker slots there should be.
    pub target_workers: u64,
    /// The fewest there may be.
    pub min_workers: u64,
    /// The most there may be.
    pub max_workers: u64,
    /// Worker slots leased and not past their deadline.
    pub leased_workers: u64,
    /// The part of the workers that is leased, from 0 to 1; 0 if there are none.
    pub utilization: f64,
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

/// Makes plans, and remembers what the next one is compared with.
#[derive(Clone, Debug)]
pub struct Planner {
    policy: Policy,
    bounds: Bounds,
    previous_rate: Option<f64>,
    changed_at: Option<Timestamp>,
}

impl Planner {
    /// A planner that has seen nothing yet.
    #[must_use]
    pub const fn new(policy: Policy, bounds: Bounds) -> Self {
        Self { policy, bounds, previous_rate: None, changed_at: None }
    }

    /// What to do, given what was seen.
    #[must_use]
    pub fn plan(&self, seen: &Observation) -> Plan {
        let window_seconds = seen.window.0 as f64 / 1000.0;
        let requests = (seen.granted + seen.refused) as f64;
        let rate = if seen.window.0 == 0 { 0.0 } else { requests * 60.0 / window_seconds };
        let forecast = Forecast::by_trend(self.previous_rate.filter(|_| seen.window.0 > 0), rate);
        let utilization =
            if seen.workers_total == 0 { 0.0 } else { seen.workers_leased as f64 / seen.workers_total as f64 };
        let mut plan = Plan {
            planned_at: seen.at,
            action: Action::Hold,
            current_workers: seen.workers_total,
            target_workers: seen.workers_total,
            min_workers: self.bounds.workers_min,
            max_workers: self.bounds.workers_max,
            leased_workers: seen.workers_leased,
            utilization,
            window_seconds,
            granted_requests: seen.granted,
            refused_requests: seen.refused,
            forecast,
            reasons: Vec::new(),
        };
        let wanted = self.wanted(seen, &mut plan);
        self.settle(seen, wanted, &mut plan);
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
    }

    /// How many workers there should be, bounds and cooldown aside.
    fn wanted(&self, seen: &Observation, plan: &mut Plan) -> u64 {
        if seen.window.0 == 0 {
            plan.reasons.push("nothing has been observed yet".to_owned());
            return seen.workers_total;
        }
        let Policy { scale_up_utilization, scale_down_utilization, target_utilization, .. } = self.policy;
        let percent = |part: f64| format!("{:.0} %", part * 100.0);
        let forecast = plan.forecast;
        // The leases to expect grow as the requests do, while leases last as long as they did.
        let expected = seen.workers_leased as f64 * forecast.trend.factor();
        let for_target = (expected / target_utilization).ceil() as u64;
        let share = percent(plan.utilization);
        let trend = format!(
            "the rate of requests is {:?}: {:.1} a minute, {:.1} to expect; for {} in use that takes {for_target} workers",
            forecast.trend,
            forecast.current_rate_per_minute,
            forecast.predicted_rate_per_minute,
            percent(target_utilization),
        )
        .to_lowercase();
        if plan.utilization > scale_up_utilization || seen.refused_workers_max > 0 {
            if plan.utilization > scale_up_utilization {
                plan.reasons.push(format!("{share} of the workers are leased, over {}", percent(scale_up_utilization)));
            }
            if seen.refused_workers_max > 0 {
                let (refused, most) = (seen.refused, seen.refused_workers_max);
                plan.reasons.push(format!(
                    "requests were refused for want of workers ({refused} refused in all), of up to {most} workers"
                ));
            }
            plan.reasons.push(trend);
            for_target.max(seen.workers_total + 1).max(seen.workers_held + seen.refused_workers_max)
        } else if plan.utilization < scale_down_utilization {
            plan.reasons.push(format!("{share} of the workers are leased, under {}", percent(scale_down_utilization)));
            plan.reasons.push(trend);
            for_target.min(seen.workers_total)
        } else {
            let (low, high) = (percent(scale_down_utilization), percent(scale_up_utilization));
            plan.reasons.push(format!("{share} of the workers are leased, between {low} and {high}"));
            seen.workers_total
        }
    }

    /// Fits what is wanted to the bounds, to what is leased and to the cooldown.
    fn settle(&self, seen: &Observation, wanted: u64, plan: &mut Plan) {
        let Bounds { workers_min, workers_max } = self.bounds;
        let mut target = wanted.clamp(workers_min, workers_max);
        if target != wanted {
            plan.reasons.push(if workers_min == workers_max {
                format!("min_workers and max_workers are both {workers_min}: the number is fixed")
            } else {
                format!("{wanted} would be wanted, and {workers_min} to {workers_max} are allowed")
            });
        }
        if target < seen.workers_held {
            target = seen.workers_held.min(seen.workers_total);
            plan.reasons.push(format!("{} workers are leased and stay", seen.workers_held));
        }
        let cooling = self.changed_at.filter(|at| seen.at.since(*at) < self.policy.cooldown);
        if target != seen.workers_total && cooling.is_some() {
            let seconds = self.policy.cooldown.as_seconds();
            plan.reasons.push(format!("the last change was less than {seconds} s ago: wait"));
            return;
        }
        plan.target_workers = target;
        plan.action = match target.cmp(&seen.workers_total) {
            std::cmp::Ordering::Greater => Action::ScaleUp,
            std::cmp::Ordering::Less => Action::ScaleDown,
            std::cmp::Ordering::Equal => Action::Hold,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        }
    }

    fn planner(min: u64, max: u64) -> Planner {
        Planner::new(Policy::BALANCED, Bounds { workers_min: min, workers_max: max })
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
        check(&p, &seen(10, 1, 0), Action::ScaleDown, 2, &["10 % of the workers are leased, under 20 %"]);
        check(&p, &seen(10, 0, 0), Action::ScaleDown, 2, &["0 would be wanted, and 2 to 40 are allowed"]);
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
        check(&p, &large, Action::ScaleUp, 23, &["of up to 20 workers"]);
        check(&p, &Observation { refused_workers_max: u64::from(u32::MAX), ..refused }, Action::ScaleUp, 40, &[]);
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
            &Observation { granted: 1, ..calm },
            Action::ScaleUp,
            11,
            &["decreasing: 2.0 a minute, 1.6 to expect"],
        );
    }

    #[test]
    fn nothing_changes_within_the_cooldown() {
        let mut p = planner(2, 40);
        let busy = seen(10, 9, 0);
        let plan = p.plan(&busy);
        p.note(&plan, true);
        let later = |seconds| Observation { at: busy.at.after(Millis::from_seconds(seconds)), ..busy };
        check(&p, &later(19), Action::Hold, 10, &["the last change was less than 20 s ago"]);
        check(&p, &later(20), Action::ScaleUp, 13, &[]);
    }

    #[test]
    fn what_is_leased_stays() {
        let overdue = Observation { workers_held: 7, ..seen(10, 0, 0) };
        check(&planner(1, 10), &overdue, Action::ScaleDown, 7, &["7 workers are leased and stay"]);
    }
}
