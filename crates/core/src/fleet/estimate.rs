//! How many tokens a task will take, and how long: by a formula until there is experience, then by that.

use super::super::ids::AgentType;
use super::super::time::Millis;
use super::task::{Complexity, TokensExpected};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The tokens of a task of medium complexity without input, from the estimation model that this follows.
const BASE_TOKENS: u64 = 1_000;

/// So many characters of input are about 75 tokens, from the same place.
const INPUT_CHARACTERS: u64 = 100;
const INPUT_TOKENS: u64 = 75;

/// How many tasks of a kind must have gone well before they are gone by.
const EXPERIENCE_MIN: u64 = 10;

/// When so many are known, old experience begins to count half.
const EXPERIENCE_MAX: u64 = 1_024;

/// The 0.9 quantile of the standard normal distribution: of ten tasks about nine take no more than is reserved.
const UPPER_QUANTILE: f64 = 1.281_551_565_5;

/// By how many times its estimate an attempt counts at most: one that reports a thousand times as much, by mistake or not,
/// would otherwise be told by the spread for long, and all tasks like it would wait for tokens that nobody has.
const OUTLIER_MAX: u64 = 8;

/// How many kinds of tasks experience is kept of.
const KINDS_MAX: usize = 1_000;

/// Tasks that are taken to be alike.
type Kind = (Option<AgentType>, Complexity);

/// Numbers that were seen, as far as their mean and spread go. Sums of whole numbers, so that no order of them matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Moments {
    count: u64,
    sum: u128,
    squares: u128,
}

/// What was seen of one kind of task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    tokens: Moments,
    durations_ms: Moments,
}

/// What was seen of all kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Experience {
    pub(super) kinds: BTreeMap<Kind, Seen>,
    /// How many attempts were reported on, and how many tokens they took.
    pub(super) reported: u64,
    pub(super) reported_tokens: u128,
}

/// How long tasks took, of all kinds together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DurationsSeen {
    /// In the mean.
    pub mean: Millis,
    /// Their squared coefficient of variation: 1 for the exponential distribution, 0 if all took as long. At least 0.
    pub variability: f64,
}

impl Moments {
    fn note(&mut self, value: u64) {
        if self.count == EXPERIENCE_MAX {
            (self.count, self.sum, self.squares) = (self.count / 2, self.sum / 2, self.squares / 2);
        }
        let value = u128::from(value);
        // A value is below 2^40, and there are at most 2^10: no sum comes near its end.
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
        self.squares = self.squares.saturating_add(value.saturating_mul(value));
    }

    /// Both together.
    const fn with(self, other: &Self) -> Self {
        Self {
            count: self.count.saturating_add(other.count),
            sum: self.sum.saturating_add(other.sum),
            squares: self.squares.saturating_add(other.squares),
        }
    }

    /// What nine of ten stay below, rounded up: mean and 1.28 standard deviations. Nothing without experience.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate"
    )]
    fn upper(&self) -> Option<u64> {
        if self.count < EXPERIENCE_MIN {
            return None;
        }
        let count = u128::from(self.count);
        // Exact up to here: the difference of two large floating-point numbers would not be.
        let spread = (count.saturating_mul(self.squares)).saturating_sub(self.sum.saturating_mul(self.sum));
        let mean = self.sum as f64 / count as f64;
        let deviation = (spread as f64).sqrt() / count as f64;
        Some((mean + UPPER_QUANTILE * deviation).ceil() as u64)
    }
}

impl Experience {
    /// How many tokens an attempt is expected to take at most; at least 1.
    pub(super) fn tokens(&self, agent_type: Option<&AgentType>, expected: &TokensExpected) -> u64 {
        expected.given.unwrap_or_else(|| {
            let seen = self.seen(agent_type, expected.complexity).and_then(|seen| seen.tokens.upper());
            seen.unwrap_or_else(|| by_formula(expected)).max(1)
        })
    }

    /// How long an attempt is expected to take at most, if there is experience.
    pub(super) fn duration(&self, agent_type: Option<&AgentType>, complexity: Complexity) -> Option<Millis> {
        self.seen(agent_type, complexity).and_then(|seen| seen.durations_ms.upper()).map(Millis)
    }

    /// Notes an attempt that was reported on.
    pub(super) fn note_report(&mut self, tokens: u64) {
        self.reported = self.reported.saturating_add(1);
        self.reported_tokens = self.reported_tokens.saturating_add(u128::from(tokens));
    }

    /// As how many tokens an attempt counts that took so many, where so many were expected.
    pub(super) fn counted(expected: &TokensExpected, estimate: u64, taken: u64) -> u64 {
        // A submitter may have set the estimate to next to nothing, by which nothing could be learned.
        let estimate = if expected.given.is_some() { estimate.max(by_formula(expected)) } else { estimate };
        taken.min(estimate.saturating_mul(OUTLIER_MAX))
    }

    /// Notes an attempt that went well. Its tokens are left out if they were not told.
    pub(super) fn note_success(
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
        let seen = self.kinds.entry(kind).or_default();
        if let Some(tokens) = tokens {
            seen.tokens.note(tokens);
        }
        seen.durations_ms.note(duration.0);
    }

