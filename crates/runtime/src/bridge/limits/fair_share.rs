//! Fair shares of a resource that the leases of an endpoint have in common.
//!
//! A lease may take more while what it would then hold is at most [`ALPHA`] times what would still be free: the dynamic
//! threshold of Choudhury and Hahne ("Dynamic queue length thresholds for shared-memory packet switches", IEEE/ACM
//! Transactions on Networking 6(2), 1998). The number of leases need not be known: one lease alone gets four fifths,
//! two get four ninths each, and some is left for the next one. A lease that holds nothing may take one unit as long as
//! one is free.
//!
//! Invariants: the units taken never exceed the total; and with N holders, whatever the order in which they took and
//! released units, another holder can take one if the total is more than 5^(N-1) and at least [`SHARED_MIN`].

use std::collections::BTreeMap;

/// The multiple of the free units that one holder may have.
const ALPHA: usize = 4;

/// The smallest total that is shared. Of a smaller total, a third or more would stay idle while there is only one
/// lease.
const SHARED_MIN: usize = 4;

/// Returns the error text for a limit of `total` units: how many there are and what to do. `held` is the count of this
/// lease, `None` if the client has no lease.
pub(crate) fn limit_reached(what: &str, held: Option<usize>, total: usize, remedy: &str) -> String {
    match held {
        Some(held) => format!("this lease has {held} {what}, and all leases together at most {total}: {remedy}"),
        None => format!("the limit of {total} {what} is reached: {remedy}"),
    }
}

/// A total of units, such as connections or bytes, and how many each holder has taken.
#[derive(Debug)]
pub(crate) struct FairShares<H> {
    total: usize,
    taken: usize,
    by_holder: BTreeMap<H, usize>,
}

impl<H: Copy + Ord> FairShares<H> {
    pub(crate) fn new(total: usize) -> Self {
        Self { total, taken: 0, by_holder: BTreeMap::new() }
    }

    /// Returns what a holder has taken. For `None`, returns what all holders together have taken.
    pub(crate) fn held(&self, holder: Option<H>) -> usize {
        match holder {
            Some(holder) => self.by_holder.get(&holder).copied().unwrap_or(0),
            None => self.taken,
        }
    }

    /// Returns whether a holder may take `amount` more. For `None`, only the total counts.
    pub(crate) fn may_take(&self, holder: Option<H>, amount: usize) -> bool {
        let Some(free) = self.total.checked_sub(self.taken.saturating_add(amount)) else {
            return false;
        };
        if holder.is_none() || self.total < SHARED_MIN {
            return true;
        }
        let held = self.held(holder);
        held == 0 || held + amount <= free.saturating_mul(ALPHA)
    }

    /// Takes `amount` more if the holder may. Returns whether it did.
    pub(crate) fn take(&mut self, holder: Option<H>, amount: usize) -> bool {
        let may = self.may_take(holder, amount);
        if may {
            self.add(holder, amount);
        }
        may
    }

    /// Adds `amount` to a holder without a check.
    pub(crate) fn add(&mut self, holder: Option<H>, amount: usize) {
        self.taken += amount;
        if let Some(holder) = holder
            && amount > 0
        {
            *self.by_holder.entry(holder).or_insert(0) += amount;
        }
    }

    /// Releases units that a holder has taken.
    pub(crate) fn release(&mut self, holder: Option<H>, amount: usize) {
        debug_assert!(self.held(holder) >= amount, "more is released than was taken");
        self.taken = self.taken.saturating_sub(amount);
        if let Some(holder) = holder
            && let Some(held) = self.by_holder.get_mut(&holder)
        {
            *held = held.saturating_sub(amount);
            if *held == 0 {
                self.by_holder.remove(&holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Takes units for a holder until it may take no more. Returns how many it holds.
    fn greedy(shares: &mut FairShares<u8>, holder: u8) -> usize {
        while shares.take(Some(holder), 1) {}
        shares.held(Some(holder))
    }

    #[test]
    fn one_holder_gets_most_and_leaves_some_for_the_next() {
        // The share of the first holder, the share of the second one then, and whether a third one may take a unit.
        for (total, alone, second, third) in [
            (1, 1, 0, false),
            (2, 2, 0, false),
            (3, 3, 0, false),
            (4, 3, 1, false),
            (5, 4, 1, false),
            (6, 4, 1, true),
            (8, 6, 1, true),
            (64, 51, 10, true),
            (128, 102, 20, true),
            (256, 204, 41, true),
        ] {
            let mut shares = FairShares::new(total);
            assert_eq!((greedy(&mut shares, 1), greedy(&mut shares, 2)), (alone, second), "{total}");
            assert_eq!(shares.may_take(Some(3), 1), third, "{total}");
        }
    }

    #[test]
    fn two_holders_that_take_in_turn_get_similar_shares() {
        for (total, each) in
            [(1, [1, 0]), (2, [1, 1]), (3, [2, 1]), (4, [2, 1]), (8, [4, 3]), (64, [28, 28]), (128, [57, 56])]
        {
            let mut shares = FairShares::new(total);
            while [1, 2].map(|holder| shares.take(Some(holder), 1)).contains(&true) {}
            assert_eq!([1, 2].map(|holder| shares.held(Some(holder))), each, "{total}");
        }
    }

    #[test]
    fn without_a_holder_only_the_total_counts() {
        let mut shares: FairShares<u8> = FairShares::new(64);
        assert!((0..64).all(|_| shares.take(None, 1)));
        assert!(!shares.take(None, 1));
        shares.release(None, 64);
        assert_eq!(shares.held(None), 0);
    }

    #[test]
    fn an_amount_counts_as_a_whole() {
        let mut bytes = FairShares::new(64);
        assert!(bytes.take(Some(1), 16) && bytes.take(Some(1), 16) && bytes.take(Some(1), 16));
        assert!(!bytes.take(Some(1), 16), "nothing would be left");
        assert!(bytes.take(Some(2), 16), "another holder's first units, while they are free");
        assert!(!bytes.take(Some(3), 1));
    }

    proptest! {
        #[test]
        fn no_holder_takes_everything(
            total in 1_usize..700,
            steps in prop::collection::vec((0_u8..5, 0_usize..40, any::<bool>()), 1..400),
        ) {
            let mut shares = FairShares::new(total);
            for (holder, amount, takes) in steps {
                if takes {
                    for _ in 0..amount {
                        shares.take(Some(holder), 1);
                    }
                } else {
                    shares.release(Some(holder), amount.min(shares.held(Some(holder))));
                }
                let sum: usize = (0..5).map(|holder| shares.held(Some(holder))).sum();
                prop_assert!(sum == shares.taken && sum <= total);
                let holders = u32::try_from(shares.by_holder.len()).expect("a small count");
                let is_enough = total > 5_usize.pow(holders.saturating_sub(1)).max(SHARED_MIN - 1);
                prop_assert!(!is_enough || shares.may_take(Some(9), 1), "{shares:?}");
            }
        }
    }
}
