//! The planner: from what is seen to one plan, step by step, and what it remembers from one plan to the next.
//!
//! What follows the rules of `scaling` keeps numbers from going up and down: a band in which nothing changes, a cooldown, a bound on
//! each step, and for going down the highest number that was wanted lately.

use super::bottlenecks::Bottlenecks;
use super::capacity_plan::CapacityPlan;
use super::demand_forecast::DemandForecast;
use super::forecast::Forecast;
use super::looks::{COUNT_WINDOW, Look, Looks};
use super::observation::Observation;
use super::plan::{Action, PLAN_BOTTLENECKS_MAX, Plan};
use super::scaling::{self, Wanted};
use cortex_core::demand::DemandBin;
use cortex_core::scaling_state::Scaling;
use cortex_core::time::{Millis, Timestamp};
use cortex_core::view::Demand;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// How much a step may add or take at least, however small the number: four, as in the Horizontal Pod Autoscaler of Kubernetes.
const STEP_MIN: u64 = 4;

/// How long after a plan the next one can be called for, so that many calls at once are few plans.
pub const CALL_SPACING: Millis = Millis::from_seconds(1);

/// The longest time over which a policy may look back at what was wanted: a day.
pub const SCALE_IN_WINDOW_MAX: Millis = Millis::from_seconds(86_400);

/// How many recommendations are remembered at most: at one every 30 s, those of the longest time that a policy may look back.
const RECOMMENDATIONS_MAX: usize = 2_880;

/// How far the number of workers may be moved. The least is never above the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The fewest.
    pub workers_min: u64,
    /// The most.
    pub workers_max: u64,
}

/// What was wanted at a moment.
#[derive(Clone, Copy, Debug)]
struct Lately {
    at: Timestamp,
    workers: u64,
    agents: u64,
    /// The number of agents that there should be, by the plan of then.
    agents_planned: u64,
}

/// A number of agents that was asked for.
#[derive(Clone, Copy, Debug)]
struct Goal {
    agents: u64,
    /// Whether it was more than there were.
    is_up: bool,
    since: Timestamp,
    /// Whether there are as many by now.
    is_reached: bool,
}

/// Makes plans, and remembers what the next one is compared with.
#[derive(Clone, Debug)]
pub struct Planner {
    bounds: Bounds,
    demand_forecast: DemandForecast,
    looks: Looks,
    previous_rate: Option<f64>,
    changed_at: Option<Timestamp>,
    /// The most workers that a refused request asked for, where the last plan did not do all about it.
    unmet_workers: u64,
    goal: Option<Goal>,
    /// What was wanted lately, oldest first.
    lately: VecDeque<Lately>,
}

