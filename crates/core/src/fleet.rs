//! The fleet: agents, the tasks they are handed, and the tokens that these take.
//!
//! It is one part of the same books: an agent takes a worker slot of the same ledger as allocations, a task in an agent's
//! hands is a lease with a token of the same sequence, and [`super::Cluster::apply`] is the only thing that changes what lasts.
//! What does not last lies in `Volatile`: when agents were heard of, and what follows from that.
//!
//! What always holds, checked by [`super::check::violations`]: a task is in one state, and held by at most one agent; no
//! agent holds more than it may; what is reserved and settled stays within the budget but for booked overruns.

pub mod agent;
mod apply;
mod balance;
mod check;
mod choice;
pub mod command;
mod conservation;
mod decide;
pub mod estimate;
pub mod health;
pub mod image;
mod pulses;
mod queue;
mod read;
pub mod replan_triggers;
pub mod settings;
pub mod task;
mod tokens;
pub mod view;

pub(super) use check::{agents_take, fleet_violations};

use super::ids::{AgentId, AgentType, AllocationId, FencingToken, TaskNumber};
use super::sequence_index::SequenceIndex;
use super::table::{Slot, Table};
use super::time::Timestamp;
use agent::Agent;
use conservation::Plan;
use estimate::Experience;
use pulses::Pulses;
use queue::Queue;
use settings::FleetSettings;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::OnceLock;
use task::TaskRecord;
use tokens::Tokens;

/// What is no part of the books: any two are as good as each other.
#[derive(Clone, Debug, Default)]
struct Volatile<T>(T);

impl<T> PartialEq for Volatile<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T> Eq for Volatile<T> {}

/// The books of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fleet {
    settings: FleetSettings,
    agents: Table<Agent>,
    /// The same by their ids, in order.
    agents_by_id: BTreeMap<AgentId, Slot>,
    /// The agents that are workers of an allocation.
    by_allocation: BTreeMap<AllocationId, BTreeSet<Slot>>,
    /// How many agents of each type there are.
    types: BTreeMap<AgentType, u64>,
    /// How many agents ever registered.
    registered: u64,
    /// How many there may be in all, if that was set.
    quota: Option<u64>,
    /// How many there may be of a type.
    quotas: BTreeMap<AgentType, u64>,

    tasks: Table<TaskRecord>,
    /// The same in the order in which they came.
    tasks_by_number: SequenceIndex<TaskNumber>,
    next_task: TaskNumber,
    queue: Queue,
    /// The running tasks, by the nominal deadline of their lease.
    leases: BTreeMap<(Timestamp, FencingToken), Slot>,
    /// The ended ones in the order in which they ended.
    ended: VecDeque<Slot>,
    /// How many of them completed, failed and were cancelled.
    ended_counts: [u64; 3],
    /// How many bytes the texts of open and of ended tasks take.
    open_bytes: u64,
    ended_bytes: u64,

    tokens: Tokens,
    experience: Experience,

    /// How many agents were lost since these books were opened.
    lost: Volatile<u64>,
    pulses: Volatile<Pulses>,
    /// What tokens are kept for, worked out when it is first asked for after a change.
    plan: Volatile<OnceLock<Option<Plan>>>,
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
            tokens: Tokens::default(),
            experience: Experience::default(),
            lost: Volatile::default(),
            pulses: Volatile::default(),
            plan: Volatile::default(),
        }
    }
}

impl Fleet {
    /// What tokens are kept for; nothing while there are plenty.
    fn plan(&self) -> Option<&Plan> {
        let make = || {
            let is_on = self.tokens.is_conserving();
            is_on.then(|| Plan::new(&self.queue, &self.tokens, &self.pulses.0.balance))
        };
        self.plan.0.get_or_init(make).as_ref()
    }

    /// How many tasks are open.
    fn open(&self) -> u64 {
        self.queue.len() + self.leases.len() as u64
    }

    /// Whether any agent is a worker of this allocation.
    pub(super) fn has_agents_of(&self, allocation: AllocationId) -> bool {
        self.by_allocation.contains_key(&allocation)
    }
}
