//! What get_forecast answers.

use cortex_core::demand::DEMAND_BIN;
use cortex_planning::{
    CONFIDENCE_MIN, DemandForecast, DemandSeries, HISTORY_BINS_MIN, HorizonForecast, MethodForecast,
};
use schemars::JsonSchema;
use serde::Serialize;

/// What to expect of one thing.
#[derive(Serialize, JsonSchema)]
struct SeriesResult {
    /// `requests`, `task_submissions` or `workers`, in a bin.
    series: &'static str,
    /// How many bins were seen.
    history_bins: u64,
    /// Whether plans go by it: its coverage is high enough for the next two bins.
    is_trusted: bool,
    /// What is missing until plans can go by it; null once there is enough history.
    missing: Option<String>,
    /// After how many seconds demand repeats itself; null if no season was found.
    season_seconds: Option<u64>,
    /// What is expected so far ahead, the nearest first.
    horizons: Vec<HorizonResult>,
}

/// What to expect one horizon ahead.
#[derive(Serialize, JsonSchema)]
struct HorizonResult {
    /// Until how many seconds after the last whole bin.
    ahead_seconds: u64,
    /// What stays at or below this in nine of ten bins; null while there is too little history.
    wanted: Option<f64>,
    /// The part of past bins in which it was enough; null while no forecast has come due.
    coverage: Option<f64>,
    /// Their mean pinball loss; null while no forecast has come due.
    pinball_loss: Option<f64>,
    /// How many forecasts have come due.
    scored_bins: u64,
    /// What each forecaster says that knows enough.
    forecasters: Vec<ForecasterResult>,
}

/// What one forecaster says.
#[derive(Serialize, JsonSchema)]
struct ForecasterResult {
    /// Its name.
    forecaster: &'static str,
    /// What it wants, margin included; null while it knows too little.
    wanted: Option<f64>,
    /// How much it counts, from 0 to 1.
    weight: f64,
    /// The mean pinball loss of its past forecasts; null while none has come due.
    pinball_loss: Option<f64>,
}

/// The answer to get_forecast.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ForecastResult {
    /// How long a bin is.
    bin_seconds: u64,
    /// When the last bin ended that was seen; null before the first.
    seen_until: Option<String>,
    /// The quantile of demand that is forecast.
    quantile: f64,
    /// From which coverage on plans go by a forecast.
    confidence_min: f64,
    /// How many bins must be seen before anything is forecast.
    history_bins_min: u64,
    /// What to expect.
    series: Vec<SeriesResult>,
}

impl ForecastResult {
    pub(crate) fn new(forecast: &DemandForecast, only: Option<DemandSeries>) -> Self {
        let asked = DemandSeries::ALL.into_iter().filter(|series| only.is_none_or(|only| only == *series));
        Self {
            bin_seconds: DEMAND_BIN.as_seconds(),
            seen_until: forecast.last_bin_start().map(|from| from.after(DEMAND_BIN).to_string()),
            quantile: forecast.forecaster(DemandSeries::Requests).quantile().as_fraction(),
            confidence_min: CONFIDENCE_MIN,
            history_bins_min: HISTORY_BINS_MIN,
            series: asked.map(|series| SeriesResult::new(forecast, series)).collect(),
        }
    }
}

impl SeriesResult {
    fn new(forecast: &DemandForecast, series: DemandSeries) -> Self {
        let forecaster = forecast.forecaster(series);
        let expected = forecast.expected(series);
        Self {
            series: series.as_str(),
            history_bins: forecaster.bins(),
            is_trusted: expected.as_ref().is_ok_and(|expected| expected.is_trusted()),
            missing: expected.err(),
            season_seconds: forecaster.season().map(|bins| bins as u64 * DEMAND_BIN.as_seconds()),
            horizons: forecaster.horizon_forecasts().iter().map(HorizonResult::from).collect(),
        }
    }
}

impl From<&HorizonForecast> for HorizonResult {
    fn from(forecast: &HorizonForecast) -> Self {
        Self {
            ahead_seconds: u64::from(forecast.horizon.as_bins()) * DEMAND_BIN.as_seconds(),
            wanted: forecast.wanted,
            coverage: forecast.score.map(|score| score.coverage),
            pinball_loss: forecast.score.map(|score| score.pinball_loss),
            scored_bins: forecast.score.map_or(0, |score| score.bins as u64),
            forecasters: forecast
                .methods
                .iter()
                .filter(|method| method.wanted.is_some() || method.score.is_some())
                .map(ForecasterResult::from)
                .collect(),
        }
    }
}

impl From<&MethodForecast> for ForecasterResult {
    fn from(forecast: &MethodForecast) -> Self {
        Self {
            forecaster: forecast.method.as_str(),
            wanted: forecast.wanted,
            weight: forecast.weight,
            pinball_loss: forecast.score.map(|score| score.pinball_loss),
        }
    }
}
