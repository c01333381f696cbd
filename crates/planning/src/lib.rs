//! Planning: what the planner would do now, and why, what demand to expect, and what holds tasks up. Pure, as the core is: it is
//! given what was observed and returns a plan; carrying a plan out is somebody else's work.

mod bottlenecks;
mod capacity;
mod capacity_plan;
mod demand_forecast;
mod forecast;
mod looks;
mod observation;
mod plan;
mod planner;
mod scaling;

pub use bottlenecks::{
    BACKLOG_TASKS_MIN, Bottleneck, Bottlenecks, ENDED_TASKS_MIN, Figures, QUOTA_RATIO_MIN, SLOWNESS_MAX,
    SUCCESS_RATE_MIN, Severity, Subject, TOKEN_RATIO_MAX,
};
pub use capacity::{Aim, Capacity, Work, dispersion};
pub use capacity_plan::{AgentsAhead, CapacityPlan, WorkersAhead};
pub use demand_forecast::{CONFIDENCE_MIN, DemandForecast, Expected, SCORED_BINS_MIN, Series};
pub use forecast::{
    Forecast, Forecaster, HISTORY_BINS_MAX, HISTORY_BINS_MIN, Horizon, HorizonForecast, Method, MethodForecast,
    Quantile, SCORED_BINS_MAX, Score, TREND_CHANGE_MIN, Trend,
};
pub use observation::{Observation, WhatIf};
pub use plan::{Action, PLAN_BOTTLENECKS_MAX, Plan};
pub use planner::{Bounds, CALL_SPACING, Planner, SCALE_IN_WINDOW_MAX};
