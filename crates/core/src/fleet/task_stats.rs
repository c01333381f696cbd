//! Statistics of ended tasks, and the estimates of tokens and durations made from them. A formula is used until there
//! are enough samples.

use super::super::ids::AgentType;
use super::super::time::Millis;
use super::task::{Complexity, TokenHints};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The tokens of a medium task without input, from the estimation model that this follows.
const BASE_TOKENS: u64 = 1_000;

/// 100 characters of input are about 75 tokens, from the same model.
const INPUT_CHARACTERS: u64 = 100;
const INPUT_TOKENS: u64 = 75;

/// The number of successful tasks of a kind from which an estimate is made of them.
const SAMPLES_MIN: u64 = 10;

/// The number of samples at which the existing ones are halved, so that old samples fade.
const SAMPLES_MAX: u64 = 1_024;

/// The 0.9 quantile of the standard normal distribution: about nine of ten tasks use at most what they reserve.
const UPPER_QUANTILE: f64 = 1.281_551_565_5;

/// The maximum multiple of its estimate that an attempt counts with. An attempt that reports a thousand times its
/// estimate, by mistake or not, would otherwise raise the spread for long, and all tasks like it would wait for tokens
/// that are never available.
const OUTLIER_MAX: u64 = 8;

/// The maximum number of kinds of tasks with statistics.
const KINDS_MAX: usize = 1_000;

/// Tasks of one kind are estimated together.
type TaskKind = (Option<AgentType>, Complexity);

/// The count, sum and sum of squares of samples. They are integers, so that the order of samples does not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Moments {
    count: u64,
    sum: u128,
    squares: u128,
}

/// The statistics of one kind of task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KindStats {
    tokens: Moments,
    durations_ms: Moments,
}

/// The statistics of all kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TaskStats {
    pub(super) kinds: BTreeMap<TaskKind, KindStats>,
    /// The number of reported attempts, and the tokens that they used.
    pub(super) reported: u64,
    pub(super) reported_tokens: u128,
}

/// The durations of successful tasks of all kinds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DurationStats {
    pub mean: Millis,
    /// The squared coefficient of variation, never negative: 0 if all took equally long, 1 for the exponential
    /// distribution.
    pub variability: f64,
}

impl Moments {
    fn record(&mut self, value: u64) {
        if self.count == SAMPLES_MAX {
            (self.count, self.sum, self.squares) = (self.count / 2, self.sum / 2, self.squares / 2);
        }
        let value = u128::from(value);
        // A value is below 2^40 and there are at most 2^10 samples, so no sum overflows.
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
        self.squares = self.squares.saturating_add(value.saturating_mul(value));
    }

    /// Returns the moments of both sets of samples together.
    const fn with(self, other: &Self) -> Self {
        Self {
            count: self.count.saturating_add(other.count),
            sum: self.sum.saturating_add(other.sum),
            squares: self.squares.saturating_add(other.squares),
        }
    }

    /// The value that nine of ten samples are below, rounded up: the mean plus 1.28 standard deviations. `None` with
    /// fewer than [`SAMPLES_MIN`] samples.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate"
    )]
    fn upper_quantile(&self) -> Option<u64> {
        if self.count < SAMPLES_MIN {
            return None;
        }
        let count = u128::from(self.count);
        // Integers up to here: the difference of two large floating-point numbers would be inexact.
        let spread = (count.saturating_mul(self.squares)).saturating_sub(self.sum.saturating_mul(self.sum));
        let mean = self.sum as f64 / count as f64;
        let deviation = (spread as f64).sqrt() / count as f64;
        Some((mean + UPPER_QUANTILE * deviation).ceil() as u64)
    }
}

impl TaskStats {
    /// Estimates the tokens that an attempt uses at most; at least 1 unless the submitter's own estimate is 0.
    pub(super) fn estimate_tokens(&self, agent_type: Option<&AgentType>, hints: &TokenHints) -> u64 {
        hints.given.unwrap_or_else(|| {
            let quantile =
                self.kind_stats(agent_type, hints.complexity).and_then(|stats| stats.tokens.upper_quantile());
            quantile.unwrap_or_else(|| formula_estimate(hints)).max(1)
        })
    }

    /// Estimates the duration of an attempt, if there are enough samples.
    pub(super) fn estimate_duration(&self, agent_type: Option<&AgentType>, complexity: Complexity) -> Option<Millis> {
        self.kind_stats(agent_type, complexity).and_then(|stats| stats.durations_ms.upper_quantile()).map(Millis)
    }

    /// Records the tokens of a reported attempt.
    pub(super) fn record_report(&mut self, tokens: u64) {
        self.reported = self.reported.saturating_add(1);
        self.reported_tokens = self.reported_tokens.saturating_add(u128::from(tokens));
    }

    /// Returns the tokens that an attempt counts with in the statistics: those used, limited by [`OUTLIER_MAX`].
    pub(super) fn counted_tokens(hints: &TokenHints, estimate: u64, used: u64) -> u64 {
        // The submitter's own estimate may be close to 0; limiting by it would make the statistics useless.
        let estimate = if hints.given.is_some() { estimate.max(formula_estimate(hints)) } else { estimate };
        used.min(estimate.saturating_mul(OUTLIER_MAX))
    }

