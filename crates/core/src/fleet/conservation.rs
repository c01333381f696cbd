//! Token conservation: which waiting tasks the remaining tokens are reserved for once most are used.
//!
//! The plan visits the tasks by efficiency, that is by worth per token. A task whose estimate still fits into the
//! tokens that remain after the tasks before it gets its tokens; the others are deferred. Within one effective
//! priority, the order by efficiency is the order by cost. So the tasks that fit are the first ones of each priority,
//! and the plan only stores where they end. Leasing a task within the plan does not change the plan for the others.

use super::super::ids::JobId;
use super::super::table::Slot;
use super::load_balancer::LoadBalancer;
use super::queue::{Cost, Lane, PRIORITY_COUNT, Queue};
use super::token_budgets::{RemainingTokens, TokenBudgets};
use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

/// The factors that make the costs of different priorities comparable, in the order of
/// [`Priority::ALL`](super::super::priority::Priority::ALL): ten divided by the weights 1, 2, 5 and 10 of the
/// efficiency score that this follows, all of which are integers.
const PRICES: [u64; PRIORITY_COUNT] = [10, 5, 2, 1];

/// How many bits of a task's number are compared: more than there will ever be.
const NUMBER_BITS: u32 = 58;

/// A task's position in the order of efficiency; the smallest comes first. It is packed into one number that is
/// compared in one step: the price, then the effective priority, inverted so that the highest comes first, then the
/// task's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Efficiency(u128);

impl Efficiency {
    /// Returns the position of a task with this index of its effective priority and this cost.
    pub(super) fn new(level: usize, (cost, number): Cost) -> Self {
        // A price takes at most 68 bits and a priority two.
        let price = u128::from(cost) * u128::from(PRICES[level]);
        let inverted_level = (PRIORITY_COUNT - 1 - level) as u128;
        let number = u128::from(number.as_u64()) & ((1 << NUMBER_BITS) - 1);
        Self((price * PRIORITY_COUNT as u128 + inverted_level) << NUMBER_BITS | number)
    }
}

/// Which waiting tasks the remaining tokens are reserved for.
#[derive(Clone, Debug)]
pub(super) struct ConservationPlan {
    /// The lanes that a registered agent may serve. No tokens are reserved for the others.
    served: BTreeSet<Slot>,
    /// The last task that fits, for each job with a budget, or `None` for the tasks without one, and each effective
    /// priority. `None` if all tasks fit.
    cutoffs: Option<BTreeMap<(Option<JobId>, usize), Cost>>,
}

impl ConservationPlan {
    /// Plans for the tasks in the lanes that a registered agent may serve. The cost is in proportion to the tasks that
    /// fit, unless all do.
    pub(super) fn new(queue: &Queue, budgets: &TokenBudgets, load_balancer: &LoadBalancer) -> Self {
        let is_served = |(_, lane): &(Slot, &Lane)| load_balancer.has_eligible(&lane.key.selector);
        let served: BTreeSet<Slot> = queue.all_lanes().filter(is_served).map(|(slot, _)| slot).collect();
        let lanes = || served.iter().map(|slot| &queue.lanes[*slot]);
        let mut remaining = budgets.remaining();
        let all_fit = lanes()
            .all(|lane| u64::try_from(lane.tokens).is_ok_and(|tokens| remaining.take(lane.key.job.as_ref(), tokens)));
        let cutoffs = (!all_fit).then(|| Self::cutoffs(lanes(), budgets.remaining()));
        Self { served, cutoffs }
    }

    fn cutoffs<'a>(
        lanes: impl Iterator<Item = &'a Lane>,
        mut remaining: RemainingTokens<'a>,
    ) -> BTreeMap<(Option<JobId>, usize), Cost> {
        let mut cutoffs = BTreeMap::new();
        walk_by_efficiency(lanes, |lane, level, cost| {
            let fits = remaining.take(lane.key.job.as_ref(), cost.0);
            if fits {
                cutoffs.insert((lane.key.job.clone(), level), cost);
            }
            // The tasks after it in its lane cost at least as much, and the remaining tokens do not grow.
            fits
        });
        cutoffs
    }

    /// Whether tokens are reserved for a task; `None` if no registered agent may serve its lane.
    pub(super) fn admits(&self, slot: Slot, lane: &Lane, level: usize, cost: Cost) -> Option<bool> {
        let fits = |cutoffs: &BTreeMap<_, Cost>| {
            cutoffs.get(&(lane.key.job.clone(), level)).is_some_and(|cutoff| cost <= *cutoff)
        };
        self.served.contains(&slot).then(|| self.cutoffs.as_ref().is_none_or(fits))
    }
}

/// Visits the waiting tasks of lanes by efficiency, with the lane, the index of the effective priority and the cost.
/// `visit` returns whether to continue with the next tasks of the same lane and priority.
pub(super) fn walk_by_efficiency<'a>(
    lanes: impl Iterator<Item = &'a Lane>,
    mut visit: impl FnMut(&'a Lane, usize, Cost) -> bool,
) {
    let lanes: Vec<&Lane> = lanes.collect();
    // The tasks of each lane and priority are sorted, so they only have to be merged.
    let mut runs = Vec::with_capacity(lanes.len() * PRIORITY_COUNT);
    let mut heads = BinaryHeap::with_capacity(lanes.len() * PRIORITY_COUNT);
    for (level, tasks) in lanes.iter().flat_map(|lane| lane.by_cost.iter().enumerate()) {
        let mut costs = tasks.keys().copied();
        let first = costs.next();
        heads.extend(first.map(|first| Reverse((Efficiency::new(level, first), runs.len()))));
        runs.push((first, costs));
    }
    while let Some(mut head) = heads.peek_mut() {
        let Reverse((efficiency, run)) = &mut *head;
        let level = *run % PRIORITY_COUNT;
        let (next, rest) = &mut runs[*run];
        let goes_on = next.is_some_and(|cost| visit(lanes[*run / PRIORITY_COUNT], level, cost));
        *next = rest.next().filter(|_| goes_on);
        match *next {
            // Replacing the head in its position is cheaper than removing and adding.
            Some(next) => *efficiency = Efficiency::new(level, next),
            None => drop(PeekMut::pop(head)),
        }
    }
}
