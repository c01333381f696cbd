//! Planning: what the planner would do now, and why, and what holds tasks up. Pure, as the core is: it is given what was
//! observed and returns a plan; carrying a plan out is somebody else's work.

mod bottlenecks;
mod capacity;
mod forecast;
mod observation;
mod plan;
mod policy;
mod scaling;

pub use bottlenecks::{
    BACKLOG_TASKS_MIN, Bottleneck, Bottlenecks, ENDED_TASKS_MIN, Figures, QUOTA_RATIO_MIN, SLOWNESS_MAX,
    SUCCESS_RATE_MIN, Severity, Subject, TOKEN_RATIO_MAX,
};
pub use capacity::{Aim, Capacity, Work, dispersion};
pub use forecast::{
    Forecast, Forecaster, HISTORY_BINS_MAX, HISTORY_BINS_MIN, Horizon, Method, MethodOutlook, Outlook, Quantile,
    SCORED_BINS_MAX, Score, TREND_CHANGE_MIN, Trend,
};
pub use observation::{Observation, WhatIf};
pub use plan::{Action, Plan};
pub use policy::{Policy, PolicyName};
pub use scaling::{Bounds, Planner};
