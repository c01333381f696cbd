//! The fleet: agents, the tasks leased to them, and the tokens that tasks use.
//!
//! The fleet is part of the cluster state. An agent takes a worker slot from the same capacity as allocations, a
//! running task is a lease whose fencing token comes from the same sequence, and [`super::Cluster::apply`] is the only
//! function that changes durable state. Derived and process-local data, such as the times of heartbeats, is wrapped in
//! `Uncompared`.
//!
//! Invariants, checked by [`super::check::violations`]: a task is in one state and held by at most one agent; an agent
//! holds at most `tasks_max` tasks; settled plus reserved tokens stay within the budget, except for recorded overruns.

pub mod agent;
mod apply;
mod check;
pub mod command;
mod conservation;
mod decide;
pub mod health;
mod heartbeats;
pub mod image;
mod load_balancer;
mod matching;
mod queries;
mod queue;
pub mod replan_triggers;
pub mod settings;
pub mod task;
pub mod task_stats;
mod token_budgets;
pub mod view;

pub(super) use check::{agent_resources, fleet_violations};

use super::ids::{AgentId, AgentType, AllocationId, FencingToken, TaskNumber};
use super::sequence_index::SequenceIndex;
use super::table::{Slot, Table};
use super::time::Timestamp;
use agent::Agent;
use conservation::ConservationPlan;
use heartbeats::Heartbeats;
use queue::Queue;
use settings::FleetSettings;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::OnceLock;
use task::TaskRecord;
use task_stats::TaskStats;
use token_budgets::TokenBudgets;

/// Data that is not part of the durable state: any two values compare as equal, so that replicas can be compared with
/// `==`.
#[derive(Clone, Debug, Default)]
struct Uncompared<T>(T);

impl<T> PartialEq for Uncompared<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T> Eq for Uncompared<T> {}

/// The durable state of the fleet, and what is derived from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fleet {
    settings: FleetSettings,
    agents: Table<Agent>,
    /// The slots of the same agents, by id.
    agents_by_id: BTreeMap<AgentId, Slot>,
    /// The agents that are workers of an allocation.
    by_allocation: BTreeMap<AllocationId, BTreeSet<Slot>>,
    /// The number of agents of each type.
    types: BTreeMap<AgentType, u64>,
    /// How many agents ever registered; the next agent's registration number.
    registered: u64,
    /// The maximum number of agents, if one is set.
    quota: Option<u64>,
    /// The maximum number of agents of a type, for the types that have one.
    quotas: BTreeMap<AgentType, u64>,

    tasks: Table<TaskRecord>,
    /// The slots of the same tasks, in the order of submission.
    tasks_by_number: SequenceIndex<TaskNumber>,
    next_task: TaskNumber,
    queue: Queue,
    /// The running tasks by the deadline of their lease, without grace.
    leases: BTreeMap<(Timestamp, FencingToken), Slot>,
    /// The ended tasks on record, in the order in which they ended.
    ended: VecDeque<Slot>,
    /// How many of these completed, failed and were cancelled.
    ended_counts: [u64; 3],
    /// The bytes of text that open tasks and ended tasks hold.
    open_bytes: u64,
    ended_bytes: u64,

    budgets: TokenBudgets,
    task_stats: TaskStats,

    /// How many agents were lost since this process loaded the state.
    lost_count: Uncompared<u64>,
    heartbeats: Uncompared<Heartbeats>,
    /// Which tasks the remaining tokens are reserved for; computed on first use after a change.
    conservation_plan: Uncompared<OnceLock<Option<ConservationPlan>>>,
}

impl Default for Fleet {
    fn default() -> Self {
        let settings = FleetSettings::default();
        Self {
            settings,
            agents: Table::default(),
            agents_by_id: BTreeMap::new(),
            by_allocation: BTreeMap::new(),
            types: BTreeMap::new(),
            registered: 0,
            quota: None,
            quotas: BTreeMap::new(),
            tasks: Table::default(),
            tasks_by_number: SequenceIndex::default(),
            next_task: TaskNumber::FIRST,
            queue: Queue::new(settings.priority_aging_ms),
            leases: BTreeMap::new(),
            ended: VecDeque::new(),
            ended_counts: [0; 3],
            open_bytes: 0,
            ended_bytes: 0,
            budgets: TokenBudgets::default(),
            task_stats: TaskStats::default(),
            lost_count: Uncompared::default(),
            heartbeats: Uncompared::default(),
            conservation_plan: Uncompared::default(),
        }
    }
}

impl Fleet {
    /// Returns the conservation plan, or `None` while tokens are not conserved.
    fn conservation_plan(&self) -> Option<&ConservationPlan> {
        let make = || {
            let is_on = self.budgets.is_conserving();
            is_on.then(|| ConservationPlan::new(&self.queue, &self.budgets, &self.heartbeats.0.load_balancer))
        };
        self.conservation_plan.0.get_or_init(make).as_ref()
    }

    fn open_count(&self) -> u64 {
        self.queue.len() + self.leases.len() as u64
    }

    /// Whether any agent is a worker of this allocation.
    pub(super) fn has_agents_of(&self, allocation: AllocationId) -> bool {
        self.by_allocation.contains_key(&allocation)
    }
}
