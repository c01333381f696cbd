//! `get_forecast`: returns the demand forecast and its measured accuracy.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, AnyParameter, Arguments, Parameter};
use cortex_core::demand::DEMAND_BIN;
use cortex_planning::{
    CONFIDENCE_MIN, DemandForecast, DemandSeries, HISTORY_BINS_MIN, HorizonForecast, MethodForecast,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::{Arc, PoisonError};

pub(super) struct GetForecast {
    series: Parameter<DemandSeries>,
}

impl GetForecast {
    pub(super) fn new() -> Self {
        let words = DemandSeries::ALL.map(DemandSeries::as_str);
        let read = |text: &str| DemandSeries::ALL.into_iter().find(|one| text.eq_ignore_ascii_case(one.as_str()));
        Self { series: arguments::choice("series", "Only this series; all if absent.", &words, read) }
    }

    fn parameters(&self) -> [&dyn AnyParameter; 1] {
        [&self.series]
    }
}

impl ToolHandler for GetForecast {
    fn name(&self) -> &'static str {
        "get_forecast"
    }

    fn describe(&self) -> Tool {
        definition::<ForecastResult>(
            self.name(),
            "Get forecast",
            "Forecast demand for the next half hour: resource requests, task submissions and workers needed \
             concurrently. Each value is an upper quantile, with its measured coverage and each forecaster's value.",
            &self.parameters(),
            &Hints { is_read_only: true, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &self.parameters())?;
            let series = arguments.optional(&self.series)?;
            let forecast = {
                let planner = invocation.planner.lock().unwrap_or_else(PoisonError::into_inner);
                ForecastResult::new(planner.demand_forecast(), series)
            };
            ToolOutput::new(&forecast)
        }
        .boxed()
    }
}

/// The forecast of one series.
#[derive(Serialize, JsonSchema)]
struct SeriesResult {
    /// `requests`, `task_submissions` or `workers`, in a bin.
    series: &'static str,
    history_bins: u64,
    /// Whether plans use it: its coverage is high enough for the next two bins.
    is_trusted: bool,
    /// What is missing before plans can use it; null once there is enough history.
    missing: Option<String>,
    /// The period of demand, in seconds; null if no season was found.
    season_seconds: Option<u64>,
    /// The nearest first.
    horizons: Vec<HorizonResult>,
}

/// The forecast for one horizon.
#[derive(Serialize, JsonSchema)]
struct HorizonResult {
    /// Seconds from the last whole bin.
    ahead_seconds: u64,
    /// Demand is at or below this in nine of ten bins; null while there is too little history.
    wanted: Option<f64>,
    /// The part of past bins in which it was high enough; null while no forecast is due yet.
    coverage: Option<f64>,
    /// Mean pinball loss of past forecasts; null while none is due yet.
    pinball_loss: Option<f64>,
    /// Past forecasts with a known outcome.
    scored_bins: u64,
    /// The forecasters with enough history.
    forecasters: Vec<ForecasterResult>,
}

/// The forecast of one method.
#[derive(Serialize, JsonSchema)]
struct ForecasterResult {
    forecaster: &'static str,
    /// Its forecast with the margin; null while it has too little history.
    wanted: Option<f64>,
    /// From 0 to 1.
    weight: f64,
    /// Mean pinball loss of its past forecasts; null while none is due yet.
    pinball_loss: Option<f64>,
}

/// The result of get_forecast.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ForecastResult {
    bin_seconds: u64,
    /// The end of the last bin seen; null before the first.
    seen_until: Option<String>,
    /// The quantile of demand that is forecast.
    quantile: f64,
    /// The least coverage with which plans use a forecast.
    confidence_min: f64,
    /// The least bins of history for a forecast.
    history_bins_min: u64,
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
            missing: expected.err().map(|missing| missing.to_string()),
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
