//! The start of the engine: the books as the journal has them, brought in line with what this start was told.

use super::batch::Batch;
use super::clock::EngineClock;
use super::fleet::Waiting;
use super::message::EngineError;
use super::outage::Outage;
use super::real::Real;
use super::refusals::Refusals;
use super::{CHANGES_WAITING_MAX, Engine, EngineHandle, MESSAGES_WAITING_MAX};
use cortex_core::allocation::State;
use cortex_core::command::Command;
use cortex_core::demand::DemandCounter;
use cortex_core::event::Limits;
use cortex_core::fleet::command::FleetCommand;
use cortex_core::fleet::replan_triggers::ReplanTriggers;
use cortex_core::fleet::settings::FleetSettings;
use cortex_core::fleet::view::TokenUsage;
use cortex_core::ids::{FencingToken, NodeId};
use cortex_core::time::{Millis, Timestamp};
use cortex_core::units::{CpuMillis, MemoryMb, Resources, WorkerSize};
use cortex_core::view::{Filter, RequestsSeen};
use cortex_journal::{Journal, JournalError, Recovered};
use std::collections::VecDeque;
use std::hash::RandomState;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{Notify, broadcast, mpsc};

/// What the engine needs to know at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// The capacity of the node `local`.
    pub totals: Totals,
    /// What a worker takes.
    pub worker_size: WorkerSize,
    /// The bounds of the books.
    pub limits: Limits,
    /// How long the record of an ended allocation is kept.
    pub history_age: Millis,
    /// How long leases that ran out while nobody could renew them are spared at least; what was spared runs out within
    /// as long again.
    pub outage_grace: Millis,
    /// The bounds and periods of the fleet.
    pub fleet: FleetSettings,
    /// The token budget of the fleet.
    pub token_budget: TokenBudget,
    /// How long the end may take once the last handle is gone.
    pub close_within: Duration,
}

impl EngineOptions {
    /// For a capacity that stays as it is; all else is as the settings have it by default.
    #[must_use]
    pub fn fixed(capacity: Resources) -> Self {
        Self {
            totals: Totals::fixed(capacity),
            worker_size: WorkerSize { cpu_millis: CpuMillis::from_millis(1_000), memory_mb: MemoryMb(2_048) },
            limits: Limits::default(),
            history_age: Millis::from_seconds(86_400),
            outage_grace: Millis::from_seconds(60),
            fleet: FleetSettings::default(),
            token_budget: TokenBudget::lasting(200_000),
            close_within: Duration::from_secs(5),
        }
    }
}

/// The token budget that a start was told. Books that have one go on with theirs, unless this one was named and they are to
/// be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBudget {
    /// How many tokens.
    pub tokens: u64,
    /// After how long what is settled is cleared, again and again; zero for never.
    pub window: Millis,
    /// Whether the tokens were named, rather than being a default.
    pub names_tokens: bool,
    /// Whether the window was named.
    pub names_window: bool,
}

impl TokenBudget {
    /// So many tokens, for ever, for books that have no budget.
    #[must_use]
    pub const fn lasting(tokens: u64) -> Self {
        Self { tokens, window: Millis(0), names_tokens: false, names_window: false }
    }

    /// What to change of the budget of the books, if they have one: the tokens, and the window. What is kept although another
    /// was named is told.
    fn changes(&self, books: Option<&TokenUsage>, resize: bool) -> (Option<u64>, Option<Millis>) {
        let Some(books) = books else { return (Some(self.tokens), Some(self.window)) };
        let tokens = Some(self.tokens).filter(|tokens| self.names_tokens && *tokens != books.all.total);
        let window = Some(self.window).filter(|window| self.names_window && *window != books.window);
        if resize {
            return (tokens, window);
        }
        if let Some(tokens) = tokens {
            warn_of_kept("token_budget", tokens, books.all.total);
        }
        if let Some(window) = window {
            warn_of_kept("token_window_seconds", window.as_seconds(), books.window.as_seconds());
        }
        (None, None)
    }
}

fn warn_of_kept(setting: &str, told: u64, books: u64) {
    tracing::warn!(
        "{setting} is {told}, and the state has {books}, which stands: \
         change it with set_token_budget, or give --resize yes"
    );
}

