//! The scenarios of the closed loop: the arrivals of tasks, and the losses of agents.

use cortex_core::time::Millis;
use cortex_simulation::{AgentLoss, Arrival, ArrivalSource, ReadProgress, TraceError};
use fastrand::Rng;
use std::f64::consts::TAU;
use std::sync::Arc;

/// An hour, in seconds.
const HOUR: f64 = 3_600.0;

/// A scenario. Tasks arrive as a Poisson process, at a rate that changes with time.
pub struct Scenario {
    pub name: &'static str,
    /// The rate at a given second, in tasks per second at a scale of 1.
    rate: fn(f64) -> f64,
    /// The highest of these rates.
    rate_max: f64,
    hours: f64,
    pub losses: &'static [AgentLoss],
    /// The factor of the rate.
    scale: f64,
    pub seed: u64,
}

/// Returns all scenarios at a scale; at 1 they are those of the README.
pub fn all(scale: f64, seed: u64) -> [Scenario; 4] {
    let scenario = |name, rate, rate_max, hours| Scenario { name, rate, rate_max, hours, losses: &[], scale, seed };
    [
        scenario("bursts", bursts, 15.0, 12.0),
        scenario("ramps", ramps, 6.0, 12.0),
        scenario("daily wave", wave, 4.0, 72.0),
        Scenario { losses: &LOSSES, ..scenario("agent loss", |_| 2.0, 2.0, 6.0) },
    ]
}

/// Every quarter of an hour, as many agents are lost as 2 tasks a second of 30 s keep busy.
const LOSSES: [AgentLoss; 23] = {
    let mut losses = [AgentLoss { at: Millis(0), agents: 60 }; 23];
    let mut number = 0;
    while number < losses.len() {
        losses[number].at = Millis::from_seconds(900 * (number as u64 + 1));
        number += 1;
    }
    losses
};

/// A low rate, with thirty times as much in the first two minutes of each half hour.
fn bursts(second: f64) -> f64 {
    if second % (HOUR / 2.0) < 120.0 { 15.0 } else { 0.5 }
}

/// Up for three hours and down for three, twice.
fn ramps(second: f64) -> f64 {
    let part = (second / (3.0 * HOUR)) % 2.0;
    0.2 + 5.8 * part.min(2.0 - part)
}

/// A low rate at night, a high one at noon.
fn wave(second: f64) -> f64 {
    2.2 - 1.8 * (second / (24.0 * HOUR) * TAU).cos()
}

impl ArrivalSource for Scenario {
    fn arrivals(&self, _: &Arc<ReadProgress>) -> Result<impl Iterator<Item = Result<Arrival, TraceError>>, TraceError> {
        let mut random = Rng::with_seed(self.seed);
        let mut second = 0.0;
        let rate_max = self.rate_max * self.scale;
        let moments = std::iter::from_fn(move || {
            // Candidates arrive at the highest rate. Each is accepted with the probability of the current rate
            // relative to it (thinning).
            loop {
                second -= (1.0 - random.f64()).ln() / rate_max;
                if random.f64() * self.rate_max < (self.rate)(second) {
                    return (second < self.hours * HOUR).then_some(second);
                }
            }
        });
        Ok(moments.map(|second| Ok(Arrival { at: Millis((second * 1_000.0) as u64), tokens: None })))
    }
}
