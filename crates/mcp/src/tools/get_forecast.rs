//! `get_forecast`: what demand to expect, and how good such forecasts were.

use super::{Answer, Hints, Invocation, Run, ToolError, definition};
use crate::arguments::{self, Arguments, Described, Parameter};
use crate::results::ForecastResult;
use cortex_planning::DemandSeries;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use std::sync::{Arc, PoisonError};

pub(super) struct GetForecast {
    series: Parameter<DemandSeries>,
}

impl GetForecast {
    pub(super) fn new() -> Self {
        let words = Series::ALL.map(Series::as_str);
        let read = |text: &str| Series::ALL.into_iter().find(|one| text.eq_ignore_ascii_case(one.as_str()));
        Self { series: arguments::choice("series", "Only this series; all if absent.", &words, read) }
    }

    fn parameters(&self) -> [&dyn Described; 1] {
        [&self.series]
    }
}

impl Run for GetForecast {
    fn name(&self) -> &'static str {
        "get_forecast"
    }

    fn describe(&self) -> Tool {
        definition::<ForecastResult>(
            self.name(),
            "Get forecast",
            "Forecast demand for the next half hour: resource requests, task submissions and workers needed \
             concurrently. Each is an upper quantile with its measured coverage and each forecaster's value.",
            &self.parameters(),
            &Hints { is_read_only: true, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<Answer, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &self.parameters())?;
            let series = arguments.optional(&self.series)?;
            let forecast = {
                let planner = invocation.planner.lock().unwrap_or_else(PoisonError::into_inner);
                ForecastResult::new(planner.demand_forecast(), series)
            };
            Answer::new(&forecast)
        }
        .boxed()
    }
}
