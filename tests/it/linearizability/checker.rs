//! A search for a sequential order of a concurrent history, after Wing and Gong, with the memoization of Lowe.
//!
//! Each step places one of the calls that can come first: those that were sent before the first reply to an unplaced
//! call. A set of placed calls that led to the same state before is not searched again, which keeps the search short if
//! calls commute.

use std::collections::{BTreeSet, HashSet};
use std::fmt::{Debug, Write};
use std::hash::Hash;
use std::time::Duration;

/// The maximum number of positions in a search. A history that needs more has too many concurrent calls.
const PLACES_MAX: usize = 5_000_000;

/// The number of unplaceable calls that are shown.
const STUCK_SHOWN_MAX: usize = 24;

/// The sequential model of one caller.
pub(crate) trait Model: Clone + Eq + Hash + Debug {
    /// A call with its answer.
    type Done: Debug;

    /// Returns the state after the call, if the call has this answer in this state.
    fn step(&self, done: &Self::Done) -> Option<Self>;
}

/// A call of a history. All callers share one clock.
#[derive(Debug)]
pub(crate) struct Entry<D> {
    /// The time of its sending, or earlier.
    pub(crate) sent: Duration,
    /// The time of its reply, or later.
    pub(crate) replied: Duration,
    pub(crate) done: D,
}

/// The placed calls: all before `first`, and those in `ahead`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place<M> {
    first: usize,
    ahead: BTreeSet<usize>,
    state: M,
}

impl<M: Model> Place<M> {
    /// Returns the positions one call further. The call that was answered first comes last.
    fn next(&self, history: &[Entry<M::Done>]) -> Vec<Self> {
        let open = || (self.first..history.len()).filter(|index| !self.ahead.contains(index));
        let mut first_reply = Duration::MAX;
        let mut candidates = Vec::new();
        // The calls are in the order of their sending, so the loop ends at the first call that was sent after a reply.
        for index in open() {
            if history[index].sent > first_reply {
                break;
            }
            first_reply = first_reply.min(history[index].replied);
            candidates.push(index);
        }
        candidates.sort_by_key(|index| std::cmp::Reverse(history[*index].replied));
        candidates
            .into_iter()
            .filter_map(|index| Some(self.with(index, self.state.step(&history[index].done)?)))
            .collect()
    }

    fn with(&self, index: usize, state: M) -> Self {
        let (mut first, mut ahead) = (self.first, self.ahead.clone());
        ahead.insert(index);
        while ahead.remove(&first) {
            first += 1;
        }
        Self { first, ahead, state }
    }

    fn placed(&self) -> usize {
        self.first + self.ahead.len()
    }
}

