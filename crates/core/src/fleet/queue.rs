//! The queue: waiting tasks in lanes. The tasks of a lane have the same selector and count towards the same budgets.
//!
//! A lane keeps its tasks in two orders. By rank, the most urgent first: by effective priority, then tasks whose time
//! is short, then in the order of submission. And by cost, the cheapest first within each effective priority; the order
//! by efficiency is merged from these. Both orders change as time passes: [`Queue::observe`] moves each task when its
//! change is due, so that choosing a task never has to visit all of them.

use super::super::ids::{AgentType, BatchKey, JobId, TaskNumber};
use super::super::priority::Priority;
use super::super::table::{Keyed, Slot, Table};
use super::super::time::{Millis, Timestamp};
use super::agent::Capabilities;
use super::task::{Selector, Task};
use foldhash::HashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The number of priorities.
pub(super) const PRIORITY_COUNT: usize = Priority::ALL.len();

/// The time at which a task without a deadline becomes urgent.
const NEVER: Timestamp = Timestamp::from_millis(i64::MAX);

/// A task's position in the order of urgency; the smallest comes first. It is packed into one number, so that a
/// comparison takes one step and a queued task little memory: two bits for the effective priority, inverted so that the
/// highest comes first; then the time at which the task became urgent, [`NEVER`] if it has not; then the 62 low bits of
/// the task's number, which are more than there will ever be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank(u128);

impl Rank {
    const NUMBER_BITS: u32 = 62;
    const LEVEL_SHIFT: u32 = Self::NUMBER_BITS + u64::BITS;

    fn new(level: usize, urgent_since: Timestamp, number: TaskNumber) -> Self {
        let inverted_level = (PRIORITY_COUNT - 1 - level) as u128;
        let urgent_since = u128::from(urgent_since.as_ordered());
        let number = u128::from(number.as_u64()) & ((1 << Self::NUMBER_BITS) - 1);
        Self(inverted_level << Self::LEVEL_SHIFT | urgent_since << Self::NUMBER_BITS | number)
    }

    /// The index of the effective priority.
    fn level(self) -> usize {
        // The shift leaves two bits.
        PRIORITY_COUNT - 1 - (self.0 >> Self::LEVEL_SHIFT) as usize
    }
}

/// A task's position by cost within its lane and effective priority: the estimated tokens, then the task's number.
pub(super) type Cost = (u64, TaskNumber);

/// Identifies a lane: the agents that may take its tasks, and the job whose budget they count towards.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LaneKey {
    pub(super) selector: Selector,
    /// The job, if it has a budget of its own.
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
    /// The number of open tasks in the lane, running ones included.
    pub(super) open: u64,
    /// The sum of the estimated tokens of its waiting tasks.
    pub(super) tokens: u128,
    pub(super) by_rank: BTreeMap<Rank, Slot>,
    /// By the index of the effective priority, so that waiting raises a task's efficiency, too.
    pub(super) by_cost: [BTreeMap<Cost, Slot>; PRIORITY_COUNT],
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

/// The waiting tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Queue {
    pub(super) lanes: Table<Lane>,
    /// The lanes by the agent type that they require; `None` for any type.
    by_type: BTreeMap<Option<AgentType>, BTreeSet<Slot>>,
    /// The numbers of waiting tasks by priority as set, in the order of submission.
    pub(super) waiting: [BTreeSet<TaskNumber>; PRIORITY_COUNT],
    /// The sum of the submission times of the same tasks, in milliseconds since the epoch.
    pub(super) submitted_ms_sum: [i128; PRIORITY_COUNT],
    pub(super) batches: HashMap<BatchKey, Batch>,
    /// When the rank of a waiting task changes next with time.
    rank_changes: BTreeSet<(Timestamp, Slot)>,
    /// The waiting time that raises a task by one priority; zero for never.
    aging: Millis,
    /// The time for which the ranks are computed.
    pub(super) observed_at: Timestamp,
}

