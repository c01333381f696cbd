//! Planning: what the planner would do now, and why. Pure, as the core is: it is given what was observed and returns a
//! plan; carrying a plan out is somebody else's work.

mod forecast;
mod scaling;

pub use forecast::{Forecast, TREND_CHANGE_MIN, Trend};
pub use scaling::{Action, Bounds, Observation, Plan, Planner, Policy};
