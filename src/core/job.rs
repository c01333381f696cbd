//! What is known of a job while an allocation of it is live or on record.

use super::ids::{AllocationId, FencingToken, WorkerNumber};
use std::collections::BTreeMap;

/// A job in the books.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    /// Its live allocations.
    pub(super) live: u64,
    /// The number of its next worker. It starts again from 0 when nothing of the job is live.
    pub(super) next_worker: WorkerNumber,
    allocations: Allocations,
}

/// The allocations of a job, live and on record, oldest first. Most jobs have one, which needs no tree; equal sets are
/// kept in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Allocations {
    One(FencingToken, AllocationId),
    /// Two or more.
    Many(BTreeMap<FencingToken, AllocationId>),
}

impl Job {
    /// A job with its first allocation.
    pub(super) const fn new(token: FencingToken, allocation: AllocationId) -> Self {
        Self { live: 0, next_worker: WorkerNumber(0), allocations: Allocations::One(token, allocation) }
    }

    /// Notes another allocation.
    pub(super) fn add(&mut self, token: FencingToken, allocation: AllocationId) {
        match &mut self.allocations {
            Allocations::One(first, id) => {
                self.allocations = Allocations::Many(BTreeMap::from([(*first, *id), (token, allocation)]));
            }
            Allocations::Many(tree) => {
                tree.insert(token, allocation);
            }
        }
    }

    /// Drops an allocation, and says whether it was the last.
    pub(super) fn remove(&mut self, token: FencingToken) -> bool {
        match &mut self.allocations {
            Allocations::One(last, _) => *last == token,
            Allocations::Many(tree) => {
                tree.remove(&token);
                if let (1, Some((token, id))) = (tree.len(), tree.first_key_value()) {
                    self.allocations = Allocations::One(*token, *id);
                }
                false
            }
        }
    }

    /// How many allocations it has.
    pub(super) fn len(&self) -> u64 {
        match &self.allocations {
            Allocations::One(..) => 1,
            Allocations::Many(tree) => tree.len() as u64,
        }
    }

    /// Its allocations from this token on, oldest first.
    pub(super) fn since(&self, from: FencingToken) -> impl Iterator<Item = (FencingToken, AllocationId)> + '_ {
        let (one, many) = match &self.allocations {
            Allocations::One(token, id) => (Some((*token, *id)), None),
            Allocations::Many(tree) => (None, Some(tree.range(from..).map(|(token, id)| (*token, *id)))),
        };
        one.into_iter().filter(move |(token, _)| *token >= from).chain(many.into_iter().flatten())
    }

    /// All its allocations, oldest first.
    pub(super) fn allocations(&self) -> impl Iterator<Item = (FencingToken, AllocationId)> + '_ {
        self.since(FencingToken::new(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_grew_and_shrank_is_the_job_it_was() {
        let (token, id) = (FencingToken::new, AllocationId::from_draw);
        let mut job = Job::new(token(3), id(30));
        let before = job.clone();
        job.add(token(5), id(50));
        job.add(token(7), id(70));
        assert_eq!(job.since(token(4)).collect::<Vec<_>>(), [(token(5), id(50)), (token(7), id(70))]);
        assert!(!job.remove(token(5)));
        assert!(!job.remove(token(7)));
        assert_eq!(job, before);
        assert_eq!(job.since(token(4)).count(), 0);
        assert!(job.remove(token(3)));
    }
}
