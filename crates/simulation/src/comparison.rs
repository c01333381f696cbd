//! Comparison of the same arrivals under each policy and with a fixed number of agents.

use super::arrivals::Arrival;
use super::options::{Operator, Options};
use super::outcome::SimulationOutcome;
use super::simulator::Simulator;
use super::trace::TraceError;
use cortex_core::policy::{Policy, PolicyName};
use std::panic;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

/// The interval between two progress reports.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// A source of arrivals that can be read repeatedly.
pub trait ArrivalSource: Sync {
    /// Returns all arrivals from the first one on, and reports the read position to `progress`.
    ///
    /// # Errors
    /// [`TraceError`] if the source cannot be read.
    fn arrivals(
        &self,
        progress: &Arc<ReadProgress>,
    ) -> Result<impl Iterator<Item = Result<Arrival, TraceError>>, TraceError>;
}

/// The read position in a source.
#[derive(Debug, Default)]
pub struct ReadProgress {
    /// The number of rows read.
    pub rows: AtomicU64,
    /// The thousandths of the source that were read.
    pub thousandths: AtomicU64,
}

/// The way to scale agents in one simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fleet {
    /// The planner scales agents by this policy.
    Planned(PolicyName),
    /// The number of agents is fixed.
    Fixed(u64),
}

impl Fleet {
    /// Returns the name in reports.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Planned(policy) => policy.as_str().to_owned(),
            Self::Fixed(agents) => format!("fixed, {agents}"),
        }
    }
}

/// The parameters of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The simulation options. `agents_at_start` is overridden by `agents`.
    pub options: Options,
    /// The only policy to simulate; all policies if absent.
    pub policy: Option<PolicyName>,
    /// The number of agents at the start and of the fixed fleet.
    ///
    /// If absent, the policy (the balanced one by default) first runs with one agent. Then all simulations start with
    /// its mean number of agents, so that none is judged by its first minutes, and the fixed fleet has the mean of
    /// the same policy in that second run.
    pub agents: Option<u64>,
}

/// A callback that receives the progress of each simulation.
pub type Progress<'a> = &'a mut dyn FnMut(&[(Fleet, Arc<ReadProgress>)]);

/// Simulates the policies in their order, and then the fixed fleet.
///
/// # Errors
/// [`TraceError`] of the first simulation that could not read the source.
///
/// # Panics
/// If a simulation panics, which is a bug in this crate.
pub fn compare(
    comparison: &Comparison,
    source: &impl ArrivalSource,
    progress: Progress<'_>,
) -> Result<Vec<(Fleet, SimulationOutcome)>, TraceError> {
    let names = Policy::NAMED.iter().map(|policy| policy.name);
    let mut fleets: Vec<Fleet> =
        names.filter(|name| comparison.policy.is_none_or(|only| only == *name)).map(Fleet::Planned).collect();
    fleets.extend(comparison.agents.map(Fleet::Fixed));
    if let Some(agents) = comparison.agents {
        return simulate(comparison, agents, &fleets, source, progress);
    }
    let model = Fleet::Planned(comparison.policy.unwrap_or(PolicyName::Balanced));
    let first = simulate(comparison, 1, &[model], source, progress)?;
    let agents = agents_mean(&first, model);
    let mut outcomes = simulate(comparison, agents, &fleets, source, progress)?;
    let fixed = [Fleet::Fixed(agents_mean(&outcomes, model))];
    outcomes.append(&mut simulate(comparison, agents, &fixed, source, progress)?);
    Ok(outcomes)
}

/// Returns the mean number of agents of a simulation, rounded up; at least 1.
fn agents_mean(outcomes: &[(Fleet, SimulationOutcome)], of: Fleet) -> u64 {
    let found = outcomes.iter().find(|(fleet, _)| *fleet == of);
    found.map_or(1, |(_, outcome)| (outcome.agents_mean().ceil() as u64).max(1))
}

/// Simulates each fleet in its own thread, with this number of agents at the start.
fn simulate(
    comparison: &Comparison,
    agents: u64,
    fleets: &[Fleet],
    source: &impl ArrivalSource,
    progress: Progress<'_>,
) -> Result<Vec<(Fleet, SimulationOutcome)>, TraceError> {
    let positions: Vec<(Fleet, Arc<ReadProgress>)> = fleets.iter().map(|fleet| (*fleet, Arc::default())).collect();
    thread::scope(|scope| {
        let (done, ended) = mpsc::channel::<()>();
        let mut simulations = Vec::new();
        for (fleet, position) in &positions {
            let done = done.clone();
            simulations.push(scope.spawn(move || {
                // Dropped at the end, also after an error or a panic.
                let _done = done;
                Ok((*fleet, run(comparison, agents, *fleet, source, position)?))
            }));
        }
        drop(done);
        while ended.recv_timeout(PROGRESS_INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
            progress(&positions);
        }
        let joined = simulations.into_iter().map(|simulation| simulation.join());
        joined.map(|outcome| outcome.unwrap_or_else(|payload| panic::resume_unwind(payload))).collect()
    })
}

fn run(
    comparison: &Comparison,
    agents: u64,
    fleet: Fleet,
    source: &impl ArrivalSource,
    progress: &Arc<ReadProgress>,
) -> Result<SimulationOutcome, TraceError> {
    let mut options = comparison.options.clone();
    options.agents_at_start = agents;
    let operator = match fleet {
        Fleet::Planned(name) => Operator::Planner(name.policy()),
        Fleet::Fixed(agents) => {
            options.agents_at_start = agents;
            Operator::Fixed
        }
    };
    let outcome = Simulator::new(&options, operator).run(source.arrivals(progress)?)?;
    progress.thousandths.store(1_000, Ordering::Relaxed);
    Ok(outcome)
}
