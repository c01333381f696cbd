//! Forecast horizons.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A forecast horizon in bins: 1 is the next bin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Horizon(u16);

impl Horizon {
    /// The longest horizon: a day of five-minute bins. Pending forecasts are kept for each bin up to the horizon.
    pub const BINS_MAX: u16 = 288;

    /// Creates a horizon of 1 to [`BINS_MAX`](Self::BINS_MAX) bins; returns `None` for any other number.
    #[must_use]
    pub const fn new(bins: u16) -> Option<Self> {
        if bins >= 1 && bins <= Self::BINS_MAX { Some(Self(bins)) } else { None }
    }

    /// Returns the number of bins.
    #[must_use]
    pub const fn as_bins(self) -> u16 {
        self.0
    }

    /// Returns the number of bins as an index.
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
