//! Estimates and efficiency in the model.

use super::{Fleet, Sample};
use cortex_core::fleet::task::{Complexity, Task, TaskRequest, TaskSpec};
use cortex_core::priority::Priority;
use cortex_core::time::{Millis, Timestamp};
use std::cmp::Ordering;

/// The number of similar samples from which estimates are made.
const SAMPLES_MIN: usize = 10;
/// The number of samples at which the core halves the older ones, which the model does not do.
const SAMPLES_MAX: usize = 1_024;
/// The distance of the 0.9 quantile from the mean, in standard deviations.
const UPPER_QUANTILE: f64 = 1.281_551_565_5;

impl Fleet {
    /// The waiting tasks by efficiency, the highest first.
    pub(crate) fn tasks_by_efficiency(&self) -> Vec<&Task> {
        let mut waiting = self.waiting();
        waiting.sort_by(|a, b| self.efficiency_order(a, b));
        waiting
    }

    /// Orders by efficiency, then by effective priority, then by submission.
    fn efficiency_order(&self, a: &Task, b: &Task) -> Ordering {
        let level = |task: &Task| self.effective_priority(self.observed_at, task);
        let weight = |task: &Task| match level(task) {
            Priority::Critical => 10_u128,
            Priority::High => 5,
            Priority::Normal => 2,
            Priority::Low => 1,
        };
        let tokens = |task: &Task| u128::from(task.spec.estimated_tokens);
        // Compared by cross multiplication, since an estimate may be 0.
        let efficiency = (weight(b) * tokens(a)).cmp(&(weight(a) * tokens(b)));
        efficiency.then(level(b).cmp(&level(a))).then(a.spec.number.cmp(&b.spec.number))
    }

    /// Estimates the tokens of an attempt. Where rounding is in doubt, `chosen` is accepted if it is as good.
    pub(super) fn estimate(&self, request: &TaskRequest, chosen: Option<u64>) -> u64 {
        if let Some(given) = request.tokens.given {
            return given;
        }
        match self.upper_quantile(request, |sample| sample.tokens) {
            Some(quantile) => round_up(quantile.max(1.0), chosen),
            None => formula_estimate(request),
        }
    }

    /// The time from which a task is urgent: twice its expected duration before the deadline.
    pub(super) fn urgent_at(
        &self,
        request: &TaskRequest,
        deadline: Option<Timestamp>,
        chosen: Option<Timestamp>,
    ) -> Option<Timestamp> {
        let deadline = deadline?;
        let at = |expected: u64| deadline.before(Millis(expected.saturating_mul(2)));
        let Some(expected) = self.upper_quantile(request, |sample| Some(sample.duration.0)) else {
            return Some(at(self.settings.response_target_ms.0));
        };
        let chosen = chosen.map(|chosen| deadline.since(chosen).0 / 2);
        Some(at(round_up(expected, chosen)))
    }

    /// Whether there are enough similar samples.
    pub(super) fn has_samples(&self, request: &TaskRequest) -> bool {
        self.upper_quantile(request, |sample| sample.tokens).is_some()
    }

    fn upper_quantile(&self, request: &TaskRequest, of: impl Fn(&Sample) -> Option<u64>) -> Option<f64> {
        let is_similar = |agent_type, complexity| {
            agent_type == &request.selector.agent_type && complexity == request.tokens.complexity
        };
        let similar = self.samples.iter().filter(|sample| is_similar(&sample.agent_type, sample.complexity));
        let values: Vec<f64> = similar.filter_map(of).map(|value| value as f64).collect();
        assert!(values.len() < SAMPLES_MAX, "a run is too long for this reference");
        if values.len() < SAMPLES_MIN {
            return None;
        }
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
        Some(mean + UPPER_QUANTILE * variance.sqrt())
    }
}

/// The estimate without samples.
fn formula_estimate(request: &TaskRequest) -> u64 {
    let quarters = match request.tokens.complexity {
        Complexity::Simple => 2_000,
        Complexity::Medium => 4_000,
        Complexity::Complex => 8_000,
    };
    let quarters = quarters + 3 * u128::from(request.tokens.input_characters);
    u64::try_from(quarters / 4).expect("three quarters of a number of the same size")
}

/// The tokens that an attempt counts with: at most eight times its estimate.
pub(super) fn counted_tokens(spec: &TaskSpec, taken: u64) -> u64 {
    let is_given = spec.request.tokens.given.is_some();
    let least = if is_given { formula_estimate(&spec.request) } else { 0 };
    let expected = u128::from(spec.estimated_tokens.max(least));
    u64::try_from(u128::from(taken).min(8 * expected)).expect("at most what was taken")
}

/// Rounds a number up. Where that is in doubt, `chosen` is accepted.
fn round_up(number: f64, chosen: Option<u64>) -> u64 {
    let doubt = 1e-6 * number.max(1.0);
    let (least, most) = ((number - doubt).ceil() as u64, (number + doubt).ceil() as u64);
    chosen.filter(|chosen| (least..=most).contains(chosen)).unwrap_or(least)
}