    /// How long attempts took that went well, of all kinds together. The cost is in proportion to the kinds.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub(super) fn durations(&self) -> Option<DurationsSeen> {
        let all = self.kinds.values().fold(Moments::default(), |all, seen| all.with(&seen.durations_ms));
        let count = u128::from(all.count);
        let mean = u64::try_from(all.sum.checked_div(count)?).unwrap_or(u64::MAX);
        let spread = count.saturating_mul(all.squares).saturating_sub(all.sum.saturating_mul(all.sum));
        let squared = all.sum.saturating_mul(all.sum).max(1);
        Some(DurationsSeen { mean: Millis(mean), variability: spread as f64 / squared as f64 })
    }

    /// How many tokens a task took that was reported on, in the mean.
    pub(super) fn mean_tokens(&self) -> Option<u64> {
        let mean = self.reported_tokens.checked_div(u128::from(self.reported))?;
        Some(u64::try_from(mean).unwrap_or(u64::MAX))
    }

    fn seen(&self, agent_type: Option<&AgentType>, complexity: Complexity) -> Option<&Seen> {
        self.kinds.get(&(agent_type.cloned(), complexity))
    }
}

/// The estimation model that this follows, rounded down as there.
fn by_formula(expected: &TokensExpected) -> u64 {
    let base = match expected.complexity {
        Complexity::Simple => BASE_TOKENS / 2,
        Complexity::Medium => BASE_TOKENS,
        Complexity::Complex => BASE_TOKENS * 2,
    };
    base.saturating_add(expected.input_characters.saturating_mul(INPUT_TOKENS) / INPUT_CHARACTERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(complexity: Complexity, input_characters: u64) -> TokensExpected {
        TokensExpected { given: None, complexity, input_characters }
    }

    #[test]
    fn the_formula_is_that_of_the_estimation_model() {
        let check = |complexity, characters, tokens| {
            assert_eq!(by_formula(&expected(complexity, characters)), tokens, "{complexity:?}, {characters}");
        };
        check(Complexity::Simple, 0, 500);
        check(Complexity::Medium, 0, 1_000);
        check(Complexity::Complex, 0, 2_000);
        check(Complexity::Medium, 1_000, 1_750);
        check(Complexity::Medium, 1, 1_000);
        check(Complexity::Simple, 133, 599);
    }

    #[test]
    fn experience_takes_over_once_there_is_some() {
        let mut experience = Experience::default();
        let asked = expected(Complexity::Medium, 0);
        for tokens in [90, 110, 90, 110, 90, 110, 90, 110, 90] {
            experience.note_success(None, Complexity::Medium, Some(tokens), Millis(2_000));
        }
        assert_eq!(experience.tokens(None, &asked), 1_000, "nine are too few");
        experience.note_success(None, Complexity::Medium, Some(110), Millis(2_000));
        assert_eq!(experience.tokens(None, &asked), 113, "100 and 1.28 times 10, rounded up");
        assert_eq!(experience.duration(None, Complexity::Medium), Some(Millis(2_000)));
        assert_eq!(experience.tokens(None, &expected(Complexity::Simple, 0)), 500, "of another kind");
        let given = TokensExpected { given: Some(7), ..asked };
        assert_eq!(experience.tokens(None, &given), 7);
    }

    #[test]
    fn one_report_of_too_much_does_not_stop_all_others() {
        let asked = expected(Complexity::Medium, 0);
        let mut experience = Experience::default();
        for taken in [1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000_000] {
            let taken = Experience::counted(&asked, 1_000, taken);
            experience.note_success(None, Complexity::Medium, Some(taken), Millis(2_000));
        }
        assert_eq!(experience.tokens(None, &asked), 4_392, "1,700 and 1.28 times 2,100, rounded up");
        assert_eq!(Experience::counted(&asked, 100, 8_001), 800, "eight times what was learned");
        let given = TokensExpected { given: Some(1), ..asked };
        assert_eq!(Experience::counted(&given, 1, 8_001), 8_000, "the formula expects more than the submitter");
        assert_eq!(Experience::counted(&asked, u64::MAX, 8_001), 8_001);
    }

    #[test]
    fn durations_of_all_kinds_count_together() {
        let mut experience = Experience::default();
        assert_eq!(experience.durations(), None);
        for (complexity, seconds) in [(Complexity::Simple, 1), (Complexity::Complex, 3)] {
            experience.note_success(None, complexity, None, Millis::from_seconds(seconds));
        }
        // Mean 2, variance 1.
        let seen = experience.durations().expect("two were seen");
        assert_eq!(seen, DurationsSeen { mean: Millis(2_000), variability: 0.25 });
    }

    #[test]
    fn old_experience_fades() {
        let mut moments = Moments::default();
        for _ in 0..EXPERIENCE_MAX {
            moments.note(1_000);
        }
        for _ in 0..20 * EXPERIENCE_MAX {
            moments.note(10);
        }
        assert_eq!(moments.upper(), Some(10), "a thousand is all but forgotten");
        assert!(moments.count <= EXPERIENCE_MAX);
    }
}
