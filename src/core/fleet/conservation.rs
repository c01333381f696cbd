//! Conservation: what the tokens that remain are kept for, once most are used.
//!
//! Tasks are gone through by efficiency, that is by what they are worth for a token, and each that still fits in what is
//! left after those before it is to have its tokens; the others are deferred. Within one priority the order of efficiency
//! is that of the cost, so what fits is the beginning of each priority's order, and the plan is where it ends. Handing out
//! a task that the plan is for leaves the plan for the others as it is.

use super::super::ids::{JobId, TaskNumber};
use super::super::table::Slot;
use super::balance::Balance;
use super::queue::{Cost, Lane, PRIORITIES, Queue, WEIGHTS};
use super::tokens::Tokens;
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

/// A task's place in the order of efficiency; the least comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Efficiency {
    /// Its priority's place.
    pub(super) class: usize,
    pub(super) cost: u64,
    pub(super) number: TaskNumber,
}

impl Ord for Efficiency {
    fn cmp(&self, other: &Self) -> Ordering {
        // Worth over cost, compared without a division: the more for a token, the earlier. Then the higher priority.
        let own = u128::from(WEIGHTS[self.class]) * u128::from(other.cost);
        let others = u128::from(WEIGHTS[other.class]) * u128::from(self.cost);
        let order = others.cmp(&own).then(other.class.cmp(&self.class));
        order.then(self.cost.cmp(&other.cost)).then(self.number.cmp(&other.number))
    }
}

impl PartialOrd for Efficiency {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What the tokens that remain are kept for.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    /// The last task that fits, of each priority and each job with a budget of its own.
    ends: BTreeMap<(Option<JobId>, usize), Cost>,
    /// The lanes that some agent serves: for the others no tokens are kept.
    served: BTreeSet<Slot>,
}

impl Plan {
    /// The plan for what waits in the lanes that some agent serves. The cost is in proportion to the tasks that fit.
    pub(super) fn new(queue: &Queue, tokens: &Tokens, balance: &Balance) -> Self {
        let is_served = |(_, lane): &(Slot, &Lane)| balance.serves(&lane.key.selector);
        let served: BTreeSet<Slot> = queue.all_lanes().filter(is_served).map(|(slot, _)| slot).collect();
        let mut ends = BTreeMap::new();
        let mut left = tokens.left();
        let mut order = ByEfficiency::new(served.iter().map(|slot| &queue.lanes[*slot]));
        while let Some((lane, Efficiency { class, cost, number })) = order.next() {
            if left.take(lane.key.job.as_ref(), cost) {
                ends.insert((lane.key.job.clone(), class), (cost, number));
            } else {
                // What is behind it in its lane costs no less, and what is left grows no more.
                order.drop_last();
            }
        }
        Self { ends, served }
    }

    /// Whether tokens are kept for a task of this lane, priority and cost; nothing if no agent serves its lane.
    pub(super) fn admits(&self, slot: Slot, lane: &Lane, class: usize, cost: Cost) -> Option<bool> {
        let end = || self.ends.get(&(lane.key.job.clone(), class));
        self.served.contains(&slot).then(|| end().is_some_and(|end| cost <= *end))
    }
}

/// The waiting tasks of lanes in the order of efficiency, merged as far as it is walked.
pub(super) struct ByEfficiency<'a> {
    lanes: Vec<&'a Lane>,
    heads: BinaryHeap<Reverse<(Efficiency, usize)>>,
    /// What follows in each lane and priority.
    rest: Vec<std::collections::btree_map::Keys<'a, Cost, Slot>>,
    /// Where the last task that was given came from.
    last: Option<usize>,
}

impl<'a> ByEfficiency<'a> {
    pub(super) fn new(lanes: impl Iterator<Item = &'a Lane>) -> Self {
        let lanes: Vec<&Lane> = lanes.collect();
        let rest = lanes.iter().flat_map(|lane| lane.by_cost.iter().map(BTreeMap::keys)).collect();
        let mut order = Self { lanes, heads: BinaryHeap::new(), rest, last: None };
        for from in 0..order.rest.len() {
            order.refill(from);
        }
        order
    }

    /// Gives nothing more of where the last task came from.
    pub(super) const fn drop_last(&mut self) {
        self.last = None;
    }

    fn refill(&mut self, from: usize) {
        if let Some((cost, number)) = self.rest[from].next() {
            let efficiency = Efficiency { class: from % PRIORITIES, cost: *cost, number: *number };
            self.heads.push(Reverse((efficiency, from)));
        }
    }
}

impl<'a> Iterator for ByEfficiency<'a> {
    type Item = (&'a Lane, Efficiency);

    fn next(&mut self) -> Option<Self::Item> {
        // Only now, so that `drop_last` can be called in between.
        if let Some(from) = self.last.take() {
            self.refill(from);
        }
        let Reverse((efficiency, from)) = self.heads.pop()?;
        self.last = Some(from);
        Some((self.lanes[from / PRIORITIES], efficiency))
    }
}