/// The totals that a start was told, and what to do if the books have others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    /// The totals.
    pub capacity: Resources,
    /// Whether the CPU was named, rather than being a default: only what was named is held against the books.
    pub names_cpu: bool,
    /// Whether the memory was named.
    pub names_memory: bool,
    /// Whether the workers were named.
    pub names_workers: bool,
    /// Between which the planner may move the workers: books with such a number are as told.
    pub workers_planned: RangeInclusive<u64>,
    /// Whether books with others are changed, rather than refused.
    pub resize: bool,
}

impl Totals {
    /// Totals that are named, and change books with others.
    #[must_use]
    pub const fn fixed(capacity: Resources) -> Self {
        let workers_planned = capacity.workers..=capacity.workers;
        Self { capacity, names_cpu: true, names_memory: true, names_workers: true, workers_planned, resize: true }
    }

    /// The capacity to go on with, given that of the books.
    fn reconciled(&self, books: Resources) -> Result<Resources, StartError> {
        let told = self.capacity;
        let mut capacity = books;
        if self.names_cpu && told.cpu_millis != books.cpu_millis {
            self.refuse("total_cpu", &told.cpu_millis, &books.cpu_millis)?;
            capacity.cpu_millis = told.cpu_millis;
        }
        if self.names_memory && told.memory_mb != books.memory_mb {
            self.refuse("total_memory", &told.memory_mb, &books.memory_mb)?;
            capacity.memory_mb = told.memory_mb;
        }
        if self.names_workers && told.workers != books.workers && !self.workers_planned.contains(&books.workers) {
            self.refuse("total_workers", &told.workers, &books.workers)?;
            capacity.workers = told.workers;
        }
        Ok(capacity)
    }

    fn refuse(&self, setting: &'static str, told: &dyn ToString, books: &dyn ToString) -> Result<(), StartError> {
        if self.resize {
            return Ok(());
        }
        Err(StartError::OtherTotals { setting, told: told.to_string(), books: books.to_string() })
    }
}

/// Why the engine did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The state has other totals than this start was told.
    #[error(
        "{setting} is {told}, and the state has {books}: leave {setting} out to go on with {books}, \
         or give --resize yes to change the state"
    )]
    OtherTotals {
        /// The key of the setting.
        setting: &'static str,
        /// What it was told.
        told: String,
        /// What the state has.
        books: String,
    },
    /// The books cannot be kept as told.
    #[error("the state cannot be kept within these settings")]
    Books(#[source] EngineError),
}

