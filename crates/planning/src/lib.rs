//! Planning: what to scale and why, what demand to expect, and which bottlenecks delay tasks.
//!
//! Planning is pure, like the core: it receives observations and returns a plan. The caller executes the plan.

mod bottlenecks;
mod capacity;
mod capacity_plan;
mod demand_forecast;
mod forecast;
mod observation;
mod plan;
mod planner;
mod samples;
mod scaling;

pub use bottlenecks::{Bottleneck, Bottlenecks, Evidence, Severity, Subject};
pub use capacity::{RequiredCapacity, ServiceTarget, Workload};
pub use capacity_plan::{AgentRequirement, CapacityPlan, WorkerRequirement};
pub use demand_forecast::{CONFIDENCE_MIN, DemandForecast, DemandSeries, ExpectedDemand, NoForecast};
pub use forecast::{
    Forecaster, HISTORY_BINS_MAX, HISTORY_BINS_MIN, Horizon, HorizonForecast, Method, MethodForecast, Quantile, Score,
    Trend, TrendForecast,
};
pub use observation::{Observation, WhatIf};
pub use plan::{Action, Plan};
pub use planner::{Bounds, Planner, REPLAN_INTERVAL_MIN, SCALE_IN_WINDOW_MAX};
