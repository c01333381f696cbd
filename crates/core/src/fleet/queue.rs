//! The queue: tasks that wait, in lanes of those that the same agents may take.
//!
//! A lane has its tasks in two orders. By rank, the most urgent first: the level that priority and waiting come to, then
//! those whose time has run short, then as they came. And by what they cost, the cheapest first within each level, from
//! which the order of efficiency is merged. Both change as time passes: [`Queue::observe`] moves those tasks that are due,
//! each only when it is, so that choosing one never has to look at all.

use super::super::ids::{AgentType, BatchKey, JobId, TaskNumber};
use super::super::priority::Priority;
use super::super::table::{Keyed, Slot, Table};
use super::super::time::{Millis, Timestamp};
use super::agent::Capabilities;
use super::task::{Selector, Task};
use foldhash::HashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// How many priorities there are.
pub(super) const PRIORITIES: usize = Priority::ALL.len();

/// The last moment there is, at which a task becomes urgent that never does.
const NEVER: Timestamp = Timestamp::from_millis(i64::MAX);

/// A task's place in the order of urgency; the least comes first. It is one number, so that comparing takes one step and a
/// queued task little memory: two bits for the level, of which the higher comes first, then when its time ran short,
/// [`NEVER`] if it has not, then the number of the task, of which 62 bits are more than there will ever be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank(u128);

impl Rank {
    const NUMBER_BITS: u32 = 62;
    const LEVEL_SHIFT: u32 = Self::NUMBER_BITS + u64::BITS;

    fn new(class: usize, urgent_since: Timestamp, number: TaskNumber) -> Self {
        let level = (PRIORITIES - 1 - class) as u128;
        let urgent_since = u128::from(urgent_since.as_ordered());
        let number = u128::from(number.as_u64()) & ((1 << Self::NUMBER_BITS) - 1);
        Self(level << Self::LEVEL_SHIFT | urgent_since << Self::NUMBER_BITS | number)
    }

    /// The place of its level, in tables by priority.
    fn class(self) -> usize {
        // Two bits.
        PRIORITIES - 1 - (self.0 >> Self::LEVEL_SHIFT) as usize
    }
}

/// A task's place among those of its level in its lane, the cheapest first.
pub(super) type Cost = (u64, TaskNumber);

/// Tasks that the same agents may take and the same budgets bound.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LaneKey {
    pub(super) selector: Selector,
    /// Their job, if it has a budget of its own.
    pub(super) job: Option<JobId>,
}

impl fmt::Display for LaneKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the lane {self:?}")
    }
}

/// The waiting tasks of one lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lane {
    pub(super) key: LaneKey,
    /// How many open tasks belong to it, running ones included.
    pub(super) open: u64,
    /// How many tokens its waiting tasks are expected to take, all together.
    pub(super) tokens: u128,
    pub(super) by_rank: BTreeMap<Rank, Slot>,
    /// Of each level, so that waiting raises what a task is worth, too.
    pub(super) by_cost: [BTreeMap<Cost, Slot>; PRIORITIES],
}

impl Keyed for Lane {
    type Key = LaneKey;

    fn key(&self) -> &LaneKey {
        &self.key
    }
}

/// The open tasks of one batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    /// The most urgent first.
    pub(super) waiting: BTreeMap<Rank, Slot>,
    pub(super) running: BTreeMap<TaskNumber, Slot>,
}

/// The tasks that wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Queue {
    pub(super) lanes: Table<Lane>,
    /// The lanes by the type of agents that they are for; nothing for those that are for any.
    by_type: BTreeMap<Option<AgentType>, BTreeSet<Slot>>,
    /// All that wait, by priority, in the order in which they came.
    pub(super) waiting: [BTreeSet<TaskNumber>; PRIORITIES],
    /// The moments at which those of each priority were submitted, in sum.
    pub(super) submitted_sum: [i128; PRIORITIES],
    pub(super) batches: HashMap<BatchKey, Batch>,
    /// When the rank of a task changes next by itself.
    changes: BTreeSet<(Timestamp, Slot)>,
    /// How long a task waits for the next level; zero for ever.
    aging: Millis,
    /// Ranks are those of this moment.
    pub(super) observed: Timestamp,
}

impl Queue {
    pub(super) fn new(aging: Millis) -> Self {
        Self {
            lanes: Table::default(),
            by_type: BTreeMap::new(),
            waiting: Default::default(),
            submitted_sum: [0; PRIORITIES],
            batches: HashMap::default(),
            changes: BTreeSet::new(),
            aging,
            observed: Timestamp::MIN,
        }
    }

    /// How many tasks wait.
    pub(super) fn len(&self) -> u64 {
        self.waiting.iter().map(|tasks| tasks.len() as u64).sum()
    }

