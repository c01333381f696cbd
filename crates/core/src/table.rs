//! A table whose values keep their slots, indexed by a key that is part of the value.
//!
//! Many indexes of the state point to the same record. A slot leads to it directly, where an id would have to be
//! hashed and looked up each time. The index of the keys takes 5 bytes a slot, so that the index of a million records
//! stays in the processor's cache. A freed slot is the first to be used again, while it is still cached. Slots are
//! never returned to the allocator: the table keeps its largest size.

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::ops::{Index, IndexMut};

/// A value with a key that does not change.
pub(super) trait Keyed {
    type Key: Hash + Eq + fmt::Display;

    fn key(&self) -> &Self::Key;
}

/// The position of a value. It is valid only for the table that returned it, until the value is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(u32);

impl Slot {
    /// The slot of the first value.
    pub(super) const FIRST: Self = Self(0);

    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Clone)]
struct Entry<T> {
    /// Kept so that the index can grow and remove entries without reading the keys.
    hash: u64,
    value: T,
}

/// Values in slots. Two tables are equal if they have equal values in the same slots and the same order of free
/// slots.
#[derive(Clone)]
pub(super) struct Table<T> {
    entries: Vec<Option<Entry<T>>>,
    /// The slots without a value. The last one is used first.
    free: Vec<Slot>,
    index: HashTable<Slot>,
    hasher: RandomState,
}

impl<T: Keyed> Table<T> {
    /// Returns the number of values.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// Returns the slot of the value with this key, if there is one.
    pub(super) fn find(&self, key: &T::Key) -> Option<Slot> {
        self.find_hashed(self.hasher.hash_one(key), key)
    }

    /// Returns the value in a slot, if there is one.
    pub(super) fn get(&self, slot: Slot) -> Option<&T> {
        self.entries.get(slot.index())?.as_ref().map(|entry| &entry.value)
    }

    /// Adds a value.
    ///
    /// # Panics
    /// If the table has a value with the same key.
    pub(super) fn insert(&mut self, value: T) -> Slot {
        let hash = self.hasher.hash_one(value.key());
        assert!(self.find_hashed(hash, value.key()).is_none(), "{} exists already", value.key());
        self.insert_hashed(hash, value)
    }

    /// Returns the slot of the value with this key, and adds the value that `make` returns if there is none. That
    /// value must have the key.
    pub(super) fn find_or_insert(&mut self, key: &T::Key, make: impl FnOnce() -> T) -> Slot {
        let hash = self.hasher.hash_one(key);
        self.find_hashed(hash, key).unwrap_or_else(|| self.insert_hashed(hash, make()))
    }

    /// Removes the value from a slot.
    pub(super) fn remove(&mut self, slot: Slot) -> Option<T> {
        let Entry { hash, value } = self.entries.get_mut(slot.index())?.take()?;
        if let Ok(indexed) = self.index.find_entry(hash, |other| *other == slot) {
            indexed.remove();
        }
        self.free.push(slot);
        Some(value)
    }

    /// Returns the number of slots that are neither in use nor on the free list, or on both.
    pub(super) fn leaked_slots(&self) -> usize {
        let is_free = |slot: &Slot| self.get(*slot).is_none();
        let used = self.entries.iter().flatten().count();
        self.free.iter().filter(|slot| !is_free(slot)).count()
            + self.entries.len().abs_diff(used + self.free.len())
            + used.abs_diff(self.index.len())
    }

    fn find_hashed(&self, hash: u64, key: &T::Key) -> Option<Slot> {
        let is_it = |slot: &Slot| {
            let entry = self.entries[slot.index()].as_ref();
            // Most entries that share a tag differ in their hash, so their keys need not be compared.
            entry.is_some_and(|entry| entry.hash == hash && entry.value.key() == key)
        };
        self.index.find(hash, is_it).copied()
    }

    fn insert_hashed(&mut self, hash: u64, value: T) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            // A record takes over 500 bytes, so memory runs out before slots do.
            Slot(u32::try_from(self.entries.len()).unwrap_or_else(|_| panic!("a table holds 2^32 values at most")))
        });
        let entry = Some(Entry { hash, value });
        match self.entries.get_mut(slot.index()) {
            Some(free) => *free = entry,
            None => self.entries.push(entry),
        }
        self.index.insert_unique(hash, slot, |slot| hash_at(&self.entries, *slot));
        slot
    }
}

fn hash_at<T>(entries: &[Option<Entry<T>>], slot: Slot) -> u64 {
    entries[slot.index()].as_ref().map_or(0, |entry| entry.hash)
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new(), index: HashTable::new(), hasher: RandomState::default() }
    }
}

impl<T: Keyed> Index<Slot> for Table<T> {
    type Output = T;

    fn index(&self, slot: Slot) -> &T {
        match &self.entries[slot.index()] {
            Some(entry) => &entry.value,
            None => panic!("{slot:?} is free"),
        }
    }
}

impl<T: Keyed> IndexMut<Slot> for Table<T> {
    fn index_mut(&mut self, slot: Slot) -> &mut T {
        match &mut self.entries[slot.index()] {
            Some(entry) => &mut entry.value,
            None => panic!("{slot:?} is free"),
        }
    }
}

impl<T: PartialEq> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        // Each table has a random hash seed.
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
        let values = self.entries.iter().enumerate().filter_map(|(index, entry)| Some((index, &entry.as_ref()?.value)));
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
        assert_eq!((table.len(), table.leaked_slots()), (3, 0));
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
