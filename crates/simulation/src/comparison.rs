//! The comparison: the same arrivals under each policy, and under a fleet that stays as it is.

use super::arrivals::Arrival;
use super::options::{Operator, Options};
use super::outcome::Outcome;
use super::simulator::Simulator;
use super::trace::TraceError;
use cortex_core::policy::{Policy, PolicyName};
use std::panic;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

/// How much time there is between two reports of progress.
const PROGRESS_WAIT: Duration = Duration::from_millis(500);

/// Where arrivals come from, as often as they are asked for.
pub trait Source: Sync {
    /// All of them, from the first one on. How far they were read is told to `reading`.
    ///
    /// # Errors
    /// They cannot be read at all.
    fn arrivals(&self, reading: &Arc<Reading>)
    -> Result<impl Iterator<Item = Result<Arrival, TraceError>>, TraceError>;
}

/// How far a source was read.
#[derive(Debug, Default)]
pub struct Reading {
    /// How many rows.
    pub rows: AtomicU64,
    /// How many thousandths of all.
    pub thousandths: AtomicU64,
}

/// What arrivals are simulated under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fleet {
    /// The planner says how many agents there should be.
    Planned(PolicyName),
    /// There are always so many.
    Fixed(u64),
}

impl Fleet {
    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Planned(policy) => policy.as_str().to_owned(),
            Self::Fixed(agents) => format!("fixed, {agents}"),
        }
    }
}

/// What is compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The simulator; how many agents there are at the start is overruled by `agents`.
    pub options: Options,
    /// Only this policy; all of them if absent.
    pub policy: Option<PolicyName>,
    /// So many agents at the start, and in the fleet that stays as it is. If absent, the balanced policy, or the one asked for, is
    /// first tried with one agent; then all start with as many as it had in the mean, so that none is judged by its first minutes,
    /// and the fleet that stays has as many as the same policy had this time.
    pub agents: Option<u64>,
}

/// How far each simulation has come.
pub type Progress<'a> = &'a mut dyn FnMut(&[(Fleet, Arc<Reading>)]);

/// Simulates all that is asked for: the policies in their order, and the fleet that stays as it is behind them.
///
/// # Errors
/// The first one of the source.
///
/// # Panics
/// If a simulation does, which would be our mistake.
pub fn compare(
    question: &Question,
    source: &impl Source,
    progress: Progress<'_>,
) -> Result<Vec<(Fleet, Outcome)>, TraceError> {
    let named = Policy::NAMED.iter().map(|policy| policy.name);
    let mut fleets: Vec<Fleet> =
        named.filter(|name| question.policy.is_none_or(|only| only == *name)).map(Fleet::Planned).collect();
    fleets.extend(question.agents.map(Fleet::Fixed));
    if let Some(agents) = question.agents {
        return simulate(question, agents, &fleets, source, progress);
    }
    let model = Fleet::Planned(question.policy.unwrap_or(PolicyName::Balanced));
    let tried = simulate(question, 1, &[model], source, progress)?;
    let agents = agents_mean(&tried, model);
    let mut outcomes = simulate(question, agents, &fleets, source, progress)?;
    let fixed = [Fleet::Fixed(agents_mean(&outcomes, model))];
    outcomes.append(&mut simulate(question, agents, &fixed, source, progress)?);
    Ok(outcomes)
}

/// How many agents a fleet had in the mean, rounded up; at least one.
fn agents_mean(outcomes: &[(Fleet, Outcome)], of: Fleet) -> u64 {
    let found = outcomes.iter().find(|(fleet, _)| *fleet == of);
    found.map_or(1, |(_, outcome)| (outcome.agents_mean().ceil() as u64).max(1))
}

/// Simulates each on a thread of its own, with so many agents at the start.
fn simulate(
    question: &Question,
    agents: u64,
    fleets: &[Fleet],
    source: &impl Source,
    progress: Progress<'_>,
) -> Result<Vec<(Fleet, Outcome)>, TraceError> {
    let readings: Vec<(Fleet, Arc<Reading>)> = fleets.iter().map(|fleet| (*fleet, Arc::default())).collect();
    thread::scope(|scope| {
        let (done, ends) = mpsc::channel::<()>();
        let mut simulations = Vec::new();
        for (fleet, reading) in &readings {
            let done = done.clone();
            simulations.push(scope.spawn(move || {
                // Dropped at the end, whatever it is.
                let _done = done;
                Ok((*fleet, live(question, agents, *fleet, source, reading)?))
            }));
        }
        drop(done);
        while ends.recv_timeout(PROGRESS_WAIT) == Err(mpsc::RecvTimeoutError::Timeout) {
            progress(&readings);
        }
        let joined = simulations.into_iter().map(|simulation| simulation.join());
        joined.map(|outcome| outcome.unwrap_or_else(|payload| panic::resume_unwind(payload))).collect()
    })
}

fn live(
    question: &Question,
    agents: u64,
    fleet: Fleet,
    source: &impl Source,
    reading: &Arc<Reading>,
) -> Result<Outcome, TraceError> {
    let mut options = question.options.clone();
    options.agents_at_start = agents;
    let operator = match fleet {
        Fleet::Planned(name) => Operator::Planner(name.policy()),
        Fleet::Fixed(agents) => {
            options.agents_at_start = agents;
            Operator::Nobody
        }
    };
    let outcome = Simulator::new(&options, operator).run(source.arrivals(reading)?)?;
    reading.thousandths.store(1_000, Ordering::Relaxed);
    Ok(outcome)
}