    /// The level that a task has come to by waiting until `now`.
    pub(super) fn level(&self, task: &Task, now: Timestamp) -> Priority {
        let raised = now.since(task.submitted_at).0.checked_div(self.aging.0).unwrap_or(0);
        let level = place(task.priority).saturating_add(usize::try_from(raised).unwrap_or(usize::MAX));
        Priority::ALL[level.min(PRIORITIES - 1)]
    }

    /// The place of a task's level at the moment of the last look, in tables by priority.
    pub(super) fn class(&self, task: &Task) -> usize {
        place(self.level(task, self.observed))
    }

    /// The rank of a task at the moment of the last look.
    pub(super) fn rank(&self, task: &Task) -> Rank {
        self.rank_at(task, self.observed)
    }

    fn rank_at(&self, task: &Task, now: Timestamp) -> Rank {
        let urgent_since = self.urgent_at(task).filter(|at| *at <= now).unwrap_or(NEVER);
        Rank::new(place(self.level(task, now)), urgent_since, task.spec.number)
    }

    /// When a task's time runs short: for its deadline, or because it has waited for [`PRIORITIES`] levels above the highest.
    /// Without the latter, a stream of tasks with close deadlines would pass over all others of the highest level for ever; if
    /// it came sooner, such a task could pass over nothing any more once there is a backlog.
    fn urgent_at(&self, task: &Task) -> Option<Timestamp> {
        let levels = (2 * PRIORITIES - 1 - place(task.priority)) as u64;
        let waited_at = task.submitted_at.after(Millis(self.aging.0.saturating_mul(levels)));
        let waited_at = (!self.aging.is_zero()).then_some(waited_at);
        [task.urgent_at, waited_at].into_iter().flatten().min()
    }

    /// When the rank of a task changes after `now`.
    fn changes_at(&self, task: &Task, now: Timestamp) -> Option<Timestamp> {
        let is_raised = !self.aging.is_zero() && self.level(task, now) < Priority::Critical;
        let raised_at = is_raised.then(|| {
            let times = now.since(task.submitted_at).0 / self.aging.0 + 1;
            task.submitted_at.after(Millis(times.saturating_mul(self.aging.0)))
        });
        let urgent_at = self.urgent_at(task).filter(|at| *at > now);
        [raised_at, urgent_at].into_iter().flatten().min().filter(|at| *at > now)
    }

    /// The lane of a task, which is made if there is none, with one open task more.
    pub(super) fn open(&mut self, key: &LaneKey) -> Slot {
        let make =
            || Lane { key: key.clone(), open: 0, tokens: 0, by_rank: BTreeMap::new(), by_cost: Default::default() };
        let slot = self.lanes.find_or_insert(key, make);
        self.lanes[slot].open += 1;
        self.by_type.entry(key.selector.agent_type.clone()).or_default().insert(slot);
        slot
    }

    /// Notes that a task of this lane is not open any more. It must not wait there.
    pub(super) fn close(&mut self, slot: Slot) {
        let lane = &mut self.lanes[slot];
        lane.open -= 1;
        if lane.open > 0 {
            return;
        }
        let Some(lane) = self.lanes.remove(slot) else { return };
        if let Some(lanes) = self.by_type.get_mut(&lane.key.selector.agent_type) {
            lanes.remove(&slot);
            if lanes.is_empty() {
                self.by_type.remove(&lane.key.selector.agent_type);
            }
        }
    }

    /// Lets a task wait in its lane.
    pub(super) fn insert(&mut self, slot: Slot, lane: Slot, task: &Task) {
        let (rank, class, number) = (self.rank(task), self.class(task), task.spec.number);
        let lane = &mut self.lanes[lane];
        lane.tokens += u128::from(task.spec.estimated_tokens);
        lane.by_rank.insert(rank, slot);
        lane.by_cost[class].insert((task.spec.estimated_tokens, number), slot);
        let priority = place(task.priority);
        self.waiting[priority].insert(number);
        self.submitted_sum[priority] += i128::from(task.submitted_at.as_millis());
        if let Some(at) = self.changes_at(task, self.observed) {
            self.changes.insert((at, slot));
        }
        if let Some(batch) = &task.spec.request.batch {
            self.batches.entry(batch.clone()).or_default().waiting.insert(rank, slot);
        }
    }

