//! The planner: turns observations into plans, and keeps what it needs from one plan to the next.
//!
//! Several mechanisms prevent oscillation of the numbers that the `scaling` rules want: a tolerance within which
//! nothing changes, a cooldown after each change, a maximum step, and a stabilization window that keeps the highest
//! recent recommendation when scaling in.

use super::bottlenecks::Bottlenecks;
use super::capacity_plan::CapacityPlan;
use super::demand_forecast::DemandForecast;
use super::forecast::TrendForecast;
use super::observation::Observation;
use super::plan::{Action, PLAN_BOTTLENECKS_MAX, Plan};
use super::samples::{COUNT_WINDOW, Sample, Samples};
use super::scaling::{self, NeededWorkers};
use cortex_core::demand::DemandBin;
use cortex_core::scaling_state::Scaling;
use cortex_core::time::{Millis, Timestamp};
use cortex_core::view::Demand;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// The minimum size of the largest step, however small the number: four, as in the Horizontal Pod Autoscaler of
/// Kubernetes.
const STEP_MIN: u64 = 4;

/// The minimum interval between a plan and a triggered one, so that many triggers lead to few plans.
pub const REPLAN_INTERVAL_MIN: Millis = Millis::from_seconds(1);

/// The longest scale-in window of a policy: a day.
pub const SCALE_IN_WINDOW_MAX: Millis = Millis::from_seconds(86_400);

/// The maximum number of recommendations: at one every 30 s, those of the longest scale-in window.
const RECOMMENDATIONS_MAX: usize = 2_880;

/// The limits of the number of workers; the minimum never exceeds the maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub workers_min: u64,
    pub workers_max: u64,
}

/// The numbers needed according to one plan, before stabilization.
#[derive(Clone, Copy, Debug)]
struct Recommendation {
    at: Timestamp,
    workers: u64,
    agents: u64,
    /// The target of that plan.
    agents_target: u64,
}

/// The last changed target for the number of agents.
#[derive(Clone, Copy, Debug)]
struct AgentGoal {
    agents: u64,
    /// Whether it scales up.
    is_up: bool,
    since: Timestamp,
    /// Whether the number of agents has reached it.
    is_reached: bool,
}

/// Makes plans, and keeps the history that they depend on.
#[derive(Clone, Debug)]
pub struct Planner {
    bounds: Bounds,
    demand_forecast: DemandForecast,
    samples: Samples,
    previous_rate: Option<f64>,
    changed_at: Option<Timestamp>,
    /// The largest number of workers in a refused request that the last plan could not satisfy.
    unmet_workers: u64,
    goal: Option<AgentGoal>,
    /// The recent recommendations, oldest first.
    recommendations: VecDeque<Recommendation>,
}

