//! The counts over all rounds, and the shared knowledge of all clients.

use std::collections::BTreeMap;
use std::sync::Mutex;

/// The number of faults that are printed in full. The others are only counted.
const FAULTS_SHOWN_MAX: usize = 20;

/// The kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// An acknowledged effect is missing.
    Lost,
    /// A request was granted twice.
    Duplicated,
    /// A session ended or did not answer in time.
    DidNotContinue,
    /// An answer that no history explains.
    Wrong,
}

/// The counts that all clients of a run share.
#[derive(Default)]
pub(crate) struct Tally {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    acknowledged: u64,
    unanswered: u64,
    faults: BTreeMap<Fault, u64>,
    descriptions: Vec<String>,
    /// The allocation of each fencing token.
    tokens: BTreeMap<u64, String>,
}

impl Tally {
    fn with<T>(&self, run: impl FnOnce(&mut Inner) -> T) -> T {
        run(&mut self.inner.lock().expect("no panic while counting"))
    }

    /// Counts an answered grant, release or renewal.
    pub(crate) fn acknowledged(&self) {
        self.with(|inner| inner.acknowledged += 1);
    }

    /// Counts a call without an answer, whose effect must be determined.
    pub(crate) fn unanswered(&self) {
        self.with(|inner| inner.unanswered += 1);
    }

    /// Records a fault.
    pub(crate) fn fault(&self, fault: Fault, what: impl Into<String>) {
        self.with(|inner| {
            *inner.faults.entry(fault).or_default() += 1;
            if inner.descriptions.len() < FAULTS_SHOWN_MAX {
                inner.descriptions.push(format!("{fault:?}: {}", what.into()));
            }
        });
    }

    /// Returns the largest fencing token seen so far. A request that is sent later gets a larger one.
    pub(crate) fn largest_token(&self) -> u64 {
        self.with(|inner| inner.tokens.last_key_value().map_or(0, |(token, _)| *token))
    }

    /// Records the token of a grant. No other allocation may have it, and it must exceed all tokens seen before the
    /// request.
    pub(crate) fn token(&self, token: u64, floor: u64, allocation: &str) {
        if token <= floor {
            self.fault(Fault::Wrong, format!("{allocation} has token {token} although {floor} was given before"));
        }
        let before = self.with(|inner| inner.tokens.insert(token, allocation.to_owned()));
        if let Some(before) = before.filter(|before| before != allocation) {
            self.fault(Fault::Duplicated, format!("token {token} is that of {before} and of {allocation}"));
        }
    }

    /// Prints the counts, and fails if there was a fault.
    #[expect(clippy::print_stdout, reason = "the counts are what this is for")]
    pub(crate) fn conclude(&self, what: &str, rounds: u64, seed: u64) {
        self.with(|inner| {
            let count = |fault| inner.faults.get(&fault).copied().unwrap_or(0);
            println!(
                "{what}: {rounds} rounds from seed {seed}: acknowledged {}, unanswered {}, lost {}, duplicated {}, \
                 sessions that did not continue {}, wrong answers {}",
                inner.acknowledged,
                inner.unanswered,
                count(Fault::Lost),
                count(Fault::Duplicated),
                count(Fault::DidNotContinue),
                count(Fault::Wrong),
            );
            assert!(inner.faults.is_empty(), "CORTEX_CRASH_SEED={seed} repeats it:\n{}", inner.descriptions.join("\n"));
            assert!(inner.acknowledged > rounds, "hardly anything was acknowledged: {}", inner.acknowledged);
        });
    }
}
