//! The status of a loop.

use cortex_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// The record of a loop's runs, shared between the loop and its readers.
#[derive(Debug)]
pub struct LoopStatus {
    name: &'static str,
    period: Duration,
    /// The number of runs, and the last one.
    runs: Mutex<(u64, Option<LastRun>)>,
}

/// The status of a loop at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopReport {
    pub name: String,
    pub period_seconds: u64,
    /// The number of runs that have ended since the process started.
    pub runs: u64,
    pub last: Option<LastRun>,
}

/// The last run of a loop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// When it ended, by the wall clock.
    pub at: Timestamp,
    /// `fine`, `panicked`, or `failed: ` with the reason.
    pub outcome: String,
}

impl LoopStatus {
    /// A loop that has not run yet.
    #[must_use]
    pub const fn new(name: &'static str, period: Duration) -> Self {
        Self { name, period, runs: Mutex::new((0, None)) }
    }

    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    #[must_use]
    pub const fn period(&self) -> Duration {
        self.period
    }

    /// Records the outcome of a run that ended now.
    pub(super) fn record(&self, outcome: String) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let at = Timestamp::since_1970(since);
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        *runs = (runs.0 + 1, Some(LastRun { at, outcome }));
    }

    #[must_use]
    pub fn report(&self) -> LoopReport {
        let (runs, last) = self.runs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        LoopReport { name: self.name.to_owned(), period_seconds: self.period.as_secs(), runs, last }
    }
}
