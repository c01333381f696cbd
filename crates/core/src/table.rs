//! A table whose values stay in their slots, found by a key that is part of the value.
//!
//! The books point from many indexes to the same record. By its slot it is reached at once, where an id would have to be
//! hashed and looked up each time. The index of the keys takes 5 bytes for a slot, so that the index of a million records
//! stays in the cache of a processor, and a slot that was freed is the first to be used again, while it is warm. Slots
//! are not given back to the system: the table stays as large as it once had to be.

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::ops::{Index, IndexMut};

/// A value with a key of its own, which does not change.
pub(super) trait Keyed {
    /// The key.
    type Key: Hash + Eq + fmt::Display;

    /// The key of this value.
    fn key(&self) -> &Self::Key;
}

/// Where a value is. It is only good for the table that gave it, until the value is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(u32);

impl Slot {
    /// The slot of the first value.
    pub(super) const FIRST: Self = Self(0);

    pub(super) const fn place(self) -> usize {
        self.0 as usize
    }
}

#[derive(Clone)]
struct Entry<T> {
    /// Kept, so that the index can grow and forget without walking to the keys.
    hash: u64,
    value: T,
}

/// Values in slots. Two tables are equal if they have equal values in the same slots and use the free ones in one order.
#[derive(Clone)]
pub(super) struct Table<T> {
    entries: Vec<Option<Entry<T>>>,
    /// The slots without a value; the last is the first to be used.
    free: Vec<Slot>,
    index: HashTable<Slot>,
    hasher: RandomState,
}

impl<T: Keyed> Table<T> {
    /// How many values there are.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// The slot of the value with this key, if there is one.
    pub(super) fn find(&self, key: &T::Key) -> Option<Slot> {
        self.find_hashed(self.hasher.hash_one(key), key)
    }

    /// The value in a slot, if there is one.
    pub(super) fn get(&self, slot: Slot) -> Option<&T> {
        self.entries.get(slot.place())?.as_ref().map(|entry| &entry.value)
    }

    /// Puts a value into a slot.
    ///
    /// # Panics
    /// If there is one with its key.
    pub(super) fn insert(&mut self, value: T) -> Slot {
        let hash = self.hasher.hash_one(value.key());
        assert!(self.find_hashed(hash, value.key()).is_none(), "{} exists already", value.key());
        self.insert_hashed(hash, value)
    }

    /// The slot of the value with this key, which is made if there is none. What is made must have the key.
    pub(super) fn find_or_insert(&mut self, key: &T::Key, make: impl FnOnce() -> T) -> Slot {
        let hash = self.hasher.hash_one(key);
        self.find_hashed(hash, key).unwrap_or_else(|| self.insert_hashed(hash, make()))
    }

    /// Takes the value out of a slot.
    pub(super) fn remove(&mut self, slot: Slot) -> Option<T> {
        let Entry { hash, value } = self.entries.get_mut(slot.place())?.take()?;
        if let Ok(indexed) = self.index.find_entry(hash, |other| *other == slot) {
            indexed.remove();
        }
        self.free.push(slot);
        Some(value)
    }

    /// How many slots hold no value and are not known as free, or the other way round.
    pub(super) fn lost_slots(&self) -> usize {
        let is_free = |slot: &Slot| self.get(*slot).is_none();
        let used = self.entries.iter().flatten().count();
        self.free.iter().filter(|slot| !is_free(slot)).count()
            + self.entries.len().abs_diff(used + self.free.len())
            + used.abs_diff(self.index.len())
    }

    fn find_hashed(&self, hash: u64, key: &T::Key) -> Option<Slot> {
        let is_it = |slot: &Slot| {
            let entry = self.entries[slot.place()].as_ref();
            // Most of what shares a tag has another hash, and is told apart without a look at the key.
            entry.is_some_and(|entry| entry.hash == hash && entry.value.key() == key)
        };
        self.index.find(hash, is_it).copied()
    }

    fn insert_hashed(&mut self, hash: u64, value: T) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            // At over 500 bytes of books for each, memory ends first.
            Slot(u32::try_from(self.entries.len()).unwrap_or_else(|_| panic!("a table holds 2^32 values at most")))
        });
        let entry = Some(Entry { hash, value });
        match self.entries.get_mut(slot.place()) {
            Some(place) => *place = entry,
            None => self.entries.push(entry),
        }
        self.index.insert_unique(hash, slot, |slot| hash_at(&self.entries, *slot));
        slot
    }
}

fn hash_at<T>(entries: &[Option<Entry<T>>], slot: Slot) -> u64 {
    entries[slot.place()].as_ref().map_or(0, |entry| entry.hash)
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new(), index: HashTable::new(), hasher: RandomState::default() }
    }
}

impl<T: Keyed> Index<Slot> for Table<T> {
    type Output = T;

    fn index(&self, slot: Slot) -> &T {
        match &self.entries[slot.place()] {
            Some(entry) => &entry.value,
            None => panic!("{slot:?} is free"),
        }
    }
}

impl<T: Keyed> IndexMut<Slot> for Table<T> {
    fn index_mut(&mut self, slot: Slot) -> &mut T {
        match &mut self.entries[slot.place()] {
            Some(entry) => &mut entry.value,
            None => panic!("{slot:?} is free"),
        }
    }
}

impl<T: PartialEq> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        // Hashes are seeded by chance in each table.
        self.value == other.value
    }
}

impl<T: PartialEq> PartialEq for Table<T> {
    fn eq(&self, other: &Self) -> bool {
        // The index follows from the entries.
        self.entries == other.entries && self.free == other.free
    }
}

impl<T: Eq> Eq for Table<T> {}

impl<T: fmt::Debug> fmt::Debug for Table<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.entries.iter().enumerate().filter_map(|(place, entry)| Some((place, &entry.as_ref()?.value)));
        f.debug_map().entries(values).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Named(&'static str, u8);

    impl Keyed for Named {
        type Key = &'static str;

        fn key(&self) -> &&'static str {
            &self.0
        }
    }

    #[test]
    fn a_value_stays_in_its_slot_and_a_freed_slot_is_used_first() {
        let mut table = Table::default();
        let slots = ["a", "b", "c"].map(|name| table.insert(Named(name, 0)));
        table[slots[2]].1 = 7;
        assert_eq!(table.remove(slots[1]), Some(Named("b", 0)));
        assert_eq!(table.remove(slots[1]), None);
        assert_eq!(table.find(&"b"), None);
        assert_eq!(table.insert(Named("d", 1)), slots[1]);
        assert_eq!(table.find(&"c").map(|slot| table[slot].1), Some(7));
        assert_eq!((table.len(), table.lost_slots()), (3, 0));
    }

    #[test]
    fn equal_tables_came_by_their_values_in_the_same_way() {
        let table = |names: &[&'static str]| {
            let mut table = Table::default();
            for name in names {
                table.insert(Named(name, 0));
            }
            table
        };
        assert_eq!(table(&["a", "b"]), table(&["a", "b"]));
        assert_ne!(table(&["a", "b"]), table(&["b", "a"]));
    }
}
