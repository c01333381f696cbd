//! What would it have done? A trace of arrivals is lived through in virtual time, with the real books and the real planner, under
//! each policy and under a fleet that stays as it is.
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

mod arrivals;
mod comparison;
mod crew;
mod durations;
mod options;
mod outcome;
mod page;
mod plot;
mod prediction_interval;
mod report;
mod series;
mod simulator;
mod trace;
mod trace_file;

pub use arrivals::{Arrival, Arrivals};
pub use comparison::{Fleet, Progress, Question, Reading, Source, compare};
pub use options::{AGENTS_MAX, Loss, Operator, Options, TokenBudget};
pub use outcome::{Outcome, Point, Scaling};
pub use page::{PageError, page};
pub use prediction_interval::{IntervalPoint, PredictionInterval};
pub use report::{COLUMNS, Report, ReportRow};
pub use series::{Add, POINTS_MAX, Series};
pub use simulator::Simulator;
pub use trace::{Row, Rows, TraceError};
pub use trace_file::TraceFile;