impl Queue {
    pub(super) fn new(aging: Millis) -> Self {
        Self {
            lanes: Table::default(),
            by_type: BTreeMap::new(),
            waiting: Default::default(),
            submitted_ms_sum: [0; PRIORITY_COUNT],
            batches: HashMap::default(),
            rank_changes: BTreeSet::new(),
            aging,
            observed_at: Timestamp::MIN,
        }
    }

    /// The number of waiting tasks.
    pub(super) fn len(&self) -> u64 {
        self.waiting.iter().map(|tasks| tasks.len() as u64).sum()
    }

    /// The priority to which waiting until `now` raises a task.
    pub(super) fn effective_priority(&self, task: &Task, now: Timestamp) -> Priority {
        let steps = now.since(task.submitted_at).0.checked_div(self.aging.0).unwrap_or(0);
        let raised = priority_index(task.priority).saturating_add(usize::try_from(steps).unwrap_or(usize::MAX));
        Priority::ALL[raised.min(PRIORITY_COUNT - 1)]
    }

    /// The index of a task's effective priority at the time of the last [`Queue::observe`].
    pub(super) fn effective_level(&self, task: &Task) -> usize {
        priority_index(self.effective_priority(task, self.observed_at))
    }

    /// The rank of a task at the time of the last [`Queue::observe`].
    pub(super) fn rank(&self, task: &Task) -> Rank {
        self.rank_at(task, self.observed_at)
    }

    fn rank_at(&self, task: &Task, now: Timestamp) -> Rank {
        let urgent_since = self.urgent_at(task).filter(|at| *at <= now).unwrap_or(NEVER);
        Rank::new(priority_index(self.effective_priority(task, now)), urgent_since, task.spec.number)
    }

    /// When a task becomes urgent: by its deadline, or because it has waited for [`PRIORITY_COUNT`] steps beyond the
    /// highest priority. Without the latter, a stream of tasks with close deadlines could overtake all others of the
    /// highest priority forever. If it came sooner, a task with a close deadline could not overtake anything once there
    /// is a backlog.
    fn urgent_at(&self, task: &Task) -> Option<Timestamp> {
        let levels = (2 * PRIORITY_COUNT - 1 - priority_index(task.priority)) as u64;
        let waited_at = task.submitted_at.after(Millis(self.aging.0.saturating_mul(levels)));
        let waited_at = (!self.aging.is_zero()).then_some(waited_at);
        [task.urgent_at, waited_at].into_iter().flatten().min()
    }

    /// When the rank of a task changes after `now`.
    fn changes_at(&self, task: &Task, now: Timestamp) -> Option<Timestamp> {
        let is_raised = !self.aging.is_zero() && self.effective_priority(task, now) < Priority::Critical;
        let raised_at = is_raised.then(|| {
            let times = now.since(task.submitted_at).0 / self.aging.0 + 1;
            task.submitted_at.after(Millis(times.saturating_mul(self.aging.0)))
        });
        let urgent_at = self.urgent_at(task).filter(|at| *at > now);
        [raised_at, urgent_at].into_iter().flatten().min().filter(|at| *at > now)
    }

    /// Returns the lane with this key, creating it if necessary, and counts one more open task in it.
    pub(super) fn retain_lane(&mut self, key: &LaneKey) -> Slot {
        let make =
            || Lane { key: key.clone(), open: 0, tokens: 0, by_rank: BTreeMap::new(), by_cost: Default::default() };
        let slot = self.lanes.find_or_insert(key, make);
        self.lanes[slot].open += 1;
        self.by_type.entry(key.selector.agent_type.clone()).or_default().insert(slot);
        slot
    }

