//! Priorities of jobs and tasks.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// How urgent a job or a task is, from the least to the most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Best effort.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Important or time-sensitive.
    High,
    /// Emergencies.
    Critical,
}

/// Why a text is not a priority.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("a priority is low, normal, high or critical")]
pub struct InvalidPriority;

impl Priority {
    /// All priorities, from the least urgent to the most.
    pub const ALL: [Self; 4] = [Self::Low, Self::Normal, Self::High, Self::Critical];

    /// Returns the name that allocations use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Priority {
    type Err = InvalidPriority;

    /// Reads a priority in any case. `medium`, the word used for tasks, is `normal`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|priority| text.eq_ignore_ascii_case(priority.as_str()))
            .or_else(|| text.eq_ignore_ascii_case("medium").then_some(Self::Normal))
            .ok_or(InvalidPriority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_in_any_case() {
        let check = |text: &str, expected| assert_eq!(text.parse::<Priority>(), expected, "{text:?}");
        check("low", Ok(Priority::Low));
        check("normal", Ok(Priority::Normal));
        check("MEDIUM", Ok(Priority::Normal));
        check("High", Ok(Priority::High));
        check("CRITICAL", Ok(Priority::Critical));
        check("urgent", Err(InvalidPriority));
        check("", Err(InvalidPriority));
    }
}