    /// Takes a task out of its lane.
    pub(super) fn remove(&mut self, slot: Slot, lane: Slot, task: &Task) {
        let (rank, class, number) = (self.rank(task), self.class(task), task.spec.number);
        let lane = &mut self.lanes[lane];
        lane.tokens -= u128::from(task.spec.estimated_tokens);
        lane.by_rank.remove(&rank);
        lane.by_cost[class].remove(&(task.spec.estimated_tokens, number));
        let priority = place(task.priority);
        self.waiting[priority].remove(&number);
        self.submitted_sum[priority] -= i128::from(task.submitted_at.as_millis());
        if let Some(at) = self.changes_at(task, self.observed) {
            self.changes.remove(&(at, slot));
        }
        self.change_batch(task, |batch| batch.waiting.remove(&rank));
    }

    /// Notes that a task of a batch runs.
    pub(super) fn note_running(&mut self, slot: Slot, task: &Task) {
        if let Some(batch) = &task.spec.request.batch {
            self.batches.entry(batch.clone()).or_default().running.insert(task.spec.number, slot);
        }
    }

    /// Notes that a task of a batch does not run any more.
    pub(super) fn note_stopped(&mut self, task: &Task) {
        self.change_batch(task, |batch| batch.running.remove(&task.spec.number));
    }

    fn change_batch(&mut self, task: &Task, change: impl FnOnce(&mut Batch) -> Option<Slot>) {
        let Some(key) = &task.spec.request.batch else { return };
        let Some(batch) = self.batches.get_mut(key) else { return };
        change(batch);
        if batch.waiting.is_empty() && batch.running.is_empty() {
            self.batches.remove(key);
        }
    }

    /// Brings ranks and levels up to `now`, and tells whether any level changed. The cost is in proportion to the tasks
    /// that do.
    pub(super) fn observe<'a>(&mut self, now: Timestamp, task_at: impl Fn(Slot) -> (&'a Task, Slot)) -> bool {
        let mut is_raised = false;
        if now <= self.observed {
            return is_raised;
        }
        while let Some((_, slot)) = self.changes.first().copied().filter(|(at, _)| *at <= now) {
            self.changes.pop_first();
            let (task, lane) = task_at(slot);
            let (before, after) = (self.rank(task), self.rank_at(task, now));
            let lane = &mut self.lanes[lane];
            lane.by_rank.remove(&before);
            lane.by_rank.insert(after, slot);
            if let Some(batch) = task.spec.request.batch.as_ref().and_then(|batch| self.batches.get_mut(batch)) {
                batch.waiting.remove(&before);
                batch.waiting.insert(after, slot);
            }
            if before.class() != after.class() {
                is_raised = true;
                let cost = (task.spec.estimated_tokens, task.spec.number);
                lane.by_cost[before.class()].remove(&cost);
                lane.by_cost[after.class()].insert(cost, slot);
            }
            if let Some(next) = self.changes_at(task, now) {
                self.changes.insert((next, slot));
            }
        }
        self.observed = now;
        is_raised
    }

    /// Lets tasks age otherwise from now on.
    pub(super) fn set_aging<'a>(&mut self, aging: Millis, task_at: impl Fn(Slot) -> (&'a Task, Slot)) {
        if aging == self.aging {
            return;
        }
        let lanes = self.all_lanes();
        let waiting: Vec<Slot> = lanes.flat_map(|(_, lane)| lane.by_rank.values()).copied().collect();
        for slot in &waiting {
            let (task, lane) = task_at(*slot);
            self.remove(*slot, lane, task);
        }
        self.aging = aging;
        for slot in waiting {
            let (task, lane) = task_at(slot);
            self.insert(slot, lane, task);
        }
    }

    /// The lanes with tasks for an agent of this type with these capabilities.
    pub(super) fn lanes_for<'a>(
        &'a self,
        agent_type: &AgentType,
        capabilities: &'a Capabilities,
    ) -> impl Iterator<Item = (Slot, &'a Lane)> {
        let of_any = self.by_type.get(&None);
        let of_type = self.by_type.get(&Some(agent_type.clone()));
        let lanes = of_any.into_iter().chain(of_type).flatten();
        lanes
            .map(|slot| (*slot, &self.lanes[*slot]))
            .filter(|(_, lane)| !lane.by_rank.is_empty() && capabilities.cover(&lane.key.selector.capabilities))
    }

    /// All lanes.
    pub(super) fn all_lanes(&self) -> impl Iterator<Item = (Slot, &Lane)> {
        self.by_type.values().flatten().map(|slot| (*slot, &self.lanes[*slot]))
    }

    /// How many lanes and changes are kept, for the check.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.by_type.values().map(BTreeSet::len).sum(), self.changes.len())
    }
}

/// The place of a priority in tables by priority.
pub(super) const fn place(priority: Priority) -> usize {
    match priority {
        Priority::Low => 0,
        Priority::Normal => 1,
        Priority::High => 2,
        Priority::Critical => 3,
    }
}