/// Checks that the history has a sequential order with the same answers.
///
/// # Errors
/// The furthest position of the search, and the calls that cannot be placed there.
pub(crate) fn check<M: Model>(start: M, mut history: Vec<Entry<M::Done>>) -> Result<(), String> {
    history.sort_by_key(|entry| (entry.sent, entry.replied));
    let mut furthest = Place { first: 0, ahead: BTreeSet::new(), state: start };
    let (mut seen, mut open) = (HashSet::new(), vec![furthest.clone()]);
    while let Some(place) = open.pop() {
        if place.first == history.len() {
            return Ok(());
        }
        if place.placed() > furthest.placed() {
            furthest = place.clone();
        }
        for next in place.next(&history) {
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
        assert!(seen.len() <= PLACES_MAX, "the search is too long: record shorter histories");
    }
    Err(explain(&furthest, &history))
}

/// Describes a failure: the state, and the calls that cannot be placed from there.
fn explain<M: Model>(place: &Place<M>, history: &[Entry<M::Done>]) -> String {
    let mut text =
        format!("{} of {} calls have an order, which leads to {:?};", place.placed(), history.len(), place.state);
    text.push_str(" then nothing fits of\n");
    let open = (place.first..history.len()).filter(|index| !place.ahead.contains(index));
    for index in open.take(STUCK_SHOWN_MAX) {
        let Entry { sent, replied, done } = &history[index];
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {sent:?} to {replied:?}: {done:?}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::model::{Done, ManagerModel};
    use super::{Entry, check};
    use std::time::Duration;

    /// Returns a call from one time to another.
    fn entry(sent: u64, replied: u64, done: Done) -> Entry<Done> {
        Entry { sent: Duration::from_millis(sent), replied: Duration::from_millis(replied), done }
    }

    fn granted(token: u64, workers: u64) -> Done {
        Done::Granted { token, workers }
    }

    fn passes(history: Vec<Entry<Done>>) -> bool {
        check(ManagerModel::new(4), history).is_ok()
    }

    #[test]
    fn histories_that_one_manager_could_have_given_pass() {
        assert!(passes(Vec::new()));
        assert!(passes(vec![
            entry(0, 1, granted(1, 4)),
            entry(2, 3, Done::Refused { workers: 1, available: 0 }),
            entry(4, 5, Done::Renewed { token: 1 }),
            entry(6, 7, Done::Released { token: 1, workers: 4 }),
            entry(8, 9, Done::ReleasedBefore { token: 1 }),
            entry(10, 11, Done::RenewalRefused { token: 1 }),
            entry(12, 13, Done::Read { token: 1, is_live: false }),
            entry(14, 15, granted(2, 4)),
        ]));
        // The release and the second grant overlap, in either order of sending.
        assert!(passes(vec![
            entry(0, 1, granted(1, 4)),
            entry(2, 5, granted(2, 3)),
            entry(3, 6, Done::Released { token: 1, workers: 4 }),
        ]));
        // A long call takes effect at any time within it.
        assert!(passes(vec![
            entry(0, 100, Done::Capacity { available: 1 }),
            entry(1, 2, granted(1, 1)),
            entry(3, 4, granted(2, 1)),
            entry(5, 6, granted(3, 1)),
            entry(7, 8, granted(4, 1)),
        ]));
    }

    #[test]
    fn a_double_grant_is_rejected() {
        assert!(!passes(vec![entry(0, 5, granted(1, 3)), entry(1, 4, granted(2, 3))]));
        let between = entry(2, 3, Done::Released { token: 1, workers: 3 });
        assert!(passes(vec![entry(0, 5, granted(1, 3)), entry(1, 4, granted(2, 3)), between]));
        // The release came only after both calls were answered.
        let late = entry(6, 7, Done::Released { token: 1, workers: 3 });
        assert!(!passes(vec![entry(0, 5, granted(1, 3)), entry(1, 4, granted(2, 3)), late]));
    }

    #[test]
    fn a_token_that_does_not_grow_is_rejected() {
        assert!(!passes(vec![entry(0, 1, granted(2, 1)), entry(2, 3, granted(1, 1))]));
        assert!(passes(vec![entry(0, 3, granted(2, 1)), entry(2, 4, granted(1, 1))]));
        assert!(!passes(vec![entry(0, 3, granted(1, 1)), entry(1, 2, granted(1, 1))]));
    }

    #[test]
    fn a_lost_release_is_rejected() {
        let start = || vec![entry(0, 1, granted(1, 4)), entry(2, 3, Done::Released { token: 1, workers: 4 })];
        for lost in [
            Done::Refused { workers: 1, available: 0 },
            Done::Renewed { token: 1 },
            Done::Read { token: 1, is_live: true },
            Done::Released { token: 1, workers: 4 },
            Done::Capacity { available: 0 },
        ] {
            let mut history = start();
            history.push(entry(4, 5, lost));
            assert!(!passes(history), "the last call sees nothing of the release before it");
        }
    }

    #[test]
    fn a_stale_read_is_rejected() {
        // The read was sent after the grant was answered.
        assert!(!passes(vec![entry(0, 1, granted(1, 2)), entry(2, 3, Done::Capacity { available: 4 })]));
        assert!(passes(vec![entry(0, 3, granted(1, 2)), entry(2, 4, Done::Capacity { available: 4 })]));
        // Of two reads during one release, the second must not see it undone.
        let during = |first, second| {
            vec![
                entry(0, 1, granted(1, 2)),
                entry(2, 9, Done::Released { token: 1, workers: 2 }),
                entry(3, 4, Done::Read { token: 1, is_live: first }),
                entry(5, 6, Done::Read { token: 1, is_live: second }),
            ]
        };
        assert!(passes(during(true, false)));
        assert!(!passes(during(false, true)));
    }

    #[test]
    fn an_unfounded_refusal_is_rejected() {
        assert!(!passes(vec![entry(0, 1, Done::Refused { workers: 4, available: 4 })]));
        assert!(!passes(vec![entry(0, 1, granted(1, 1)), entry(2, 3, Done::Refused { workers: 4, available: 2 })]));
        assert!(passes(vec![entry(0, 1, granted(1, 1)), entry(2, 3, Done::Refused { workers: 4, available: 3 })]));
    }
}