impl<J: Journal> Engine<J> {
    /// Starts with the books of a journal, and gives the first handle to the engine.
    ///
    /// # Errors
    /// [`StartError`], if the journal cannot be used, or its books and the options do not go together.
    pub async fn start(
        options: EngineOptions,
        mut journal: J,
        mut clock: EngineClock,
    ) -> Result<(Self, EngineHandle), StartError> {
        let Recovered { books, last_at } = journal.load().await?;
        if let Some(last_at) = last_at {
            clock.resume(last_at);
        }
        let (sender, messages) = mpsc::channel(MESSAGES_WAITING_MAX);
        let (changes, _) = broadcast::channel(CHANGES_WAITING_MAX);
        let wake = Arc::new(Notify::new());
        let handle = EngineHandle::new(sender, changes.clone(), Arc::clone(&wake));
        let mut engine = Self {
            journal,
            cluster: books,
            clock,
            worker_size: options.worker_size,
            history_age: options.history_age,
            outage_grace: options.outage_grace,
            close_within: options.close_within,
            refusals: Refusals::default(),
            draws: RandomState::new(),
            drawn: 0,
            requests: RequestsSeen::default(),
            demand: DemandCounter::default(),
            replan_triggers: ReplanTriggers::default(),
            wake,
            repeated: VecDeque::new(),
            messages,
            changes,
            batch: Batch::default(),
            orphans: Vec::new(),
            outage: None,
            waiting: Waiting::default(),
            real: Real::default(),
        };
        let now = engine.clock.read().now;
        let held = engine.cluster.capacity(now).total;
        let capacity = if last_at.is_some() { options.totals.reconciled(held)? } else { options.totals.capacity };
        let set_limits = Command::SetLimits(options.limits);
        let set_capacity = Command::SetCapacity { node: NodeId::local(), capacity };
        // Books in which there never was a fleet have no budget either; one of nothing is a budget.
        let budget = engine.cluster.fleet_outline().map(|_| engine.cluster.usage(now, options.worker_size).tokens);
        let (tokens, window) = options.token_budget.changes(budget.as_ref(), options.totals.resize);
        let set_fleet = Command::Fleet(FleetCommand::SetSettings(options.fleet));
        let set_budget = Command::Fleet(FleetCommand::SetTokenBudget { job: None, tokens, window });
        for command in [set_limits, set_capacity, set_fleet, set_budget] {
            engine.execute(now, &command).map_err(StartError::Books)?;
        }
        engine.finish_halves(now).map_err(StartError::Books)?;
        let leases = engine.cluster.capacity(now).live_allocations;
        let running_tasks = engine.cluster.usage(now, options.worker_size).queue.running;
        if let Some(last_at) = last_at
            && leases + running_tasks > 0
        {
            let away_seconds = now.since(last_at).as_seconds();
            tracing::info!(
                leases,
                running_tasks,
                away_seconds,
                grace_seconds = options.outage_grace.as_seconds(),
                "leases go on: those that ran out meanwhile are spared for the grace"
            );
            engine.note_outage(now, Outage { since: last_at, grace: options.outage_grace });
        }
        // Nobody could beat while nothing ran.
        engine.cluster.presume_alive(now);
        engine.cluster.observe(now);
        engine.replan_triggers = engine.cluster.replan_triggers();
        engine.commit().await?;
        Ok((engine, handle))
    }

    /// Ends what was about to begin or to end when the last life of the books did: what really stood behind it is gone with
    /// that life, and nobody waits for it any more.
    fn finish_halves(&mut self, now: Timestamp) -> Result<(), EngineError> {
        let in_state = |engine: &Self, state| {
            let filter = Filter { state: Some(state), job: None };
            let views = engine.cluster.list(now, &filter, FencingToken::new(0));
            views.map(|view| view.allocation.reservation.allocation).collect::<Vec<_>>()
        };
        for allocation in in_state(self, State::Pending) {
            let error = Arc::from("the manager was started anew before it was ready: request resources anew");
            self.execute(now, &Command::FailActivation { allocation, error })?;
        }
        for allocation in in_state(self, State::Releasing) {
            self.execute(now, &Command::FinishRelease { allocation })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cortex_core::fleet::view::BudgetUsage;

    #[test]
    fn a_budget_in_the_books_stands_unless_another_is_named_and_they_shall_change() {
        let books = |total, window_seconds| {
            Some(TokenUsage {
                all: BudgetUsage { total, ..BudgetUsage::default() },
                window: Millis::from_seconds(window_seconds),
                refills_at: None,
                mean_per_task: None,
                jobs: Vec::new(),
            })
        };
        let told = |names_tokens, names_window| TokenBudget {
            tokens: 500,
            window: Millis::from_seconds(60),
            names_tokens,
            names_window,
        };
        let check = |told: TokenBudget, books: Option<TokenUsage>, resize, tokens, window_seconds: Option<u64>| {
            let expected = (tokens, window_seconds.map(Millis::from_seconds));
            assert_eq!(told.changes(books.as_ref(), resize), expected, "{told:?} on {books:?}, resize {resize}");
        };
        for resize in [false, true] {
            check(told(false, false), None, resize, Some(500), Some(60));
            // A default changes nothing, and neither does what is so already.
            check(told(false, false), books(700, 30), resize, None, None);
            check(told(true, true), books(500, 60), resize, None, None);
            check(told(false, false), books(0, 0), resize, None, None);
        }
        check(told(true, true), books(700, 30), false, None, None);
        check(told(true, true), books(700, 30), true, Some(500), Some(60));
        check(told(true, false), books(700, 30), true, Some(500), None);
        check(told(true, true), books(500, 30), true, None, Some(60));
    }
}