    /// Records a successful attempt. `tokens` is `None` if the agent reported no figure.
    pub(super) fn record_success(
        &mut self,
        agent_type: Option<&AgentType>,
        complexity: Complexity,
        tokens: Option<u64>,
        duration: Millis,
    ) {
        let kind = (agent_type.cloned(), complexity);
        if self.kinds.len() >= KINDS_MAX && !self.kinds.contains_key(&kind) {
            return;
        }
        let stats = self.kinds.entry(kind).or_default();
        if let Some(tokens) = tokens {
            stats.tokens.record(tokens);
        }
        stats.durations_ms.record(duration.0);
    }

    /// The durations of successful attempts of all kinds together. The cost is in proportion to the kinds.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub(super) fn durations(&self) -> Option<DurationStats> {
        let all = self.kinds.values().fold(Moments::default(), |all, stats| all.with(&stats.durations_ms));
        let count = u128::from(all.count);
        let mean = u64::try_from(all.sum.checked_div(count)?).unwrap_or(u64::MAX);
        let spread = count.saturating_mul(all.squares).saturating_sub(all.sum.saturating_mul(all.sum));
        let squared = all.sum.saturating_mul(all.sum).max(1);
        Some(DurationStats { mean: Millis(mean), variability: spread as f64 / squared as f64 })
    }

    /// The mean tokens of a reported attempt.
    pub(super) fn mean_tokens(&self) -> Option<u64> {
        let mean = self.reported_tokens.checked_div(u128::from(self.reported))?;
        Some(u64::try_from(mean).unwrap_or(u64::MAX))
    }

    fn kind_stats(&self, agent_type: Option<&AgentType>, complexity: Complexity) -> Option<&KindStats> {
        self.kinds.get(&(agent_type.cloned(), complexity))
    }
}

/// Returns the estimate of the model that this follows, rounded down as there.
fn formula_estimate(hints: &TokenHints) -> u64 {
    let base = match hints.complexity {
        Complexity::Simple => BASE_TOKENS / 2,
        Complexity::Medium => BASE_TOKENS,
        Complexity::Complex => BASE_TOKENS * 2,
    };
    base.saturating_add(hints.input_characters.saturating_mul(INPUT_TOKENS) / INPUT_CHARACTERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(complexity: Complexity, input_characters: u64) -> TokenHints {
        TokenHints { given: None, complexity, input_characters }
    }

    #[test]
    fn the_formula_is_that_of_the_estimation_model() {
        let check = |complexity, characters, tokens| {
            assert_eq!(formula_estimate(&expected(complexity, characters)), tokens, "{complexity:?}, {characters}");
        };
        check(Complexity::Simple, 0, 500);
        check(Complexity::Medium, 0, 1_000);
        check(Complexity::Complex, 0, 2_000);
        check(Complexity::Medium, 1_000, 1_750);
        check(Complexity::Medium, 1, 1_000);
        check(Complexity::Simple, 133, 599);
    }

    #[test]
    fn estimates_use_samples_once_there_are_enough() {
        let mut stats = TaskStats::default();
        let asked = expected(Complexity::Medium, 0);
        for tokens in [90, 110, 90, 110, 90, 110, 90, 110, 90] {
            stats.record_success(None, Complexity::Medium, Some(tokens), Millis(2_000));
        }
        assert_eq!(stats.estimate_tokens(None, &asked), 1_000, "nine are too few");
        stats.record_success(None, Complexity::Medium, Some(110), Millis(2_000));
        assert_eq!(stats.estimate_tokens(None, &asked), 113, "100 and 1.28 times 10, rounded up");
        assert_eq!(stats.estimate_duration(None, Complexity::Medium), Some(Millis(2_000)));
        assert_eq!(stats.estimate_tokens(None, &expected(Complexity::Simple, 0)), 500, "of another kind");
        let given = TokenHints { given: Some(7), ..asked };
        assert_eq!(stats.estimate_tokens(None, &given), 7);
    }

    #[test]
    fn one_report_of_too_much_does_not_stop_all_others() {
        let asked = expected(Complexity::Medium, 0);
        let mut stats = TaskStats::default();
        for used in [1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000_000] {
            let used = TaskStats::counted_tokens(&asked, 1_000, used);
            stats.record_success(None, Complexity::Medium, Some(used), Millis(2_000));
        }
        assert_eq!(stats.estimate_tokens(None, &asked), 4_392, "1,700 and 1.28 times 2,100, rounded up");
        assert_eq!(TaskStats::counted_tokens(&asked, 100, 8_001), 800, "eight times what was learned");
        let given = TokenHints { given: Some(1), ..asked };
        assert_eq!(TaskStats::counted_tokens(&given, 1, 8_001), 8_000, "the formula expects more than the submitter");
        assert_eq!(TaskStats::counted_tokens(&asked, u64::MAX, 8_001), 8_001);
    }

    #[test]
    fn durations_of_all_kinds_count_together() {
        let mut stats = TaskStats::default();
        assert_eq!(stats.durations(), None);
        for (complexity, seconds) in [(Complexity::Simple, 1), (Complexity::Complex, 3)] {
            stats.record_success(None, complexity, None, Millis::from_seconds(seconds));
        }
        // Mean 2, variance 1.
        let seen = stats.durations().expect("two were seen");
        assert_eq!(seen, DurationStats { mean: Millis(2_000), variability: 0.25 });
    }

    #[test]
    fn old_samples_fade() {
        let mut moments = Moments::default();
        for _ in 0..SAMPLES_MAX {
            moments.record(1_000);
        }
        for _ in 0..20 * SAMPLES_MAX {
            moments.record(10);
        }
        assert_eq!(moments.upper_quantile(), Some(10), "a thousand is all but forgotten");
        assert!(moments.count <= SAMPLES_MAX);
    }
}
