//! An index over live and ended items by their sequence numbers: allocations by fencing token, tasks by task number.
//!
//! Numbers are given consecutively, so items of similar age share a page. Ending an item costs one bit here, where
//! two trees of live and ended items would each have to be searched and changed.

use super::ids::{FencingToken, TaskNumber};
use super::table::Slot;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

/// A number that is given once and is larger than every one before.
pub(super) trait Numbered: Copy {
    fn of(number: u64) -> Self;

    fn number(self) -> u64;
}

impl Numbered for FencingToken {
    fn of(number: u64) -> Self {
        Self::new(number)
    }

    fn number(self) -> u64 {
        self.as_u64()
    }
}

impl Numbered for TaskNumber {
    fn of(number: u64) -> Self {
        Self::new(number)
    }

    fn number(self) -> u64 {
        self.as_u64()
    }
}

/// The numbers of a page: one for each bit of its sets.
const PAGE_NUMBERS: u64 = u64::BITS as u64;

/// Which items to iterate over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LiveFilter {
    pub(super) live: bool,
    pub(super) ended: bool,
}

impl LiveFilter {
    pub(super) const LIVE: Self = Self { live: true, ended: false };
    pub(super) const ENDED: Self = Self { live: false, ended: true };
    pub(super) const ALL: Self = Self { live: true, ended: true };
}

/// The slots of all items, oldest first.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct SequenceIndex<K> {
    /// The pages that are not empty, by their first number divided by [`PAGE_NUMBERS`].
    pages: BTreeMap<u64, Box<Page>>,
    live: u64,
    ended: u64,
    key: PhantomData<K>,
}

impl<K> Default for SequenceIndex<K> {
    fn default() -> Self {
        Self { pages: BTreeMap::new(), live: 0, ended: 0, key: PhantomData }
    }
}

impl<K> fmt::Debug for SequenceIndex<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SequenceIndex").field("pages", &self.pages).finish_non_exhaustive()
    }
}

/// A range of consecutive numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Page {
    /// The set of live items: a bit for each number.
    live: u64,
    /// The set of ended items.
    ended: u64,
    /// The slots of the numbers that are in one of the sets.
    slots: [Slot; PAGE_NUMBERS as usize],
}

impl Page {
    const EMPTY: Self = Self { live: 0, ended: 0, slots: [Slot::FIRST; PAGE_NUMBERS as usize] };

    const fn set(&self, filter: LiveFilter) -> u64 {
        (if filter.live { self.live } else { 0 }) | (if filter.ended { self.ended } else { 0 })
    }
}

impl<K: Numbered> SequenceIndex<K> {
    pub(super) const fn live(&self) -> u64 {
        self.live
    }

    pub(super) const fn ended(&self) -> u64 {
        self.ended
    }

    /// Adds a live item.
    pub(super) fn insert(&mut self, number: K, slot: Slot) {
        let (page, position) = position(number);
        let page = self.pages.entry(page).or_insert_with(|| Box::new(Page::EMPTY));
        page.live |= 1 << position;
        page.slots[position] = slot;
        self.live += 1;
    }

    /// Moves a live item to the ended ones.
    pub(super) fn end(&mut self, number: K) {
        let (page, position) = position(number);
        let Some(page) = self.pages.get_mut(&page) else { return };
        page.live &= !(1 << position);
        page.ended |= 1 << position;
        self.live -= 1;
        self.ended += 1;
    }

    /// Removes an ended item.
    pub(super) fn forget(&mut self, number: K) {
        let (first, position) = position(number);
        let Some(page) = self.pages.get_mut(&first) else { return };
        page.ended &= !(1 << position);
        // Equal states must have equal pages, including unused slots.
        page.slots[position] = Slot::FIRST;
        self.ended -= 1;
        if page.set(LiveFilter::ALL) == 0 {
            self.pages.remove(&first);
        }
    }

    /// Returns the slot of the item with this number.
    pub(super) fn get(&self, number: K) -> Option<Slot> {
        let (page, position) = position(number);
        let page = self.pages.get(&page)?;
        (page.set(LiveFilter::ALL) & (1 << position) != 0).then(|| page.slots[position])
    }

    /// Returns the items from this number on, oldest first. Items that the filter excludes cost little: they are
    /// skipped a page at a time.
    pub(super) fn since(&self, from: K, filter: LiveFilter) -> impl Iterator<Item = (K, Slot)> + '_ {
        let (first_page, first_position) = position(from);
        self.pages.range(first_page..).flat_map(move |(number, page)| {
            let skipped = if *number == first_page { first_position } else { 0 };
            let mut left = page.set(filter) >> skipped << skipped;
            std::iter::from_fn(move || {
                let position = left.trailing_zeros();
                // Clears the lowest bit. At the end of the page no bit is left.
                left &= left.checked_sub(1)?;
                Some((K::of(number * PAGE_NUMBERS + u64::from(position)), page.slots[position as usize]))
            })
        })
    }

    /// Returns all items that the filter admits, oldest first.
    pub(super) fn iter(&self, filter: LiveFilter) -> impl Iterator<Item = (K, Slot)> + '_ {
        self.since(K::of(0), filter)
    }

    /// Returns whether the counts match the pages, no page is empty, and nothing is both live and ended.
    pub(super) fn is_sound(&self) -> bool {
        let count = |filter| self.pages.values().map(|page| u64::from(page.set(filter).count_ones())).sum::<u64>();
        self.live == count(LiveFilter::LIVE)
            && self.ended == count(LiveFilter::ENDED)
            && self.pages.values().all(|page| page.set(LiveFilter::ALL) != 0 && page.live & page.ended == 0)
    }
}

/// Returns the page of a number and the position within the page.
fn position(number: impl Numbered) -> (u64, usize) {
    (number.number() / PAGE_NUMBERS, (number.number() % PAGE_NUMBERS) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iteration_is_in_order_from_the_given_number_on() {
        let mut index = SequenceIndex::<FencingToken>::default();
        let empty = index.clone();
        for token in [1, 5, 63, 64, 200] {
            index.insert(FencingToken::new(token), Slot::FIRST);
        }
        index.end(FencingToken::new(5));
        index.end(FencingToken::new(64));
        assert_eq!((index.live(), index.ended()), (3, 2));
        let check = |from, filter, expected: &[u64]| {
            let walked: Vec<_> =
                index.since(FencingToken::new(from), filter).map(|(token, _)| token.as_u64()).collect();
            assert_eq!(walked, expected, "{filter:?} from {from}");
        };
        check(0, LiveFilter::ALL, &[1, 5, 63, 64, 200]);
        check(0, LiveFilter::LIVE, &[1, 63, 200]);
        check(0, LiveFilter::ENDED, &[5, 64]);
        check(5, LiveFilter::ALL, &[5, 63, 64, 200]);
        check(64, LiveFilter::ALL, &[64, 200]);
        check(65, LiveFilter::ALL, &[200]);
        check(u64::MAX, LiveFilter::ALL, &[]);
        for token in [1, 63, 200] {
            index.end(FencingToken::new(token));
        }
        for token in [1, 5, 63, 64, 200] {
            assert!(index.is_sound());
            index.forget(FencingToken::new(token));
        }
        assert_eq!(index, empty);
    }
}
