//! Notices that a watched resource has changed. Changes of one resource in quick succession make one notice, so that a
//! busy server does not flood its client: at most [`NOTICES_PER_SECOND_MAX`] for each resource.

use super::resources::{PlannerFeed, ResourceUri};
use cortex_engine::{Change, EngineHandle};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until};

/// The most notices a second for one resource.
const NOTICES_PER_SECOND_MAX: u32 = 10;

/// The most resources that one watcher may watch.
pub(super) const WATCHED_MAX: usize = 1_000;

/// The resources that a client watches, shared between its subscriptions and the [`Watcher`].
#[derive(Clone, Debug, Default)]
pub(super) struct Watched(Arc<Mutex<BTreeSet<ResourceUri>>>);

impl Watched {
    /// Adds a resource. Returns false if the set is full.
    pub(super) fn insert(&self, uri: ResourceUri) -> bool {
        let mut set = self.lock();
        if set.len() >= WATCHED_MAX && !set.contains(&uri) {
            return false;
        }
        set.insert(uri);
        true
    }

    pub(super) fn remove(&self, uri: ResourceUri) {
        self.lock().remove(&uri);
    }

    pub(super) fn contains(&self, uri: ResourceUri) -> bool {
        self.lock().contains(&uri)
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<ResourceUri>> {
        // A panic of another holder of the lock leaves the set valid.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Receives the changes since it was created, and returns those of watched resources.
pub(super) struct Watcher {
    watched: Watched,
    changes: broadcast::Receiver<Arc<Change>>,
    planner_feed: PlannerFeed,
    /// Resources that have changed since their last notice.
    changed: BTreeSet<ResourceUri>,
    /// The time of the last notice of each resource, while it delays the next one.
    notified: BTreeMap<ResourceUri, Instant>,
}

impl Watcher {
    pub(super) fn new(engine: &EngineHandle, mut planner_feed: PlannerFeed, watched: Watched) -> Self {
        planner_feed.plan.mark_unchanged();
        planner_feed.bottlenecks.mark_unchanged();
        Self { watched, changes: engine.changes(), planner_feed, changed: BTreeSet::new(), notified: BTreeMap::new() }
    }

    /// Returns the set of watched resources.
    pub(super) const fn watched(&self) -> &Watched {
        &self.watched
    }

    /// Returns the next resource to send a notice of, or nothing once the engine has ended.
    pub(super) async fn next(&mut self) -> Option<ResourceUri> {
        let pause = Duration::from_secs(1) / NOTICES_PER_SECOND_MAX;
        loop {
            let now = Instant::now();
            self.notified.retain(|_, at| *at + pause > now);
            let due = self.changed.iter().copied().find(|uri| !self.notified.contains_key(uri));
            if let Some(uri) = due {
                self.changed.remove(&uri);
                // It may have been unsubscribed since the change.
                if self.watched.contains(uri) {
                    self.notified.insert(uri, now);
                    return Some(uri);
                }
                continue;
            }
            let next = self.changed.iter().filter_map(|uri| self.notified.get(uri)).min().map(|at| *at + pause);
            tokio::select! {
                change = self.changes.recv() => match change {
                    Ok(change) => self.note(&change),
                    // The missed changes may be of any resource.
                    Err(RecvError::Lagged(_)) => self.changed.extend(self.watched.lock().iter().copied()),
                    Err(RecvError::Closed) => return None,
                },
                changed = self.planner_feed.changed() => match changed {
                    Some(uri) => self.changed.extend(self.watched.lock().get(&uri).copied()),
                    None => return None,
                },
                () = sleep_until(next.unwrap_or(now)), if next.is_some() => {}
            }
        }
    }

    fn note(&mut self, change: &Change) {
        let watched = self.watched.lock();
        if change.capacity && watched.contains(&ResourceUri::Capacity) {
            self.changed.insert(ResourceUri::Capacity);
        }
        let allocations = change.allocations.iter().copied().map(ResourceUri::Allocation);
        self.changed.extend(allocations.filter(|uri| watched.contains(uri)));
    }
}
