//! `get_forecast`: returns the demand forecast and its measured accuracy.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, AnyParameter, Arguments, Parameter};
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
             concurrently. Each is an upper quantile with its measured coverage and each forecaster's value.",
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
