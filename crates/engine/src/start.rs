//! The start of the engine: it loads the state from the journal and reconciles it with the configured settings.

use super::batch::Batch;
use super::clock::EngineClock;
use super::error::EngineError;
use super::fleet::WaitingClaims;
use super::outage::Outage;
use super::provisioning_waits::ProvisioningWaits;
use super::refusals::Refusals;
use super::{CHANGES_QUEUED_MAX, Engine, EngineHandle, MESSAGES_QUEUED_MAX};
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
use cortex_core::view::{Filter, RequestCounts};
use cortex_journal::{Journal, JournalError, Recovered};
use std::collections::VecDeque;
use std::hash::RandomState;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{Notify, broadcast, mpsc};

/// The settings of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// The capacity of the node `local`.
    pub totals: Totals,
    /// The CPU and memory of a worker.
    pub worker_size: WorkerSize,
    pub limits: Limits,
    /// How long the record of an ended allocation is kept.
    pub history_age: Millis,
    /// How long the deadlines of leases are extended at least after an outage. The extended deadlines are spread over
    /// the same time again.
    pub outage_grace: Millis,
    /// The bounds and periods of the fleet.
    pub fleet: FleetSettings,
    /// The token budget of the fleet.
    pub token_budget: TokenBudget,
    /// The time limit for closing the journal after the last handle is dropped.
    pub close_within: Duration,
}

impl EngineOptions {
    /// Options for a fixed capacity, with the default of all other settings.
    #[must_use]
    pub fn fixed(capacity: Resources) -> Self {
        Self {
            totals: Totals::fixed(capacity),
            worker_size: WorkerSize { cpu_millis: CpuMillis::from_millis(1_000), memory_mb: MemoryMb(2_048) },
            limits: Limits::default(),
            history_age: Millis::from_seconds(86_400),
            outage_grace: Millis::from_seconds(60),
            fleet: FleetSettings::default(),
            token_budget: TokenBudget::without_window(200_000),
            close_within: Duration::from_secs(5),
        }
    }
}

/// The configured token budget. A state that has a budget keeps it, unless this one was given explicitly and `resize`
/// is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBudget {
    pub tokens: u64,
    /// The period after which the used tokens are reset to 0; zero for never.
    pub window: Millis,
    /// Whether `tokens` was given explicitly, rather than being the default.
    pub are_tokens_explicit: bool,
    /// Whether `window` was given explicitly.
    pub is_window_explicit: bool,
}

impl TokenBudget {
    /// A default budget that is never refilled.
    #[must_use]
    pub const fn without_window(tokens: u64) -> Self {
        Self { tokens, window: Millis(0), are_tokens_explicit: false, is_window_explicit: false }
    }

    /// The tokens and the window to set in a state with this budget. Logs a warning for an explicit value that is
    /// ignored.
    fn changes(&self, stored: Option<&TokenUsage>, resize: bool) -> (Option<u64>, Option<Millis>) {
        let Some(stored) = stored else { return (Some(self.tokens), Some(self.window)) };
        let tokens = Some(self.tokens).filter(|tokens| self.are_tokens_explicit && *tokens != stored.all.total);
        let window = Some(self.window).filter(|window| self.is_window_explicit && *window != stored.window);
        if resize {
            return (tokens, window);
        }
        if let Some(tokens) = tokens {
            warn_ignored("token_budget", tokens, stored.all.total);
        }
        if let Some(window) = window {
            warn_ignored("token_window_seconds", window.as_seconds(), stored.window.as_seconds());
        }
        (None, None)
    }
}

fn warn_ignored(setting: &str, configured: u64, stored: u64) {
    tracing::warn!(
        "{setting} is {configured}, but the state has {stored}, which is used: \
         change it with set_token_budget, or give --resize yes"
    );
}

