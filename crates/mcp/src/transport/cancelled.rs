//! The ids of calls that were cancelled, remembered for a while.
//!
//! Invariant: the order and the set hold the same ids, at most [`CANCELLED_IDS_MAX`] of them.

use std::collections::{HashSet, VecDeque};

use rmcp::model::RequestId;

/// The most cancelled ids that are remembered. rmcp would send the late reply of a cancelled call as the
/// reply to a new one with the same id, so such an id is refused.
pub const CANCELLED_IDS_MAX: usize = 1_024;

/// The ids cancelled last; the oldest is forgotten first.
#[derive(Default)]
pub(super) struct CancelledIds {
    order: VecDeque<RequestId>,
    known: HashSet<RequestId>,
}

impl CancelledIds {
    pub(super) fn contains(&self, id: &RequestId) -> bool {
        self.known.contains(id)
    }

    pub(super) fn remember(&mut self, id: RequestId) {
        if self.order.len() == CANCELLED_IDS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        if self.known.insert(id.clone()) {
            self.order.push_back(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_cancelled_id_is_forgotten_first() {
        let mut ids = CancelledIds::default();
        for number in 0..=CANCELLED_IDS_MAX as i64 {
            ids.remember(RequestId::Number(number));
        }
        assert!(!ids.contains(&RequestId::Number(0)));
        assert!(ids.contains(&RequestId::Number(1)));
        assert!(ids.contains(&RequestId::Number(CANCELLED_IDS_MAX as i64)));
        assert!(!ids.contains(&RequestId::String("1".into())));
        assert_eq!(ids.order.len(), CANCELLED_IDS_MAX);
        assert_eq!(ids.known.len(), CANCELLED_IDS_MAX);
    }
}
