//! What a task is expected to take in the reference, and what it is worth for that.

use super::{Fleet, Sample};
use cortex_core::fleet::task::{Complexity, Task, TaskRequest, TaskSpec};
use cortex_core::priority::Priority;
use cortex_core::time::{Millis, Timestamp};
use std::cmp::Ordering;

/// How many similar attempts there must be before anything is made of them.
const SAMPLES_MIN: usize = 10;
/// From how many on the machine gives the older ones less weight, which is not done here.
const SAMPLES_MAX: usize = 1_024;
/// How many standard deviations above the mean nine of ten attempts lie.
const NINE_OF_TEN: f64 = 1.281_551_565_5;

impl Fleet {
    /// What waits, that first which is worth most for its tokens.
    pub(crate) fn tasks_by_efficiency(&self) -> Vec<&Task> {
        let mut waiting = self.waiting();
        waiting.sort_by(|a, b| self.efficiency_order(a, b));
        waiting
    }

    /// What is worth more for its tokens goes first, then what is more urgent, then what came earlier.
    fn efficiency_order(&self, a: &Task, b: &Task) -> Ordering {
        let level = |task: &Task| self.effective_priority(self.observed, task);
        let weight = |task: &Task| match level(task) {
            Priority::Critical => 10_u128,
            Priority::High => 5,
            Priority::Normal => 2,
            Priority::Low => 1,
        };
        let tokens = |task: &Task| u128::from(task.spec.estimated_tokens);
        // Held against each other without dividing: a task may take no tokens at all.
        let worth = (weight(b) * tokens(a)).cmp(&(weight(a) * tokens(b)));
        worth.then(level(b).cmp(&level(a))).then(a.spec.number.cmp(&b.spec.number))
    }

    /// How many tokens an attempt is expected to take. Where it is rounded, `chosen` is taken if it is as good.
    pub(super) fn estimate(&self, request: &TaskRequest, chosen: Option<u64>) -> u64 {
        if let Some(given) = request.tokens.given {
            return given;
        }
        match self.upper_quantile(request, |sample| sample.tokens) {
            Some(quantile) => near(quantile.max(1.0), chosen),
            None => by_formula(request),
        }
    }

    /// From when on a task is urgent: when twice what it takes is left.
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
        Some(at(near(expected, chosen)))
    }

    /// Whether enough similar attempts have gone well.
    pub(super) fn knows(&self, request: &TaskRequest) -> bool {
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
        Some(mean + NINE_OF_TEN * variance.sqrt())
    }
}

/// How many tokens an attempt is expected to take while nothing is known of others.
fn by_formula(request: &TaskRequest) -> u64 {
    let quarters = match request.tokens.complexity {
        Complexity::Simple => 2_000,
        Complexity::Medium => 4_000,
        Complexity::Complex => 8_000,
    };
    let quarters = quarters + 3 * u128::from(request.tokens.input_characters);
    u64::try_from(quarters / 4).expect("three quarters of a number of the same size")
}

/// As how many tokens an attempt is seen: at most as eight times what was expected.
pub(super) fn seen(spec: &TaskSpec, taken: u64) -> u64 {
    let is_given = spec.request.tokens.given.is_some();
    let least = if is_given { by_formula(&spec.request) } else { 0 };
    let expected = u128::from(spec.estimated_tokens.max(least));
    u64::try_from(u128::from(taken).min(8 * expected)).expect("at most what was taken")
}

/// A number rounded up. Where that is in doubt, the one that was chosen is right.
fn near(number: f64, chosen: Option<u64>) -> u64 {
    let doubt = 1e-6 * number.max(1.0);
    let (least, most) = ((number - doubt).ceil() as u64, (number + doubt).ceil() as u64);
    chosen.filter(|chosen| (least..=most).contains(chosen)).unwrap_or(least)
}