impl Planner {
    /// Creates a planner without history.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            demand_forecast: DemandForecast::default(),
            samples: Samples::default(),
            previous_rate: None,
            changed_at: None,
            unmet_workers: 0,
            goal: None,
            recommendations: VecDeque::new(),
        }
    }

    /// Returns the demand forecast.
    #[must_use]
    pub const fn demand_forecast(&self) -> &DemandForecast {
        &self.demand_forecast
    }

    /// Observes the next demand bins that have ended by `now`; a few microseconds each.
    pub fn ingest(&mut self, bins: &[DemandBin], now: Timestamp) {
        self.demand_forecast.ingest(bins, now);
    }

    /// Observes bins without demand up to `now`. Call it once all recorded bins were ingested.
    pub fn catch_up(&mut self, now: Timestamp) {
        self.demand_forecast.catch_up(now);
    }

    /// Returns the observation at `at`, without recording a sample. Requests are counted over the last half minute,
    /// or since the last sample that is older.
    #[must_use]
    pub fn observe(&self, at: Timestamp, demand: &Demand) -> Observation {
        let Demand { capacity, granted, refused, refused_workers_max, workers_fit, fleet, policy } = demand;
        let now = Sample::new(at, demand);
        // Without an earlier sample there is nothing to compare with, so nothing is counted.
        let then = self.samples.sample_before(at, COUNT_WINDOW).unwrap_or(now);
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
            // Added agents stay for at least the scale-in window, so the rate is measured over the same period.
            tasks_per_second: self.samples.tasks_per_second(&now, policy.scale_in_window_ms),
            tasks_per_minute: None,
        }
    }

    /// Returns the observation at `at`, and records the sample.
    pub fn sample(&mut self, at: Timestamp, demand: &Demand) -> Observation {
        let seen = self.observe(at, demand);
        self.samples.push(Sample::new(at, demand), demand.policy.scale_in_window_ms);
        seen
    }

    /// Makes a plan from an observation and the bottlenecks (`None` if the check for them failed). Nothing is
    /// recorded: the same arguments lead to the same plan. A step that fails is listed in the plan, and the others
    /// continue without it.
    #[must_use]
    pub fn plan(&self, seen: &Observation, bottlenecks: Option<&Bottlenecks>) -> Plan {
        let mut plan = self.unchanged_plan(seen, bottlenecks);
        if seen.window.0 == 0 {
            plan.reasons.push("nothing has been observed yet".to_owned());
            return plan;
        }
        let mut ahead = Vec::new();
        plan.capacity =
            run_step("capacity", &mut plan.failed_steps, || CapacityPlan::new(&self.demand_forecast, seen, &mut ahead))
                .unwrap_or_default();
        let mut scaled = plan.clone();
        if run_step("scaling", &mut plan.failed_steps, || self.scale(seen, &mut scaled)).is_some() {
            scaled.failed_steps = plan.failed_steps;
            plan = scaled;
        }
        plan.reasons.append(&mut ahead);
        plan
    }

    /// Returns a plan without changes that contains the observed figures.
    fn unchanged_plan(&self, seen: &Observation, bottlenecks: Option<&Bottlenecks>) -> Plan {
        let window_seconds = seen.window.0 as f64 / 1000.0;
        let requests = (seen.granted + seen.refused) as f64;
        let counted_seconds = seen.window.max(COUNT_WINDOW).0 as f64 / 1_000.0;
        let rate = if seen.window.0 == 0 { 0.0 } else { requests * 60.0 / counted_seconds };
        let mut plan = Plan {
            planned_at: seen.at,
            policy: seen.policy.name,
            action: Action::Hold,
            bottlenecks: None,
            saves_tokens: seen.fleet.is_conserving,
            deferred_tasks: seen.fleet.deferred,
            current_workers: seen.workers_total,
            target_workers: seen.workers_total,
            wanted_workers: seen.workers_total,
            min_workers: self.bounds.workers_min,
            max_workers: self.bounds.workers_max,
            leased_workers: seen.workers_leased,
            utilization: scaling::fraction(seen.workers_leased, seen.workers_total),
            current_agents: seen.fleet.agents,
            target_agents: seen.fleet.agents,
            wanted_agents: seen.fleet.agents,
            agent_utilization: scaling::fraction(seen.fleet.running, seen.fleet.task_slots),
            pending_tasks: seen.fleet.waiting,
            avg_wait_time_ms: seen.fleet.wait_mean.0,
            window_seconds,
            granted_requests: seen.granted,
            refused_requests: seen.refused,
            refused_workers_max: seen.refused_workers_max,
            forecast: TrendForecast::from_rates(self.previous_rate.filter(|_| seen.window.0 > 0), rate),
            capacity: CapacityPlan::default(),
            failed_steps: Vec::new(),
            reasons: Vec::new(),
        };
        if let Some(Bottlenecks { found, .. }) = bottlenecks {
            let named = found.iter().take(PLAN_BOTTLENECKS_MAX);
            let named: Vec<_> = named.map(|one| (one.subject.clone(), one.severity)).collect();
            if let Some((subject, severity)) = named.first() {
                let (kind, severity) = (subject.kind(), severity.as_str());
                plan.reasons
                    .push(format!("bottlenecks found: {}, the most severe is {kind} ({severity})", found.len()));
            }
            plan.bottlenecks = Some(named);
        } else {
            plan.failed_steps.push("bottlenecks");
        }
        if plan.saves_tokens && plan.deferred_tasks > 0 {
            let deferred = plan.deferred_tasks;
            plan.reasons.push(format!(
                "token conservation is on, and {deferred} tasks wait for tokens: more agents would not help"
            ));
        }
        plan
    }

    /// Decides the target numbers of agents and workers.
    fn scale(&self, seen: &Observation, plan: &mut Plan) {
        let current = seen.fleet.agents;
        plan.wanted_agents = scaling::agents(seen, plan.capacity.trusted_agents(), &mut plan.reasons);
        let stabilized = self.stabilize(
            seen,
            current,
            plan.wanted_agents,
            "agents",
            |recommendation| recommendation.agents,
            &mut plan.reasons,
        );
        let requested = self.agents_requested(seen);
        if requested > stabilized {
            plan.reasons
                .push(format!("{requested} agents were requested before, and not all of them have registered yet"));
        }
        let stabilized = stabilized.max(requested);
        // Replacing lost agents up to the recent target does not count as a step.
        let stepped = if stabilized > current {
            stabilized.min(step_up(current.max(self.recent_agents_target_max(seen))))
        } else {
            step(current, stabilized)
        };
        if stepped != stabilized {
            plan.reasons.push(format!("{stabilized} agents are needed, but one step is limited to {stepped}"));
        }
        plan.target_agents = self.apply_cooldown(seen, stepped, &mut plan.reasons);
        let available =
            seen.workers_fit.min(plan.max_workers.max(seen.workers_total)).saturating_sub(seen.workers_held);
        if plan.target_agents > current.saturating_add(available) {
            plan.reasons.push(format!(
                "max_workers, CPU and memory allow {available} more agents, not counting agents on leased workers"
            ));
        }
        let needed = scaling::workers(seen, plan);
        self.limit_workers(seen, &needed, plan);
    }

    /// Returns the requested number of agents if some of them have not registered yet, or 0. Because agents take time
    /// to start, the request counts for as long as the scale-in window, and the next step continues from it.
    fn agents_requested(&self, seen: &Observation) -> u64 {
        let fleet = seen.fleet;
        let is_recent = |goal: &AgentGoal| seen.at.since(goal.since) < seen.policy.scale_in_window_ms;
        let goal = self.goal.filter(|goal| !goal.is_reached && is_recent(goal) && goal.agents > fleet.agents);
        goal.map_or(0, |goal| goal.agents.min(fleet.agents_max()))
    }

    /// Returns the highest target for agents within the scale-in window; 0 before the first plan.
    fn recent_agents_target_max(&self, seen: &Observation) -> u64 {
        self.recent(seen).map(|recommendation| recommendation.agents_target).max().unwrap_or(0)
    }

    /// Returns the recommendations within the scale-in window, the newest first.
    fn recent(&self, seen: &Observation) -> impl Iterator<Item = &Recommendation> {
        let window = seen.policy.scale_in_window_ms;
        self.recommendations.iter().rev().take_while(move |recommendation| seen.at.since(recommendation.at) < window)
    }

    /// Returns the last target for agents while it is within the cooldown, or `wanted`.
    fn apply_cooldown(&self, seen: &Observation, wanted: u64, reasons: &mut Vec<String>) -> u64 {
        let fleet = seen.fleet;
        let recent = self.goal.filter(|goal| seen.at.since(goal.since) < seen.policy.cooldown_ms);
        let Some(goal) = recent else { return wanted };
        // Additional agents stay, and lost agents are replaced.
        let was_reached = goal.is_reached || (goal.is_up && fleet.agents >= goal.agents);
        let held = if was_reached { goal.agents.max(fleet.agents) } else { goal.agents };
        // Agents at work stay, the step size holds, and the quota may have changed since.
        let held = held.max(fleet.agents_at_work).max(step(fleet.agents, 0)).min(fleet.agents_max());
        if held != wanted {
            let seconds = seen.policy.cooldown_ms.as_seconds();
            reasons.push(format!(
                "the target for agents changed less than {seconds} s ago: it is kept until the cooldown ends"
            ));
        }
        held
    }

    /// Returns the change that this plan makes when it is executed: another number of workers, or another target for
    /// agents than before; `None` if it changes nothing.
    #[must_use]
    pub fn scaling(&self, plan: &Plan) -> Option<Scaling> {
        let is_requested = self.goal.is_some_and(|goal| !goal.is_reached && goal.agents == plan.target_agents);
        let moves_agents = plan.target_agents != plan.current_agents && !is_requested;
        (plan.action != Action::Hold || moves_agents).then(|| Scaling {
            policy: plan.policy,
            workers_from: plan.current_workers,
            workers_to: plan.target_workers,
            agents_from: plan.current_agents,
            agents_to: plan.target_agents,
            reason: Arc::from(plan.reasons.join("; ")),
        })
    }

    /// Records a plan for the next one; `is_executed` tells whether the number of workers was changed accordingly.
    pub fn record(&mut self, plan: &Plan, is_executed: bool) {
        if plan.window_seconds > 0.0 {
            self.previous_rate = Some(plan.forecast.current_rate_per_minute);
        }
        if is_executed {
            self.changed_at = Some(plan.planned_at);
        }
        // A need that the step size or the cooldown left unsatisfied is kept for the next plan.
        let is_met = plan.target_workers >= plan.wanted_workers.min(plan.max_workers);
        self.unmet_workers = if is_met { 0 } else { plan.refused_workers_max };
        let is_reached = plan.target_agents == plan.current_agents;
        match &mut self.goal {
            Some(goal) if is_reached || goal.agents == plan.target_agents => goal.is_reached = is_reached,
            goal if !is_reached => {
                let is_up = plan.target_agents > plan.current_agents;
                *goal = Some(AgentGoal { agents: plan.target_agents, is_up, since: plan.planned_at, is_reached });
            }
            _ => {}
        }
        let oldest = plan.planned_at.before(SCALE_IN_WINDOW_MAX);
        while self.recommendations.len() == RECOMMENDATIONS_MAX
            || self.recommendations.front().is_some_and(|first| first.at <= oldest)
        {
            self.recommendations.pop_front();
        }
        let (mut workers, mut agents) = (plan.wanted_workers, plan.wanted_agents);
        if self.recommendations.is_empty() {
            // The need before the first plan is unknown: the present numbers are assumed.
            (workers, agents) = (workers.max(plan.current_workers), agents.max(plan.current_agents));
        }
        self.recommendations.push_back(Recommendation {
            at: plan.planned_at,
            workers,
            agents,
            agents_target: plan.target_agents,
        });
    }

    /// Returns the wanted number, but when scaling in not less than the highest recommendation within the scale-in
    /// window.
    fn stabilize(
        &self,
        seen: &Observation,
        current: u64,
        wanted: u64,
        noun: &str,
        of: impl Fn(&Recommendation) -> u64,
        reasons: &mut Vec<String>,
    ) -> u64 {
        let window = seen.policy.scale_in_window_ms;
        if wanted >= current || window.is_zero() {
            return wanted;
        }
        // If the plans are farther apart than the window, the last one says nothing about the time between.
        let unknown = if self.recommendations.is_empty() { current } else { wanted };
        let highest = self.recent(seen).map(of).max().unwrap_or(unknown).min(current);
        if highest > wanted {
            reasons.push(format!(
                "up to {highest} {noun} were needed in the last {} s: no scale-in below that",
                window.as_seconds()
            ));
        }
        highest.max(wanted)
    }

    /// Fits the wanted number of workers to the stabilization window, the tolerance, the limits, CPU and memory, the
    /// leased workers, the step size and the cooldown.
    fn limit_workers(&self, seen: &Observation, needed: &NeededWorkers, plan: &mut Plan) {
        let Bounds { workers_min, workers_max } = self.bounds;
        let current = seen.workers_total;
        plan.wanted_workers = needed.workers;
        let mut target = self.stabilize(
            seen,
            current,
            needed.workers,
            "workers",
            |recommendation| recommendation.workers,
            &mut plan.reasons,
        );
        if target != current && !needed.is_urgent && scaling::is_within_tolerance(seen, target, current) {
            plan.reasons.push(format!(
                "{target} workers are within {} of the current {current}: no change",
                seen.policy.tolerance
            ));
            target = current;
        }
        let bounded = target.clamp(workers_min, workers_max);
        if bounded != target {
            plan.reasons.push(if workers_min == workers_max {
                format!("min_workers and max_workers are both {workers_min}: the number is fixed")
            } else {
                format!("{target} workers are needed, but the limits are {workers_min} to {workers_max}")
            });
        }
        target = bounded;
        if target > seen.workers_fit.max(current) {
            target = seen.workers_fit.max(current);
            plan.reasons.push(format!(
                "CPU and memory suffice for {} workers: raise --total-cpu and --total-memory for more",
                seen.workers_fit
            ));
        }
        if target < seen.workers_held {
            target = seen.workers_held.min(current);
            plan.reasons.push(format!("{} workers are leased and cannot be removed", seen.workers_held));
        }
        // The lower limit is always reachable in one step.
        let stepped = step(current, target).max(target.min(workers_min));
        if stepped != target {
            plan.reasons.push(format!("{target} workers are needed, but one step is limited to {stepped}"));
            target = stepped;
        }
        let cooling = self.changed_at.filter(|at| seen.at.since(*at) < seen.policy.cooldown_ms);
        if target != current && cooling.is_some() {
            let seconds = seen.policy.cooldown_ms.as_seconds();
            plan.reasons.push(format!(
                "the number of workers changed less than {seconds} s ago: no change until the cooldown ends"
            ));
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

/// Returns the number nearest to `wanted` that one step reaches: up to twice as many, down to half, or four more or
/// fewer.
fn step(current: u64, wanted: u64) -> u64 {
    let most = step_up(current);
    let least = current.saturating_sub((current / 2).max(STEP_MIN));
    wanted.clamp(least, most)
}

/// Returns the highest number that one step reaches.
fn step_up(current: u64) -> u64 {
    current.saturating_add(current.max(STEP_MIN))
}

/// Runs a step of the plan. If it panics, which is a bug in this program, its name is added to `failed` and `None` is
/// returned.
fn run_step<T>(step: &'static str, failed: &mut Vec<&'static str>, run: impl FnOnce() -> T) -> Option<T> {
    let outcome = catch_unwind(AssertUnwindSafe(run)).ok();
    if outcome.is_none() {
        failed.push(step);
    }
    outcome
}

#[cfg(test)]
mod tests;
