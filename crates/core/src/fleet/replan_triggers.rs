//! Replan triggers: conditions that call for a plan before the next one is due.

use super::super::cluster::Cluster;

/// The conditions that call for a plan when they are newly raised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplanTriggers {
    /// The size of the backlog relative to the policy's `queue_depth_up`, in doublings: 0 up to it, 1 up to twice as
    /// many waiting tasks, and so on. A backlog that doubles triggers again.
    pub backlog: u32,
    /// Whether the token budget is used so far that tokens are conserved.
    pub is_conserving: bool,
    /// How many agents were lost since this process loaded the state.
    pub agents_lost: u64,
}

impl ReplanTriggers {
    /// Whether any condition is raised now that was not raised before.
    #[must_use]
    pub const fn newly_raised_since(self, before: Self) -> bool {
        self.backlog > before.backlog
            || (self.is_conserving && !before.is_conserving)
            || self.agents_lost > before.agents_lost
    }
}

impl Cluster {
    /// Returns the current conditions. The cost is constant.
    #[must_use]
    pub fn replan_triggers(&self) -> ReplanTriggers {
        let fleet = &self.fleet;
        ReplanTriggers {
            backlog: backlog_level(fleet.queue.len(), self.policy().queue_depth_up),
            is_conserving: fleet.budgets.is_conserving(),
            agents_lost: fleet.lost_count.0,
        }
    }
}

/// How often `threshold` has to be doubled to exceed the number of waiting tasks.
const fn backlog_level(waiting: u64, threshold: u64) -> u32 {
    let over = waiting / if threshold == 0 { 1 } else { threshold };
    if waiting <= threshold { 0 } else { over.ilog2() + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_new_conditions_trigger() {
        let replan_triggers =
            |backlog, is_conserving, agents_lost| ReplanTriggers { backlog, is_conserving, agents_lost };
        let calm = replan_triggers(0, false, 2);
        for raised in [replan_triggers(1, false, 2), replan_triggers(0, true, 2), replan_triggers(0, false, 3)] {
            assert!(raised.newly_raised_since(calm), "{raised:?}");
            assert!(!raised.newly_raised_since(raised) && !calm.newly_raised_since(raised), "{raised:?}");
        }
        assert!(replan_triggers(1, true, 2).newly_raised_since(replan_triggers(1, false, 2)));
        assert!(replan_triggers(2, false, 2).newly_raised_since(replan_triggers(1, false, 2)));
    }

    #[test]
    fn a_backlog_triggers_again_when_it_has_doubled() {
        let levels = [(0, 0), (30, 0), (31, 1), (59, 1), (60, 2), (119, 2), (120, 3), (u64::MAX, 60)];
        for (waiting, level) in levels {
            assert_eq!(backlog_level(waiting, 30), level, "{waiting} tasks");
        }
        assert_eq!([backlog_level(0, 0), backlog_level(1, 0), backlog_level(2, 0)], [0, 1, 2]);
    }
}
