//! Conservation: what the tokens that remain are kept for, once most are used.
//!
//! Tasks are gone through by efficiency, that is by what they are worth for a token, and each that still fits in what is
//! left after those before it is to have its tokens; the others are deferred. Within one level the order of efficiency
//! is that of the cost, so what fits is the beginning of each level's order, and the plan is where it ends. Handing out
//! a task that the plan is for leaves the plan for the others as it is.

use super::super::ids::{JobId, TaskNumber};
use super::super::table::Slot;
use super::balance::Balance;
use super::queue::{Cost, Lane, PRIORITIES, Queue, WEIGHTS};
use super::tokens::Tokens;
use std::cmp::{Ordering, Reverse};
use std::collections::binary_heap::PeekMut;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, btree_map};

/// A task's place in the order of efficiency; the least comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Efficiency {
    /// The place of its level.
    pub(super) class: usize,
    pub(super) cost: u64,
    pub(super) number: TaskNumber,
}

impl Ord for Efficiency {
    fn cmp(&self, other: &Self) -> Ordering {
        // Worth over cost, compared without a division: the more for a token, the earlier. Then the higher level.
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
    /// The last task that fits, of each level and each job with a budget of its own.
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

    /// Whether tokens are kept for a task of this lane, level and cost; nothing if no agent serves its lane.
    pub(super) fn admits(&self, slot: Slot, lane: &Lane, class: usize, cost: Cost) -> Option<bool> {
        let end = || self.ends.get(&(lane.key.job.clone(), class));
        self.served.contains(&slot).then(|| end().is_some_and(|end| cost <= *end))
    }
}

/// The waiting tasks of lanes in the order of efficiency, merged as far as it is walked.
pub(super) struct ByEfficiency<'a> {
    lanes: Vec<&'a Lane>,
    /// The next task of each lane and level, with where it comes from.
    heads: BinaryHeap<Reverse<(Efficiency, usize)>>,
    /// What follows in each lane and level.
    rest: Vec<btree_map::Keys<'a, Cost, Slot>>,
    /// Whether the first of the heads was given already.
    is_given: bool,
}

impl<'a> ByEfficiency<'a> {
    pub(super) fn new(lanes: impl Iterator<Item = &'a Lane>) -> Self {
        let lanes: Vec<&Lane> = lanes.collect();
        let mut rest: Vec<_> = lanes.iter().flat_map(|lane| lane.by_cost.iter().map(BTreeMap::keys)).collect();
        let heads = rest.iter_mut().enumerate().filter_map(|(from, rest)| Some(Reverse((head(from, rest)?, from))));
        Self { heads: heads.collect(), lanes, rest, is_given: false }
    }

    /// Gives nothing more of where the last task came from.
    pub(super) fn drop_last(&mut self) {
        if std::mem::take(&mut self.is_given) {
            self.heads.pop();
        }
    }
}

impl<'a> Iterator for ByEfficiency<'a> {
    type Item = (&'a Lane, Efficiency);

    fn next(&mut self) -> Option<Self::Item> {
        // Only now, so that `drop_last` can be called in between; and in its place, which is cheaper than to take it out.
        if std::mem::take(&mut self.is_given)
            && let Some(mut first) = self.heads.peek_mut()
        {
            let from = first.0.1;
            match head(from, &mut self.rest[from]) {
                Some(next) => first.0.0 = next,
                None => drop(PeekMut::pop(first)),
            }
        }
        let Reverse((efficiency, from)) = self.heads.peek()?;
        self.is_given = true;
        Some((self.lanes[from / PRIORITIES], *efficiency))
    }
}

/// The next task of a lane and level.
fn head(from: usize, rest: &mut btree_map::Keys<'_, Cost, Slot>) -> Option<Efficiency> {
    let (cost, number) = rest.next()?;
    Some(Efficiency { class: from % PRIORITIES, cost: *cost, number: *number })
}
