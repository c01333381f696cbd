//! Conservation: what the tokens that remain are kept for, once most are used.
//!
//! Tasks are gone through by efficiency, that is by what they are worth for a token, and each that still fits in what is
//! left after those before it is to have its tokens; the others are deferred. Within one level the order of efficiency
//! is that of the cost, so what fits is the beginning of each level's order, and the plan is where it ends. Handing out
//! a task that the plan is for leaves the plan for the others as it is.

use super::super::ids::JobId;
use super::super::table::Slot;
use super::balance::Balance;
use super::queue::{Cost, Lane, PRIORITIES, Queue};
use super::tokens::{Left, Tokens};
use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

/// By what a task's tokens are multiplied to compare what tasks of different levels cost for the same worth, in the order of
/// [`Priority::ALL`](super::super::priority::Priority::ALL): ten over the weights 1, 2, 5 and 10 of the efficiency score
/// that this follows, which are all whole numbers.
const PRICES: [u64; PRIORITIES] = [10, 5, 2, 1];

/// How many bits of a number of a task are held against each other: more than there will ever be.
const NUMBER_BITS: u32 = 58;

/// A task's place in the order of efficiency; the least comes first. It is one number, which is compared in one step: the
/// price, then the level, of which the higher comes first, then the number of the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Efficiency(u128);

impl Efficiency {
    /// The place of a task of a level and cost.
    pub(super) fn new(class: usize, (cost, number): Cost) -> Self {
        // A price takes at most 68 bits and a level two.
        let price = u128::from(cost) * u128::from(PRICES[class]);
        let level = (PRIORITIES - 1 - class) as u128;
        let number = u128::from(number.as_u64()) & ((1 << NUMBER_BITS) - 1);
        Self((price * PRIORITIES as u128 + level) << NUMBER_BITS | number)
    }
}

/// What the tokens that remain are kept for.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The lanes that some agent serves: for the others no tokens are kept.
    served: BTreeSet<Slot>,
    /// The last task that fits, of each level and each job with a budget of its own; nothing if all fit.
    ends: Option<BTreeMap<(Option<JobId>, usize), Cost>>,
}

impl Plan {
    /// The plan for what waits in the lanes that some agent serves. The cost is in proportion to the tasks that fit, unless
    /// all do.
    pub(super) fn new(queue: &Queue, tokens: &Tokens, balance: &Balance) -> Self {
        let is_served = |(_, lane): &(Slot, &Lane)| balance.serves(&lane.key.selector);
        let served: BTreeSet<Slot> = queue.all_lanes().filter(is_served).map(|(slot, _)| slot).collect();
        let lanes = || served.iter().map(|slot| &queue.lanes[*slot]);
        let mut left = tokens.left();
        let all_fit =
            lanes().all(|lane| u64::try_from(lane.tokens).is_ok_and(|tokens| left.take(lane.key.job.as_ref(), tokens)));
        let ends = (!all_fit).then(|| Self::ends(lanes(), tokens.left()));
        Self { served, ends }
    }

    fn ends<'a>(lanes: impl Iterator<Item = &'a Lane>, mut left: Left<'a>) -> BTreeMap<(Option<JobId>, usize), Cost> {
        let mut ends = BTreeMap::new();
        walk_by_efficiency(lanes, |lane, class, cost| {
            let fits = left.take(lane.key.job.as_ref(), cost.0);
            if fits {
                ends.insert((lane.key.job.clone(), class), cost);
            }
            // What is behind it in its lane costs no less, and what is left grows no more.
            fits
        });
        ends
    }

    /// Whether tokens are kept for a task of this lane, level and cost; nothing if no agent serves its lane.
    pub(super) fn admits(&self, slot: Slot, lane: &Lane, class: usize, cost: Cost) -> Option<bool> {
        let fits = |ends: &BTreeMap<_, Cost>| ends.get(&(lane.key.job.clone(), class)).is_some_and(|end| cost <= *end);
        self.served.contains(&slot).then(|| self.ends.as_ref().is_none_or(fits))
    }
}

/// Visits the waiting tasks of lanes in the order of efficiency: the lane of each, the place of its level, and what it
/// costs. A visit tells whether to go on with those behind it in its lane and level.
pub(super) fn walk_by_efficiency<'a>(
    lanes: impl Iterator<Item = &'a Lane>,
    mut visit: impl FnMut(&'a Lane, usize, Cost) -> bool,
) {
    let lanes: Vec<&Lane> = lanes.collect();
    // Those of each lane and level are in order, so that they only have to be merged.
    let mut runs = Vec::with_capacity(lanes.len() * PRIORITIES);
    let mut heads = BinaryHeap::with_capacity(lanes.len() * PRIORITIES);
    for (class, tasks) in lanes.iter().flat_map(|lane| lane.by_cost.iter().enumerate()) {
        let mut costs = tasks.keys().copied();
        let first = costs.next();
        heads.extend(first.map(|first| Reverse((Efficiency::new(class, first), runs.len()))));
        runs.push((first, costs));
    }
    while let Some(mut head) = heads.peek_mut() {
        let Reverse((efficiency, run)) = &mut *head;
        let class = *run % PRIORITIES;
        let (next, rest) = &mut runs[*run];
        let goes_on = next.is_some_and(|cost| visit(lanes[*run / PRIORITIES], class, cost));
        *next = rest.next().filter(|_| goes_on);
        match *next {
            // In its place, which is cheaper than to take it out.
            Some(next) => *efficiency = Efficiency::new(class, next),
            None => drop(PeekMut::pop(head)),
        }
    }
}
