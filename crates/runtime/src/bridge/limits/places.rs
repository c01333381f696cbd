//! Whose the connections of an endpoint are.
//!
//! Invariants: at most [`CONNECTIONS_MAX`] have a place, and of one lease no more than its share of them. A connection is
//! of the lease whose token it showed last. Those that showed none yet have a share together; when that is used up the
//! oldest of them gives way, so that nobody is kept out by those who show none.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::share::Shares;
use cortex_core::ids::AllocationId;

/// The most connections of one endpoint.
pub(crate) const CONNECTIONS_MAX: usize = 256;

/// How long one that has shown no token may keep a place that another needs. Those who have one show it at once.
const SHOW_WAIT: Duration = Duration::from_millis(250);

/// How many of them may keep one for that long, so that opening ever more of them does not help.
const SHOWING_MAX: usize = 16;

/// Who shares the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Holder {
    /// All who showed no token yet.
    Stranger,
    Lease(AllocationId),
}

pub(crate) struct Places(Mutex<Books>);

#[derive(Debug)]
struct Books {
    shares: Shares<Holder>,
    /// The oldest first.
    by_number: BTreeMap<u64, Entry>,
    next_number: u64,
}

#[derive(Debug)]
struct Entry {
    /// None where no token is asked for.
    holder: Option<Holder>,
    since: Instant,
    end: Arc<Notify>,
}

/// What a connection is asked to do that is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Its lease has ended: what is answered already may be sent.
    Soon,
    /// Its place is another's by now.
    AtOnce,
}

/// One connection's place, left when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    number: u64,
    end: Arc<Notify>,
}

impl fmt::Debug for Places {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.books().shares.fmt(formatter)
    }
}

impl Places {
    pub(crate) fn new() -> Arc<Self> {
        let books = Books { shares: Shares::new(CONNECTIONS_MAX), by_number: BTreeMap::new(), next_number: 0 };
        Arc::new(Self(Mutex::new(books)))
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection. None if there is none.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Place> {
        let mut books = self.books();
        let holder = Some(Holder::Stranger);
        if !books.shares.may_take(holder, 1) {
            let are_many = books.shares.held(holder) > SHOWING_MAX;
            let (oldest, entry) = books.by_number.iter().find(|(_, entry)| entry.holder == holder)?;
            let gives_way = are_many || entry.since.elapsed() > SHOW_WAIT;
            let oldest = gives_way.then_some(*oldest)?;
            books.leave(oldest);
        }
        let (number, end) = (books.next_number, Arc::new(Notify::new()));
        books.next_number += 1;
        books.shares.add(holder, 1);
        books.by_number.insert(number, Entry { holder, since: Instant::now(), end: Arc::clone(&end) });
        Some(Place { places: Arc::clone(self), number, end })
    }

    /// Ends the connections of a lease.
    pub(crate) fn end(&self, allocation: AllocationId) {
        for entry in self.books().by_number.values().filter(|entry| entry.holder == Some(Holder::Lease(allocation))) {
            entry.end.notify_one();
        }
    }
}

impl Books {
    fn leave(&mut self, number: u64) {
        if let Some(entry) = self.by_number.remove(&number) {
            self.shares.give(entry.holder, 1);
            entry.end.notify_one();
        }
    }
}

impl Place {
    /// A request was let in as one of this allocation.
    ///
    /// # Errors
    /// The allocation has as many connections as its share is, which is how many.
    pub(crate) fn show(&self, allocation: Option<AllocationId>) -> Result<(), usize> {
        let mut books = self.places.books();
        let Books { shares, by_number, .. } = &mut *books;
        let holder = allocation.map(Holder::Lease);
        // One that has lost its place is about to end.
        let Some(entry) = by_number.get_mut(&self.number).filter(|entry| entry.holder != holder) else {
            return Ok(());
        };
        shares.give(entry.holder, 1);
        if !shares.may_take(holder, 1) {
            shares.add(entry.holder, 1);
            return Err(shares.held(holder));
        }
        shares.add(holder, 1);
        entry.holder = holder;
        Ok(())
    }

    /// Waits until the connection is to end.
    pub(crate) async fn ended(&self) -> Ending {
        self.end.notified().await;
        if self.places.books().by_number.contains_key(&self.number) { Ending::Soon } else { Ending::AtOnce }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.books().leave(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lease_leaves_room_and_strangers_give_way() {
        let places = Places::new();
        let lease = |draw| Some(AllocationId::from_draw(draw));
        let enter = || places.enter().expect("a place");
        let mut held = Vec::new();
        let refused = loop {
            let place = enter();
            match place.show(lease(1)) {
                Ok(()) => held.push(place),
                Err(has) => break has,
            }
        };
        assert_eq!((refused, held.len()), (204, 204));
        let strangers: Vec<_> = (0..60).map(|_| enter()).collect();
        assert_eq!(strangers[0].ended().await, Ending::AtOnce);
        let newcomer = enter();
        newcomer.show(lease(2)).expect("a place for the next lease");
        newcomer.show(None).expect("no token is asked for any more");
        places.end(AllocationId::from_draw(1));
        assert_eq!(held[7].ended().await, Ending::Soon);
        drop((held, strangers, newcomer));
        assert_eq!(places.books().shares.held(None), 0);
        // Where all are taken, one that has just come is given the time to show its token.
        let full: Vec<_> = (0..255).map(|_| enter()).inspect(|place| place.show(None).expect("a place")).collect();
        let stranger = enter();
        assert!(places.enter().is_none());
        tokio::time::advance(2 * SHOW_WAIT).await;
        let next = enter();
        assert_eq!(stranger.ended().await, Ending::AtOnce);
        drop((full, stranger, next));
        assert!(places.books().by_number.is_empty());
    }
}
