//! What is live and what has ended by age: allocations by their fencing tokens, tasks by their numbers.
//!
//! Numbers are given one after the other, so that neighbours in age fit into pages of neighbouring numbers: what a lease's
//! end costs here is one bit, where trees of the live and of the ended would each have to be searched and reordered.

use super::ids::{FencingToken, TaskNumber};
use super::table::Slot;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

/// A number that is given once, larger than every one before.
pub(super) trait Numbered: Copy {
    /// The one with this number.
    fn of(number: u64) -> Self;

    /// Its number.
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

/// How many numbers a page is for: one for each bit of its sets.
const PAGE_NUMBERS: u64 = u64::BITS as u64;

/// Which allocations to walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Which {
    pub(super) live: bool,
    pub(super) ended: bool,
}

impl Which {
    pub(super) const LIVE: Self = Self { live: true, ended: false };
    pub(super) const ENDED: Self = Self { live: false, ended: true };
    pub(super) const ALL: Self = Self { live: true, ended: true };
}

/// The slots of all that is in the books, oldest first.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Ages<K> {
    /// The pages that have any, by their first number divided by [`PAGE_NUMBERS`].
    pages: BTreeMap<u64, Box<Page>>,
    live: u64,
    ended: u64,
    key: PhantomData<K>,
}

impl<K> Default for Ages<K> {
    fn default() -> Self {
        Self { pages: BTreeMap::new(), live: 0, ended: 0, key: PhantomData }
    }
}

impl<K> fmt::Debug for Ages<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ages").field("pages", &self.pages).finish_non_exhaustive()
    }
}

/// A run of neighbouring numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Page {
    /// Which are live: a bit for each number.
    live: u64,
    /// Which have ended.
    ended: u64,
    /// Where they are, if they are in one of the sets.
    slots: [Slot; PAGE_NUMBERS as usize],
}

impl Page {
    const EMPTY: Self = Self { live: 0, ended: 0, slots: [Slot::FIRST; PAGE_NUMBERS as usize] };

    const fn set(&self, which: Which) -> u64 {
        (if which.live { self.live } else { 0 }) | (if which.ended { self.ended } else { 0 })
    }
}

impl<K: Numbered> Ages<K> {
    /// How many are live.
    pub(super) const fn live(&self) -> u64 {
        self.live
    }

    /// How many have ended.
    pub(super) const fn ended(&self) -> u64 {
        self.ended
    }

    /// Notes something live.
    pub(super) fn insert(&mut self, number: K, slot: Slot) {
        let (page, place) = place(number);
        let page = self.pages.entry(page).or_insert_with(|| Box::new(Page::EMPTY));
        page.live |= 1 << place;
        page.slots[place] = slot;
        self.live += 1;
    }

    /// Notes that something live has ended.
    pub(super) fn end(&mut self, number: K) {
        let (page, place) = place(number);
        let Some(page) = self.pages.get_mut(&page) else { return };
        page.live &= !(1 << place);
        page.ended |= 1 << place;
        self.live -= 1;
        self.ended += 1;
    }

    /// Drops something that had ended.
    pub(super) fn forget(&mut self, number: K) {
        let (first, place) = place(number);
        let Some(page) = self.pages.get_mut(&first) else { return };
        page.ended &= !(1 << place);
        // Equal books have equal pages, in what is not used too.
        page.slots[place] = Slot::FIRST;
        self.ended -= 1;
        if page.set(Which::ALL) == 0 {
            self.pages.remove(&first);
        }
    }

    /// The slot of what has this number, if it is in the books.
    pub(super) fn get(&self, number: K) -> Option<Slot> {
        let (page, place) = place(number);
        let page = self.pages.get(&page)?;
        (page.set(Which::ALL) & (1 << place) != 0).then(|| page.slots[place])
    }

    /// Those from this number on, oldest first. What is not asked for costs little: it is passed over by the page.
    pub(super) fn since(&self, from: K, which: Which) -> impl Iterator<Item = (K, Slot)> + '_ {
        let (first_page, first_place) = place(from);
        self.pages.range(first_page..).flat_map(move |(number, page)| {
            let skipped = if *number == first_page { first_place } else { 0 };
            let mut left = page.set(which) >> skipped << skipped;
            std::iter::from_fn(move || {
                let place = left.trailing_zeros();
                // Clears the lowest bit; there is none at the end of the page.
                left &= left.checked_sub(1)?;
                Some((K::of(number * PAGE_NUMBERS + u64::from(place)), page.slots[place as usize]))
            })
        })
    }

    /// All of them, oldest first.
    pub(super) fn iter(&self, which: Which) -> impl Iterator<Item = (K, Slot)> + '_ {
        self.since(K::of(0), which)
    }

    /// Whether the counts are those of the pages, none is empty, and nothing is both live and ended.
    pub(super) fn is_sound(&self) -> bool {
        let count = |which| self.pages.values().map(|page| u64::from(page.set(which).count_ones())).sum::<u64>();
        self.live == count(Which::LIVE)
            && self.ended == count(Which::ENDED)
            && self.pages.values().all(|page| page.set(Which::ALL) != 0 && page.live & page.ended == 0)
    }
}

/// The page of a number, and its place there.
fn place(number: impl Numbered) -> (u64, usize) {
    (number.number() / PAGE_NUMBERS, (number.number() % PAGE_NUMBERS) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_are_in_order_and_start_where_they_are_told() {
        let mut ages = Ages::<FencingToken>::default();
        let empty = ages.clone();
        for token in [1, 5, 63, 64, 200] {
            ages.insert(FencingToken::new(token), Slot::FIRST);
        }
        ages.end(FencingToken::new(5));
        ages.end(FencingToken::new(64));
        assert_eq!((ages.live(), ages.ended()), (3, 2));
        let check = |from, which, expected: &[u64]| {
            let walked: Vec<_> = ages.since(FencingToken::new(from), which).map(|(token, _)| token.as_u64()).collect();
            assert_eq!(walked, expected, "{which:?} from {from}");
        };
        check(0, Which::ALL, &[1, 5, 63, 64, 200]);
        check(0, Which::LIVE, &[1, 63, 200]);
        check(0, Which::ENDED, &[5, 64]);
        check(5, Which::ALL, &[5, 63, 64, 200]);
        check(64, Which::ALL, &[64, 200]);
        check(65, Which::ALL, &[200]);
        check(u64::MAX, Which::ALL, &[]);
        for token in [1, 63, 200] {
            ages.end(FencingToken::new(token));
        }
        for token in [1, 5, 63, 64, 200] {
            assert!(ages.is_sound());
            ages.forget(FencingToken::new(token));
        }
        assert_eq!(ages, empty);
    }
}
