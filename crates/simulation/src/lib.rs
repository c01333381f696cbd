//! Trace simulation: replays a trace of arrivals in virtual time against the real cluster state machine and the real
//! planner, under each scaling policy and with a fixed number of agents.
//!
//! ```
//! use cortex_core::policy::Policy;
//! use cortex_core::time::Millis;
//! use cortex_simulation::{Arrival, Operator, Options, Simulator};
//!
//! let every_second = (0..600).map(|second| Ok::<_, ()>(Arrival { at: Millis::from_seconds(second), tokens: None }));
//! let outcome = Simulator::new(&Options::default(), Operator::Planner(Policy::BALANCED)).run(every_second)?;
//! assert_eq!((outcome.tasks, outcome.done), (600, 600));
//! # Ok::<(), ()>(())
//! ```

mod agents;
mod arrivals;
mod comparison;
mod durations;
mod options;
mod outcome;
mod page;
mod plot;
mod prediction_interval;
mod report;
mod simulator;
mod time_series;
mod trace;
mod trace_file;

pub use arrivals::{Arrival, Arrivals};
pub use comparison::{ArrivalSource, Comparison, Fleet, Progress, ReadProgress, compare};
pub use options::{AGENTS_MAX, AgentLoss, Operator, Options, TokenBudget};
pub use outcome::{OutcomePoint, ScalingChange, SimulationOutcome};
pub use page::{PageError, render_page};
pub use prediction_interval::{IntervalPoint, PredictionInterval};
pub use report::{ComparisonReport, ReportRow};
pub use simulator::Simulator;
pub use time_series::{Accumulate, TimeSeries};
pub use trace::{LineProblem, TraceError, TraceRow, TraceRows};
pub use trace_file::TraceFile;
