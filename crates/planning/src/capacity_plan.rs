//! The capacity plan: how many agents and workers the expected demand requires, and whether the forecast is reliable
//! enough.

use super::capacity::{RequiredCapacity, ServiceTarget, Workload, dispersion};
use super::demand_forecast::{CONFIDENCE_MIN, DemandForecast, DemandSeries, ExpectedDemand, NoForecast, is_confident};
use super::observation::Observation;
use cortex_core::demand::DEMAND_BIN;
use cortex_core::fleet::task_stats::DurationStats;
use thiserror::Error;

/// The maximum number of task slots that is planned for, so that a plan takes only a few milliseconds. Real fleets
/// are far smaller.
const SLOTS_MAX: u64 = 200_000;

/// The agents and workers that the expected demand requires.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CapacityPlan {
    /// The agents for the expected tasks; `None` while too little is known.
    pub agents: Option<AgentRequirement>,
    /// The workers for the expected leases; `None` while too little is known.
    pub workers: Option<WorkerRequirement>,
}

/// The agents that the expected tasks require.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AgentRequirement {
    /// The expected tasks per minute, as an upper quantile.
    pub tasks_per_minute: f64,
    /// The measured coverage of past forecasts, from 0 to 1; `None` if the rate is a what-if assumption.
    pub confidence: Option<f64>,
    /// The durations of past tasks.
    pub durations: DurationStats,
    /// The burstiness of arrivals: the dispersion of their counts over the last hour; 1 for independent arrivals.
    pub arrival_variability: f64,
    /// The concurrent tasks and the task slots they require.
    pub capacity: RequiredCapacity,
    /// The number of agents with that many slots, at the present number of slots per agent.
    pub required: u64,
}

/// The workers that the expected leases require.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WorkerRequirement {
    /// The maximum number of workers needed concurrently, as an upper quantile.
    pub required: u64,
    /// The measured coverage of past forecasts, from 0 to 1.
    pub confidence: f64,
}

/// Why there is no plan for agents.
#[derive(Debug, Error)]
enum NoAgentPlan {
    #[error(transparent)]
    NoForecast(#[from] NoForecast),
    #[error("no task has succeeded yet, so the task duration is unknown")]
    NoDuration,
    #[error("the expected demand requires {SLOTS_MAX} concurrent tasks or more, the planning limit")]
    OverLimit,
}

impl CapacityPlan {
    /// Plans for the expected demand, and adds to `reasons` what follows or what is missing.
    pub(super) fn new(demand_forecast: &DemandForecast, seen: &Observation, reasons: &mut Vec<String>) -> Self {
        let agents = match Self::agents(demand_forecast, seen) {
            Ok(agents) => {
                if agents.capacity.concurrent_tasks > 0.0 {
                    reasons.push(agents.reason(seen));
                }
                Some(agents)
            }
            Err(missing) => {
                reasons.push(format!("no capacity plan for agents: {missing}"));
                None
            }
        };
        let workers = match demand_forecast.expected(DemandSeries::Workers) {
            Ok(expected) => {
                let workers =
                    WorkerRequirement { required: expected.wanted.ceil() as u64, confidence: expected.confidence };
                if workers.required > 0 {
                    reasons.push(workers.reason());
                }
                Some(workers)
            }
            Err(missing) => {
                reasons.push(format!("no capacity plan for workers: {missing}"));
                None
            }
        };
        Self { agents, workers }
    }

    fn agents(demand_forecast: &DemandForecast, seen: &Observation) -> Result<AgentRequirement, NoAgentPlan> {
        let bin_seconds = DEMAND_BIN.0 as f64 / 1_000.0;
        let (tasks_per_second, confidence, arrival_variability) = match seen.tasks_per_minute {
            // A what-if rate is certain, but its burstiness is unknown.
            Some(tasks) => (tasks as f64 / 60.0, None, 1.0),
            None => {
                let ExpectedDemand { wanted, confidence } = demand_forecast.expected(DemandSeries::TaskSubmissions)?;
                (wanted / bin_seconds, Some(confidence), dispersion(demand_forecast.last_submissions()))
            }
        };
        let durations = seen.fleet.durations.ok_or(NoAgentPlan::NoDuration)?;
        let workload = Workload {
            tasks_per_second,
            duration_mean: durations.mean,
            arrival_variability,
            duration_variability: durations.variability,
        };
        let target =
            ServiceTarget { utilization: seen.policy.utilization_target.as_fraction(), ..ServiceTarget::DEFAULT };
        let room_each = seen.fleet.task_slots_per_agent();
        let capacity = RequiredCapacity::of(&workload, &target, SLOTS_MAX);
        if capacity.required == SLOTS_MAX {
            return Err(NoAgentPlan::OverLimit);
        }
        Ok(AgentRequirement {
            tasks_per_minute: workload.tasks_per_second * 60.0,
            confidence,
            durations,
            arrival_variability: workload.arrival_variability,
            capacity,
            required: (capacity.required as f64 / room_each).ceil() as u64,
        })
    }

    /// Returns the required agents, if the forecast is trusted.
    #[must_use]
    pub fn trusted_agents(&self) -> Option<u64> {
        self.agents.filter(AgentRequirement::is_trusted).map(|agents| agents.required)
    }

    /// Returns the required workers, if the forecast is trusted.
    #[must_use]
    pub fn trusted_workers(&self) -> Option<u64> {
        self.workers.filter(WorkerRequirement::is_trusted).map(|workers| workers.required)
    }
}

impl AgentRequirement {
    /// Returns whether the plan uses this figure.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.confidence.is_none_or(is_confident)
    }

    fn reason(&self, seen: &Observation) -> String {
        let RequiredCapacity { concurrent_tasks, slots_for_utilization, slots_for_waiting, .. } = self.capacity;
        format!(
            "up to {:.1} tasks per minute of {:.1} s each are expected: {concurrent_tasks:.1} concurrent tasks require \
             {slots_for_utilization} task slots for {} utilization, and {slots_for_waiting} so that at most \
             {:.0} % wait over {} s: {} agents{}",
            self.tasks_per_minute,
            self.durations.mean.0 as f64 / 1_000.0,
            seen.policy.utilization_target,
            ServiceTarget::DEFAULT.wait_probability_max * 100.0,
            ServiceTarget::DEFAULT.wait_max.as_seconds(),
            self.required,
            self.confidence.map(describe_confidence).unwrap_or_default(),
        )
    }
}

impl WorkerRequirement {
    /// Returns whether the plan uses this figure.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        is_confident(self.confidence)
    }

    fn reason(&self) -> String {
        format!(
            "up to {} workers are expected to be needed concurrently{}",
            self.required,
            describe_confidence(self.confidence)
        )
    }
}

/// Describes the confidence in a forecast.
fn describe_confidence(confidence: f64) -> String {
    let (covered, required) = (confidence * 100.0, CONFIDENCE_MIN * 100.0);
    if is_confident(confidence) {
        format!(" ({covered:.0} % of past forecasts covered the demand)")
    } else {
        format!(" (ignored: {covered:.0} % of past forecasts covered the demand, under {required:.0} %)")
    }
}
