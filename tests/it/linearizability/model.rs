//! The sequential model of one manager: a number of workers, leases identified by their tokens, and all-or-nothing
//! requests. Leases in the model do not expire, because they live longer than any history lasts.

use super::checker::Model;
use std::collections::BTreeMap;

/// A call with its answer. The token identifies a lease as its id does, and grows with each grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Done {
    /// A request was granted.
    Granted { token: u64, workers: u64 },
    /// A request was refused because too few workers were available.
    Refused { workers: u64, available: u64 },
    /// A lease was released.
    Released { token: u64, workers: u64 },
    /// A lease was already released.
    ReleasedBefore { token: u64 },
    /// A lease is released, by this call or by an earlier sending of it that had no answer.
    ReleasedAnyhow { token: u64 },
    /// A lease was renewed.
    Renewed { token: u64 },
    /// A lease was not renewed because it is not live.
    RenewalRefused { token: u64 },
    /// A lease was read.
    Read { token: u64, is_live: bool },
    /// The capacity was read.
    Capacity { available: u64 },
}

/// The state: the number of available workers, the holders of the others, and the last token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ManagerModel {
    free: u64,
    live: BTreeMap<u64, u64>,
    last_token: u64,
}

impl ManagerModel {
    /// Returns a state with this number of workers, all available.
    pub(crate) const fn new(workers: u64) -> Self {
        Self { free: workers, live: BTreeMap::new(), last_token: 0 }
    }

    /// Returns whether the lease was granted and has ended.
    fn is_over(&self, token: u64) -> bool {
        token <= self.last_token && !self.live.contains_key(&token)
    }

    fn released(&self, token: u64) -> Option<Self> {
        let mut next = self.clone();
        next.free += next.live.remove(&token)?;
        Some(next)
    }
}

impl Model for ManagerModel {
    type Done = Done;

    fn step(&self, done: &Done) -> Option<Self> {
        let unchanged = |holds: bool| holds.then(|| self.clone());
        match *done {
            Done::Granted { token, workers } => {
                let mut next = self.clone();
                next.free = next.free.checked_sub(workers)?;
                next.live.insert(token, workers);
                next.last_token = token;
                (token > self.last_token).then_some(next)
            }
            Done::Refused { workers, available } => unchanged(workers > self.free && available == self.free),
            Done::Released { token, workers } => {
                (self.live.get(&token) == Some(&workers)).then(|| self.released(token)).flatten()
            }
            Done::ReleasedBefore { token } | Done::RenewalRefused { token } => unchanged(self.is_over(token)),
            Done::ReleasedAnyhow { token } => {
                self.released(token).or_else(|| self.is_over(token).then(|| self.clone()))
            }
            Done::Renewed { token } => unchanged(self.live.contains_key(&token)),
            Done::Read { token, is_live } => {
                unchanged(if is_live { self.live.contains_key(&token) } else { self.is_over(token) })
            }
            Done::Capacity { available } => unchanged(available == self.free),
        }
    }
}
