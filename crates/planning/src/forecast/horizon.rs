//! How far ahead a forecast looks.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A number of bins ahead: 1 is the next bin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Horizon(u16);

impl Horizon {
    /// The farthest: a day of bins of five minutes. What is known about one horizon is kept for each bin up to it.
    pub const BINS_MAX: u16 = 288;

    /// So many bins ahead, from 1 to [`BINS_MAX`](Self::BINS_MAX), and nothing for any other number.
    #[must_use]
    pub const fn new(bins: u16) -> Option<Self> {
        if bins >= 1 && bins <= Self::BINS_MAX { Some(Self(bins)) } else { None }
    }

    /// How many bins ahead.
    #[must_use]
    pub const fn as_bins(self) -> u16 {
        self.0
    }

    /// The same, for counting and indexing.
    pub(super) const fn bins(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Horizon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl TryFrom<u16> for Horizon {
    type Error = String;

    fn try_from(bins: u16) -> Result<Self, Self::Error> {
        Self::new(bins).ok_or_else(|| format!("horizon is {bins}: give 1 to {} bins", Self::BINS_MAX))
    }
}

impl From<Horizon> for u16 {
    fn from(horizon: Horizon) -> Self {
        horizon.0
    }
}