/// The configured totals of the node `local`, and what to do with a state that has other totals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    pub capacity: Resources,
    /// Whether the CPU was given explicitly, rather than being the default. Only explicit values are compared with the
    /// state.
    pub is_cpu_explicit: bool,
    /// Whether the memory was given explicitly.
    pub is_memory_explicit: bool,
    /// Whether the number of workers was given explicitly.
    pub are_workers_explicit: bool,
    /// The range within which the planner scales the workers. A state with a number in this range is accepted.
    pub workers_scalable: RangeInclusive<u64>,
    /// Whether a state with other totals is changed, rather than refused.
    pub resize: bool,
}

impl Totals {
    /// Explicit totals that change a state with others.
    #[must_use]
    pub const fn fixed(capacity: Resources) -> Self {
        let workers_scalable = capacity.workers..=capacity.workers;
        Self {
            capacity,
            is_cpu_explicit: true,
            is_memory_explicit: true,
            are_workers_explicit: true,
            workers_scalable,
            resize: true,
        }
    }

    /// The capacity to use with a state that has the capacity `stored`.
    fn reconciled(&self, stored: Resources) -> Result<Resources, StartError> {
        let configured = self.capacity;
        let mut capacity = stored;
        if self.is_cpu_explicit && configured.cpu_millis != stored.cpu_millis {
            self.check_resize("total_cpu", &configured.cpu_millis, &stored.cpu_millis)?;
            capacity.cpu_millis = configured.cpu_millis;
        }
        if self.is_memory_explicit && configured.memory_mb != stored.memory_mb {
            self.check_resize("total_memory", &configured.memory_mb, &stored.memory_mb)?;
            capacity.memory_mb = configured.memory_mb;
        }
        let are_workers_accepted =
            configured.workers == stored.workers || self.workers_scalable.contains(&stored.workers);
        if self.are_workers_explicit && !are_workers_accepted {
            self.check_resize("total_workers", &configured.workers, &stored.workers)?;
            capacity.workers = configured.workers;
        }
        Ok(capacity)
    }

    fn check_resize(
        &self,
        setting: &'static str,
        configured: &dyn ToString,
        stored: &dyn ToString,
    ) -> Result<(), StartError> {
        if self.resize {
            return Ok(());
        }
        let (configured, stored) = (configured.to_string(), stored.to_string());
        Err(StartError::TotalsMismatch { setting, configured, stored })
    }
}