impl Planner {
    /// A planner that has seen nothing yet.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            demand_forecast: DemandForecast::default(),
            looks: Looks::default(),
            previous_rate: None,
            changed_at: None,
            unmet_workers: 0,
            goal: None,
            lately: VecDeque::new(),
        }
    }

    /// What demand to expect.
    #[must_use]
    pub const fn demand_forecast(&self) -> &DemandForecast {
        &self.demand_forecast
    }

    /// Takes in the next bins of demand, as far as they are over at `now`; a few microseconds each.
    pub fn take_in(&mut self, bins: &[DemandBin], now: Timestamp) {
        self.demand_forecast.take_in(bins, now);
    }

    /// Takes in that nothing else was asked for up to now, once all bins were taken in.
    pub fn catch_up(&mut self, now: Timestamp) {
        self.demand_forecast.catch_up(now);
    }

    /// What is seen at `at`: requests over the last half minute, or since the last look that is longer ago.
    #[must_use]
    pub fn observe(&self, at: Timestamp, demand: &Demand) -> Observation {
        let Demand { capacity, granted, refused, refused_workers_max, workers_fit, fleet, policy } = demand;
        let now = Look::new(at, demand);
        // Before the first look nothing was counted, and so nothing counts.
        let then = self.looks.before(at, COUNT_WINDOW).unwrap_or(now);
        Observation {
            at,
            window: at.since(then.at),
            workers_total: capacity.total.workers,
            workers_leased: capacity.leased.workers.saturating_sub(capacity.reclaimable.workers),
            workers_held: capacity.leased.workers,
            workers_fit: *workers_fit,
            granted: granted.saturating_sub(then.granted),
            refused: refused.saturating_sub(then.refused),
            refused_workers_max: self.unmet_workers.max(*refused_workers_max),
            fleet: *fleet,
            policy: *policy,
            // What is added stays for as long, so it is measured by the demand of as long.
            tasks_per_second: self.looks.tasks_per_second(&now, policy.scale_in_window_ms),
            tasks_per_minute: None,
        }
    }

    /// The same, and this look is remembered.
    pub fn look(&mut self, at: Timestamp, demand: &Demand) -> Observation {
        let seen = self.observe(at, demand);
        self.looks.push(Look::new(at, demand), demand.policy.scale_in_window_ms);
        seen
    }

    /// What to do, given what was seen, and what a look for bottlenecks found, if it did not fail. Nothing is remembered of it:
    /// the same question has the same answer. A step that fails is named, and the others go on without it.
    #[must_use]
    pub fn plan(&self, seen: &Observation, bottlenecks: Option<&Bottlenecks>) -> Plan {
        let mut plan = self.beginning(seen, bottlenecks);
        if seen.window.0 == 0 {
            plan.reasons.push("nothing has been observed yet".to_owned());
            return plan;
        }
        let mut ahead = Vec::new();
        plan.capacity =
            attempt("capacity", &mut plan.failed_steps, || CapacityPlan::new(&self.demand_forecast, seen, &mut ahead))
                .unwrap_or_default();
        let mut scaled = plan.clone();
        if attempt("scaling", &mut plan.failed_steps, || self.scale(seen, &mut scaled)).is_some() {
            scaled.failed_steps = plan.failed_steps;
            plan = scaled;
        }
        plan.reasons.append(&mut ahead);
        plan
    }

    /// A plan that does nothing, with the figures that were seen.
    fn beginning(&self, seen: &Observation, bottlenecks: Option<&Bottlenecks>) -> Plan {
        let window_seconds = seen.window.0 as f64 / 1000.0;
        let requests = (seen.granted + seen.refused) as f64;
        let counted_seconds = seen.window.max(COUNT_WINDOW).0 as f64 / 1_000.0;
        let rate = if seen.window.0 == 0 { 0.0 } else { requests * 60.0 / counted_seconds };
        let mut plan = Plan {
            planned_at: seen.at,
            policy: seen.policy.name,
            action: Action::Hold,
            bottlenecks: None,
            saves_tokens: seen.fleet.saves_tokens,
            deferred_tasks: seen.fleet.deferred,
            current_workers: seen.workers_total,
            target_workers: seen.workers_total,
            wanted_workers: seen.workers_total,
            min_workers: self.bounds.workers_min,
            max_workers: self.bounds.workers_max,
            leased_workers: seen.workers_leased,
            utilization: scaling::part(seen.workers_leased, seen.workers_total),
            current_agents: seen.fleet.agents,
            target_agents: seen.fleet.agents,
            wanted_agents: seen.fleet.agents,
            agent_utilization: scaling::part(seen.fleet.running, seen.fleet.room),
            pending_tasks: seen.fleet.waiting,
            avg_wait_time_ms: seen.fleet.wait_mean.0,
            window_seconds,
            granted_requests: seen.granted,
            refused_requests: seen.refused,
            refused_workers_max: seen.refused_workers_max,
            forecast: Forecast::by_trend(self.previous_rate.filter(|_| seen.window.0 > 0), rate),
            capacity: CapacityPlan::default(),
            failed_steps: Vec::new(),
            reasons: Vec::new(),
        };
        if let Some(Bottlenecks { found, .. }) = bottlenecks {
            let named = found.iter().take(PLAN_BOTTLENECKS_MAX);
            let named: Vec<_> = named.map(|one| (one.subject.clone(), one.severity)).collect();
            if let Some((subject, severity)) = named.first() {
                let (kind, severity) = (subject.kind(), severity.as_str());
                plan.reasons.push(format!("{} found that hold tasks up, the worst {kind} ({severity})", found.len()));
            }
            plan.bottlenecks = Some(named);
        } else {
            plan.failed_steps.push("bottlenecks");
        }
        if plan.saves_tokens && plan.deferred_tasks > 0 {
            let deferred = plan.deferred_tasks;
            plan.reasons
                .push(format!("tokens are saved, and {deferred} tasks wait for some: agents would not help them"));
        }
        plan
    }

    /// How many agents and workers there should be.
    fn scale(&self, seen: &Observation, plan: &mut Plan) {
        let current = seen.fleet.agents;
        plan.wanted_agents = scaling::agents(seen, plan.capacity.trusted_agents(), &mut plan.reasons);
        let patient = self.patiently(seen, current, plan.wanted_agents, |lately| lately.agents, &mut plan.reasons);
        let asked_for = self.asked_for(seen);
        if asked_for > patient {
            plan.reasons.push(format!("{asked_for} agents were asked for, and not all are there yet"));
        }
        let patient = patient.max(asked_for);
        // Where agents were lost it is no new step to have as many as there should have been.
        let stepped = if patient > current {
            patient.min(step_up(current.max(self.planned_lately(seen))))
        } else {
            step(current, patient)
        };
        if stepped != patient {
            plan.reasons.push(format!("{patient} agents would be wanted, and one step goes to {stepped}"));
        }
        plan.target_agents = self.hold_on(seen, stepped, &mut plan.reasons);
        let room = seen.workers_fit.min(plan.max_workers.max(seen.workers_total)).saturating_sub(seen.workers_held);
        if plan.target_agents > current.saturating_add(room) {
            plan.reasons
                .push(format!("{room} agents more may come by max_workers, CPU and memory, besides those of leases"));
        }
        let wanted = scaling::workers(seen, plan);
        self.settle(seen, &wanted, plan);
    }

    /// How many agents were asked for of whom not all are there yet; 0 if they are. Starting takes time, so it counts for as long
    /// as a higher number that was wanted does, and the next step goes on from there.
    fn asked_for(&self, seen: &Observation) -> u64 {
        let fleet = seen.fleet;
        let is_recent = |goal: &Goal| seen.at.since(goal.since) < seen.policy.scale_in_window_ms;
        let goal = self.goal.filter(|goal| !goal.is_reached && is_recent(goal) && goal.agents > fleet.agents);
        goal.map_or(0, |goal| goal.agents.min(fleet.agents_max()))
    }

    /// The most agents that there should have been lately, by the plans of then; 0 before the first.
    fn planned_lately(&self, seen: &Observation) -> u64 {
        self.recent(seen).map(|lately| lately.agents_planned).max().unwrap_or(0)
    }

    /// What was wanted over the time that the policy looks back, the newest first.
    fn recent(&self, seen: &Observation) -> impl Iterator<Item = &Lately> {
        let window = seen.policy.scale_in_window_ms;
        self.lately.iter().rev().take_while(move |lately| seen.at.since(lately.at) < window)
    }

    /// The same number of agents as was last asked for, for as long as that is less than a cooldown ago.
    fn hold_on(&self, seen: &Observation, wanted: u64, reasons: &mut Vec<String>) -> u64 {
        let fleet = seen.fleet;
        let recent = self.goal.filter(|goal| seen.at.since(goal.since) < seen.policy.cooldown_ms);
        let Some(goal) = recent else { return wanted };
        // Where others came besides they stay, and where some were lost meanwhile they are to come again.
        let is_there = goal.is_reached || (goal.is_up && fleet.agents >= goal.agents);
        let held = if is_there { goal.agents.max(fleet.agents) } else { goal.agents };
        // Whoever is at work stays, no step is too far, and a quota may have been set meanwhile.
        let held = held.max(fleet.agents_at_work).max(step(fleet.agents, 0)).min(fleet.agents_max());
        if held != wanted {
            let seconds = seen.policy.cooldown_ms.as_seconds();
            reasons.push(format!("another number of agents was asked for less than {seconds} s ago: wait"));
        }
        held
    }

    /// What changes with this plan, if it is carried out: another number of workers, or of agents to ask for than before.
    #[must_use]
    pub fn scaling(&self, plan: &Plan) -> Option<Scaling> {
        let is_asked_for = self.goal.is_some_and(|goal| !goal.is_reached && goal.agents == plan.target_agents);
        let moves_agents = plan.target_agents != plan.current_agents && !is_asked_for;
        (plan.action != Action::Hold || moves_agents).then(|| Scaling {
            policy: plan.policy,
            workers_from: plan.current_workers,
            workers_to: plan.target_workers,
            agents_from: plan.current_agents,
            agents_to: plan.target_agents,
            reason: Arc::from(plan.reasons.join("; ")),
        })
    }

    /// Takes note of what the next plan is compared with, once this one is carried out or only shown.
    pub fn note(&mut self, plan: &Plan, is_carried_out: bool) {
        if plan.window_seconds > 0.0 {
            self.previous_rate = Some(plan.forecast.current_rate_per_minute);
        }
        if is_carried_out {
            self.changed_at = Some(plan.planned_at);
        }
        // What a step or the cooldown left undone is not forgotten.
        let is_met = plan.target_workers >= plan.wanted_workers.min(plan.max_workers);
        self.unmet_workers = if is_met { 0 } else { plan.refused_workers_max };
        let is_reached = plan.target_agents == plan.current_agents;
        match &mut self.goal {
            Some(goal) if is_reached || goal.agents == plan.target_agents => goal.is_reached = is_reached,
            goal if !is_reached => {
                let is_up = plan.target_agents > plan.current_agents;
                *goal = Some(Goal { agents: plan.target_agents, is_up, since: plan.planned_at, is_reached });
            }
            _ => {}
        }
        let oldest = plan.planned_at.before(SCALE_IN_WINDOW_MAX);
        while self.lately.len() == RECOMMENDATIONS_MAX || self.lately.front().is_some_and(|first| first.at <= oldest) {
            self.lately.pop_front();
        }
        let (mut workers, mut agents) = (plan.wanted_workers, plan.wanted_agents);
        if self.lately.is_empty() {
            // What was wanted before the first plan is not known: it is taken for what there was.
            (workers, agents) = (workers.max(plan.current_workers), agents.max(plan.current_agents));
        }
        self.lately.push_back(Lately { at: plan.planned_at, workers, agents, agents_planned: plan.target_agents });
    }

    /// As few as are wanted, but no fewer than the most that were wanted lately.
    fn patiently(
        &self,
        seen: &Observation,
        current: u64,
        wanted: u64,
        of: impl Fn(&Lately) -> u64,
        reasons: &mut Vec<String>,
    ) -> u64 {
        let window = seen.policy.scale_in_window_ms;
        if wanted >= current || window.is_zero() {
            return wanted;
        }
        // Where plans are farther apart than that, the last one says nothing of the time between.
        let unknown = if self.lately.is_empty() { current } else { wanted };
        let highest = self.recent(seen).map(of).max().unwrap_or(unknown).min(current);
        if highest > wanted {
            reasons.push(format!("up to {highest} were wanted over the last {} s", window.as_seconds()));
        }
        highest.max(wanted)
    }

    /// Fits what is wanted to the bounds, to what is leased, to a step, and to patience.
    fn settle(&self, seen: &Observation, wanted: &Wanted, plan: &mut Plan) {
        let Bounds { workers_min, workers_max } = self.bounds;
        let current = seen.workers_total;
        plan.wanted_workers = wanted.workers;
        let mut target = self.patiently(seen, current, wanted.workers, |lately| lately.workers, &mut plan.reasons);
        if target != current && !wanted.is_pressing && scaling::is_about(seen, target, current) {
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
        if target > seen.workers_fit.max(current) {
            target = seen.workers_fit.max(current);
            plan.reasons.push(format!(
                "CPU and memory are enough for {} workers: give more with --total-cpu and --total-memory",
                seen.workers_fit
            ));
        }
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
        let cooling = self.changed_at.filter(|at| seen.at.since(*at) < seen.policy.cooldown_ms);
        if target != current && cooling.is_some() {
            let seconds = seen.policy.cooldown_ms.as_seconds();
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
    let most = step_up(current);
    let least = current.saturating_sub((current / 2).max(STEP_MIN));
    wanted.clamp(least, most)
}

/// As far up as one step goes.
fn step_up(current: u64) -> u64 {
    current.saturating_add(current.max(STEP_MIN))
}

/// Takes a step of a plan; nothing if this program has a fault there, which is named.
fn attempt<T>(step: &'static str, failed: &mut Vec<&'static str>, take: impl FnOnce() -> T) -> Option<T> {
    let taken = catch_unwind(AssertUnwindSafe(take)).ok();
    if taken.is_none() {
        failed.push(step);
    }
    taken
}

#[cfg(test)]
mod tests;
