//! Fair shares of what the leases of an endpoint have in common.
//!
//! A lease may take more while what it then holds is at most [`ALPHA`] times what is then still free: the dynamic threshold
//! of Choudhury and Hahne ("Dynamic queue length thresholds for shared-memory packet switches", IEEE/ACM Transactions on
//! Networking 6(2), 1998). Nobody has to know how many leases there are: one alone gets four fifths of everything, two get
//! four ninths each, and something is left for whoever comes next. A lease that holds nothing may take one as long as one
//! is free.
//!
//! Invariants: never is more taken than there is; and where N holders have what they have, in whatever order they took and
//! gave it, one more finds a place if there are more than 5^(N-1) places, and at least [`SHARED_MIN`].

use std::collections::BTreeMap;

/// How many times what is free one holder may have.
const ALPHA: usize = 4;

/// Of fewer places none is kept free: a third of them and more would be idle for as long as one lease is alone.
const SHARED_MIN: usize = 4;

/// Why there is no room for one more of what there are `total` of, and what to do. `held` is what a lease has.
pub(crate) fn limit_reached(what: &str, held: Option<usize>, total: usize, way_out: &str) -> String {
    match held {
        Some(held) => format!("this lease has {held} of at most {total} {what} in all: {way_out}"),
        None => format!("there are {total} {what}, which is all there can be: {way_out}"),
    }
}

/// A number of places, or of bytes, and who has taken how many of them.
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

    /// What a holder has; where nobody is known by name, what is taken in all.
    pub(crate) fn held(&self, holder: Option<H>) -> usize {
        match holder {
            Some(holder) => self.by_holder.get(&holder).copied().unwrap_or(0),
            None => self.taken,
        }
    }

    /// Whether a holder may take so many more. Where nobody is known by name only the total counts.
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

    /// Takes so many more, if the holder may.
    pub(crate) fn take(&mut self, holder: Option<H>, amount: usize) -> bool {
        let may = self.may_take(holder, amount);
        if may {
            self.add(holder, amount);
        }
        may
    }

    /// Notes that a holder has so many more, whether or not it may.
    pub(crate) fn add(&mut self, holder: Option<H>, amount: usize) {
        self.taken += amount;
        if let Some(holder) = holder
            && amount > 0
        {
            *self.by_holder.entry(holder).or_insert(0) += amount;
        }
    }

    /// Gives back what a holder has taken.
    pub(crate) fn release(&mut self, holder: Option<H>, amount: usize) {
        debug_assert!(self.held(holder) >= amount, "more is given back than was taken");
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

    /// How many one takes who takes all that it may.
    fn greedy(shares: &mut FairShares<u8>, holder: u8) -> usize {
        while shares.take(Some(holder), 1) {}
        shares.held(Some(holder))
    }

    #[test]
    fn one_gets_most_and_leaves_room_for_the_next() {
        // What one gets alone, what the next gets then, and whether a third finds a place.
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
    fn two_who_take_in_turn_get_much_the_same() {
        for (total, each) in
            [(1, [1, 0]), (2, [1, 1]), (3, [2, 1]), (4, [2, 1]), (8, [4, 3]), (64, [28, 28]), (128, [57, 56])]
        {
            let mut shares = FairShares::new(total);
            while [1, 2].map(|holder| shares.take(Some(holder), 1)).contains(&true) {}
            assert_eq!([1, 2].map(|holder| shares.held(Some(holder))), each, "{total}");
        }
    }

    #[test]
    fn the_nameless_share_with_nobody() {
        let mut shares: FairShares<u8> = FairShares::new(64);
        assert!((0..64).all(|_| shares.take(None, 1)));
        assert!(!shares.take(None, 1));
        shares.release(None, 64);
        assert_eq!(shares.held(None), 0);
    }

    #[test]
    fn what_one_takes_at_once_counts_as_a_whole() {
        let mut bytes = FairShares::new(64);
        assert!(bytes.take(Some(1), 16) && bytes.take(Some(1), 16) && bytes.take(Some(1), 16));
        assert!(!bytes.take(Some(1), 16), "nothing would be left");
        assert!(bytes.take(Some(2), 16), "the first of another, as long as there is room");
        assert!(!bytes.take(Some(3), 1));
    }

    proptest! {
        #[test]
        fn nobody_takes_all_whatever_happens(
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
                let holders = u32::try_from(shares.by_holder.len()).expect("few");
                let is_enough = total > 5_usize.pow(holders.saturating_sub(1)).max(SHARED_MIN - 1);
                prop_assert!(!is_enough || shares.may_take(Some(9), 1), "{shares:?}");
            }
        }
    }
}
