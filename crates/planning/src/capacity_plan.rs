//! The capacity plan: how many agents and workers the demand to expect takes, and whether to go by that.

use super::capacity::{Aim, Capacity, Work, dispersion};
use super::demand_forecast::{CONFIDENCE_MIN, DemandForecast, Expected, Series, is_enough};
use super::observation::Observation;
use cortex_core::demand::DEMAND_BIN;
use cortex_core::fleet::estimate::DurationsSeen;

/// The most places that are planned for, so that a plan takes no longer than a few milliseconds. No fleet comes near it.
const PLACES_MAX: u64 = 200_000;

/// What the demand to expect takes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CapacityPlan {
    /// For the tasks to come; nothing while too little is known.
    pub agents: Option<AgentsAhead>,
    /// For the leases to come; nothing while too little is known.
    pub workers: Option<WorkersAhead>,
}

/// How many agents the tasks to come take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AgentsAhead {
    /// The tasks to expect in a minute, as an upper quantile.
    pub tasks_per_minute: f64,
    /// The measured coverage of such forecasts, from 0 to 1; nothing if the tasks to come are what somebody asked about.
    pub confidence: Option<f64>,
    /// How long tasks took.
    pub durations: DurationsSeen,
    /// How bursty tasks come: the dispersion of their counts over the last hour; 1 if they come independently.
    pub arrival_variability: f64,
    /// How many are under way at once, and how many places that takes.
    pub capacity: Capacity,
    /// How many agents have so many places, as agents are now.
    pub required: u64,
}

/// How many workers the leases to come take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WorkersAhead {
    /// The most that are wanted at once, as an upper quantile.
    pub required: u64,
    /// The measured coverage of such forecasts, from 0 to 1.
    pub confidence: f64,
}

impl CapacityPlan {
    /// Plans for what is expected. What is not known is said.
    pub(super) fn new(demand_forecast: &DemandForecast, seen: &Observation, reasons: &mut Vec<String>) -> Self {
        let agents = match Self::agents(demand_forecast, seen) {
            Ok(agents) => {
                if agents.capacity.tasks_under_way > 0.0 {
                    reasons.push(agents.reason(seen));
                }
                Some(agents)
            }
            Err(missing) => {
                reasons.push(format!("no capacity plan for agents: {missing}"));
                None
            }
        };
        let workers = match demand_forecast.expected(Series::Workers) {
            Ok(expected) => {
                let workers = WorkersAhead { required: expected.wanted.ceil() as u64, confidence: expected.confidence };
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

    fn agents(demand_forecast: &DemandForecast, seen: &Observation) -> Result<AgentsAhead, String> {
        let bin_seconds = DEMAND_BIN.0 as f64 / 1_000.0;
        let (tasks_per_second, confidence, arrival_variability) = match seen.tasks_per_minute {
            // Whoever asks about a rate knows it, and nothing of how it varies.
            Some(tasks) => (tasks as f64 / 60.0, None, 1.0),
            None => {
                let Expected { wanted, confidence } = demand_forecast.expected(Series::TaskSubmissions)?;
                (wanted / bin_seconds, Some(confidence), dispersion(demand_forecast.last_submissions()))
            }
        };
        let durations =
            seen.fleet.durations.ok_or("no task has gone well yet, so nothing is known of how long they take")?;
        let work = Work {
            tasks_per_second,
            duration_mean: durations.mean,
            arrival_variability,
            duration_variability: durations.variability,
        };
        let aim = Aim { utilization: seen.policy.utilization_target.as_part(), ..Aim::DEFAULT };
        let room_each = seen.fleet.room_each();
        let capacity = Capacity::of(&work, &aim, PLACES_MAX);
        if capacity.required == PLACES_MAX {
            return Err(format!("more than {PLACES_MAX} tasks at once are to come, for which nothing is planned"));
        }
        Ok(AgentsAhead {
            tasks_per_minute: work.tasks_per_second * 60.0,
            confidence,
            durations,
            arrival_variability: work.arrival_variability,
            capacity,
            required: (capacity.required as f64 / room_each).ceil() as u64,
        })
    }

    /// How many agents to go by, if the forecast is to be trusted.
    #[must_use]
    pub fn trusted_agents(&self) -> Option<u64> {
        self.agents.filter(AgentsAhead::is_trusted).map(|agents| agents.required)
    }

    /// How many workers to go by, if the forecast is to be trusted.
    #[must_use]
    pub fn trusted_workers(&self) -> Option<u64> {
        self.workers.filter(WorkersAhead::is_trusted).map(|workers| workers.required)
    }
}

impl AgentsAhead {
    /// Whether the plan goes by it.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.confidence.is_none_or(is_enough)
    }

    fn reason(&self, seen: &Observation) -> String {
        let Capacity { tasks_under_way, for_utilization, for_waiting, .. } = self.capacity;
        format!(
            "up to {:.1} tasks a minute are expected, {:.1} s each: {tasks_under_way:.1} under way, which takes {for_utilization} \
             places to be {} in use and {for_waiting} for at most {:.0} % to wait over {} s: {} agents{}",
            self.tasks_per_minute,
            self.durations.mean.0 as f64 / 1_000.0,
            seen.policy.utilization_target,
            Aim::DEFAULT.wait_chance_max * 100.0,
            Aim::DEFAULT.wait_max.as_seconds(),
            self.required,
            self.confidence.map(trust).unwrap_or_default(),
        )
    }
}

impl WorkersAhead {
    /// Whether the plan goes by it.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        is_enough(self.confidence)
    }

    fn reason(&self) -> String {
        format!("up to {} workers are expected to be wanted at once{}", self.required, trust(self.confidence))
    }
}

/// How far a forecast is gone by.
fn trust(confidence: f64) -> String {
    let (covered, least) = (confidence * 100.0, CONFIDENCE_MIN * 100.0);
    if is_enough(confidence) {
        format!(" ({covered:.0} % of such forecasts were enough)")
    } else {
        format!(" (not gone by: {covered:.0} % of such forecasts were enough, under {least:.0} %)")
    }
}
