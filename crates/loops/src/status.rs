//! How a loop is doing, for whoever asks.

use cortex_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// What a loop notes of its runs, shared with those who look.
#[derive(Debug)]
pub struct LoopStatus {
    name: &'static str,
    period: Duration,
    runs: Mutex<(u64, Option<LastRun>)>,
}

/// How a loop stands at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopSeen {
    /// The loop.
    pub name: String,
    /// The time between two runs, in seconds.
    pub period_seconds: u64,
    /// How many runs have ended since the start of the process.
    pub runs: u64,
    /// The last of them.
    pub last: Option<LastRun>,
}

/// A run of a loop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// When it ended, by the wall clock.
    pub at: Timestamp,
    /// How: `fine`, `panicked`, or `failed` with the reason.
    pub outcome: String,
}

impl LoopStatus {
    /// A loop that has not run yet.
    #[must_use]
    pub const fn new(name: &'static str, period: Duration) -> Self {
        Self { name, period, runs: Mutex::new((0, None)) }
    }

    /// The loop's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The time between two runs.
    #[must_use]
    pub const fn period(&self) -> Duration {
        self.period
    }

    /// Notes how a run ended, now.
    pub(super) fn note(&self, outcome: String) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let at = Timestamp::since_1970(since);
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        *runs = (runs.0 + 1, Some(LastRun { at, outcome }));
    }

    /// How the loop stands.
    #[must_use]
    pub fn seen(&self) -> LoopSeen {
        let (runs, last) = self.runs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        LoopSeen { name: self.name.to_owned(), period_seconds: self.period.as_secs(), runs, last }
    }
}