    /// Counts one open task less in a lane, and removes the lane after its last one. The task must not be waiting
    /// there.
    pub(super) fn release_lane(&mut self, slot: Slot) {
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

    /// Adds a waiting task to its lane.
    pub(super) fn insert(&mut self, slot: Slot, lane: Slot, task: &Task) {
        let (rank, level, number) = (self.rank(task), self.effective_level(task), task.spec.number);
        let lane = &mut self.lanes[lane];
        lane.tokens += u128::from(task.spec.estimated_tokens);
        lane.by_rank.insert(rank, slot);
        lane.by_cost[level].insert((task.spec.estimated_tokens, number), slot);
        let priority = priority_index(task.priority);
        self.waiting[priority].insert(number);
        self.submitted_ms_sum[priority] += i128::from(task.submitted_at.as_millis());
        if let Some(at) = self.changes_at(task, self.observed_at) {
            self.rank_changes.insert((at, slot));
        }
        if let Some(batch) = &task.spec.request.batch {
            self.batches.entry(batch.clone()).or_default().waiting.insert(rank, slot);
        }
    }

    /// Removes a task from its lane.
    pub(super) fn remove(&mut self, slot: Slot, lane: Slot, task: &Task) {
        let (rank, level, number) = (self.rank(task), self.effective_level(task), task.spec.number);
        let lane = &mut self.lanes[lane];
        lane.tokens -= u128::from(task.spec.estimated_tokens);
        lane.by_rank.remove(&rank);
        lane.by_cost[level].remove(&(task.spec.estimated_tokens, number));
        let priority = priority_index(task.priority);
        self.waiting[priority].remove(&number);
        self.submitted_ms_sum[priority] -= i128::from(task.submitted_at.as_millis());
        if let Some(at) = self.changes_at(task, self.observed_at) {
            self.rank_changes.remove(&(at, slot));
        }
        self.change_batch(task, |batch| batch.waiting.remove(&rank));
    }

    /// Records that a task of a batch runs.
    pub(super) fn add_running(&mut self, slot: Slot, task: &Task) {
        if let Some(batch) = &task.spec.request.batch {
            self.batches.entry(batch.clone()).or_default().running.insert(task.spec.number, slot);
        }
    }

    /// Records that a task of a batch no longer runs.
    pub(super) fn remove_running(&mut self, task: &Task) {
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

    /// Updates ranks and effective priorities to `now`, and returns whether any effective priority changed. The cost is
    /// in proportion to the tasks that change.
    pub(super) fn observe<'a>(&mut self, now: Timestamp, task_at: impl Fn(Slot) -> (&'a Task, Slot)) -> bool {
        let mut is_raised = false;
        if now <= self.observed_at {
            return is_raised;
        }
        while let Some((_, slot)) = self.rank_changes.first().copied().filter(|(at, _)| *at <= now) {
            self.rank_changes.pop_first();
            let (task, lane) = task_at(slot);
            let (before, after) = (self.rank(task), self.rank_at(task, now));
            let lane = &mut self.lanes[lane];
            lane.by_rank.remove(&before);
            lane.by_rank.insert(after, slot);
            if let Some(batch) = task.spec.request.batch.as_ref().and_then(|batch| self.batches.get_mut(batch)) {
                batch.waiting.remove(&before);
                batch.waiting.insert(after, slot);
            }
            if before.level() != after.level() {
                is_raised = true;
                let cost = (task.spec.estimated_tokens, task.spec.number);
                lane.by_cost[before.level()].remove(&cost);
                lane.by_cost[after.level()].insert(cost, slot);
            }
            if let Some(next) = self.changes_at(task, now) {
                self.rank_changes.insert((next, slot));
            }
        }
        self.observed_at = now;
        is_raised
    }

    /// Sets the waiting time that raises a task by one priority.
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

    /// The lanes with waiting tasks for an agent of this type with these capabilities.
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
            .filter(|(_, lane)| !lane.by_rank.is_empty() && capabilities.contains_all(&lane.key.selector.capabilities))
    }

    pub(super) fn all_lanes(&self) -> impl Iterator<Item = (Slot, &Lane)> {
        self.by_type.values().flatten().map(|slot| (*slot, &self.lanes[*slot]))
    }

    /// The number of lanes and of due changes, for `check`.
    pub(super) fn index_sizes(&self) -> (usize, usize) {
        (self.by_type.values().map(BTreeSet::len).sum(), self.rank_changes.len())
    }
}

/// The index of a priority in tables by priority.
pub(super) const fn priority_index(priority: Priority) -> usize {
    match priority {
        Priority::Low => 0,
        Priority::Normal => 1,
        Priority::High => 2,
        Priority::Critical => 3,
    }
}