/// Why the engine did not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The state has other totals than the settings.
    #[error(
        "{setting} is {configured}, and the state has {stored}: omit {setting} to keep {stored}, \
         or give --resize yes to change the state"
    )]
    TotalsMismatch { setting: &'static str, configured: String, stored: String },
    /// The state does not fit the settings, for example because more is leased than the new totals have.
    #[error("the state does not fit these settings")]
    Settings(#[source] EngineError),
}

impl<J: Journal> Engine<J> {
    /// Loads the state of a journal and returns the engine with its first handle.
    ///
    /// # Errors
    /// Returns [`StartError`] if the journal cannot be used, or its state does not fit the options.
    pub async fn start(
        options: EngineOptions,
        mut journal: J,
        mut clock: EngineClock,
    ) -> Result<(Self, EngineHandle), StartError> {
        let Recovered { cluster, last_at } = journal.load().await?;
        if let Some(last_at) = last_at {
            clock.resume(last_at);
        }
        let (sender, messages) = mpsc::channel(MESSAGES_QUEUED_MAX);
        let (changes, _) = broadcast::channel(CHANGES_QUEUED_MAX);
        let wake = Arc::new(Notify::new());
        let handle = EngineHandle::new(sender, changes.clone(), Arc::clone(&wake));
        let mut engine = Self {
            journal,
            cluster,
            clock,
            worker_size: options.worker_size,
            history_age: options.history_age,
            outage_grace: options.outage_grace,
            close_within: options.close_within,
            refusals: Refusals::default(),
            random_key: RandomState::new(),
            random_count: 0,
            requests: RequestCounts::default(),
            demand: DemandCounter::default(),
            replan_triggers: ReplanTriggers::default(),
            wake,
            repeated: VecDeque::new(),
            messages,
            changes,
            batch: Batch::default(),
            undelivered: Vec::new(),
            outage: None,
            waiting_claims: WaitingClaims::default(),
            provisioning_waits: ProvisioningWaits::default(),
        };
        let now = engine.clock.read().now;
        let stored = engine.cluster.capacity(now).total;
        let capacity = if last_at.is_some() { options.totals.reconciled(stored)? } else { options.totals.capacity };
        let set_limits = Command::SetLimits(options.limits);
        let set_capacity = Command::SetCapacity { node: NodeId::local(), capacity };
        // A state without a fleet has no budget. A budget of 0 tokens is a budget.
        let budget = engine.cluster.fleet_outline().map(|_| engine.cluster.usage(now, options.worker_size).tokens);
        let (tokens, window) = options.token_budget.changes(budget.as_ref(), options.totals.resize);
        let set_fleet = Command::Fleet(FleetCommand::SetSettings(options.fleet));
        let set_budget = Command::Fleet(FleetCommand::SetTokenBudget { job: None, tokens, window });
        for command in [set_limits, set_capacity, set_fleet, set_budget] {
            engine.execute(now, &command).map_err(StartError::Settings)?;
        }
        engine.finish_transitions(now).map_err(StartError::Settings)?;
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
                "leases resumed: deadlines that passed while no server ran are extended"
            );
            engine.note_outage(now, Outage { since: last_at, grace: options.outage_grace });
        }
        // No agent could send a heartbeat while no engine ran.
        engine.cluster.presume_alive(now);
        engine.cluster.observe(now);
        engine.replan_triggers = engine.cluster.replan_triggers();
        engine.commit().await?;
        Ok((engine, handle))
    }

    /// Fails pending allocations and finishes releasing ones. Their servers and workers ended with the process that ran
    /// them, and no caller waits for them any more.
    fn finish_transitions(&mut self, now: Timestamp) -> Result<(), EngineError> {
        let in_state = |engine: &Self, state| {
            let filter = Filter { state: Some(state), job: None };
            let views = engine.cluster.list(now, &filter, FencingToken::new(0));
            views.map(|view| view.allocation.reservation.allocation).collect::<Vec<_>>()
        };
        for allocation in in_state(self, State::Pending) {
            let error =
                Arc::from("the server restarted before the allocation became active: request the resources again");
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
    fn a_stored_budget_stays_unless_another_is_given_with_resize() {
        let stored = |total, window_seconds| {
            Some(TokenUsage {
                all: BudgetUsage { total, ..BudgetUsage::default() },
                window: Millis::from_seconds(window_seconds),
                refills_at: None,
                mean_per_task: None,
                jobs: Vec::new(),
            })
        };
        let configured = |are_tokens_explicit, is_window_explicit| TokenBudget {
            tokens: 500,
            window: Millis::from_seconds(60),
            are_tokens_explicit,
            is_window_explicit,
        };
        let check = |budget: TokenBudget, stored: Option<TokenUsage>, resize, tokens, window_seconds: Option<u64>| {
            let expected = (tokens, window_seconds.map(Millis::from_seconds));
            assert_eq!(budget.changes(stored.as_ref(), resize), expected, "{budget:?} on {stored:?}, resize {resize}");
        };
        for resize in [false, true] {
            check(configured(false, false), None, resize, Some(500), Some(60));
            // A default changes nothing, and neither does an equal value.
            check(configured(false, false), stored(700, 30), resize, None, None);
            check(configured(true, true), stored(500, 60), resize, None, None);
            check(configured(false, false), stored(0, 0), resize, None, None);
        }
        check(configured(true, true), stored(700, 30), false, None, None);
        check(configured(true, true), stored(700, 30), true, Some(500), Some(60));
        check(configured(true, false), stored(700, 30), true, Some(500), None);
        check(configured(true, true), stored(500, 30), true, None, Some(60));
    }
}
