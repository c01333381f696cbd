//! ReplanTriggers: what calls for a plan before the next one is due.

use super::super::cluster::Cluster;

/// What calls for a plan, if it was not so before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplanTriggers {
    /// How many times more tasks wait than the policy lets wait before it wants more agents, in powers of two: 0 up to there, 1 up
    /// to twice as many, and so on. A backlog that doubles does not wait for the next plan either.
    pub backlog: u32,
    /// So many tokens are used that the rest is saved.
    pub saves_tokens: bool,
    /// How many agents were lost since these books were opened.
    pub agents_lost: u64,
}

impl ReplanTriggers {
    /// Whether anything calls now that did not before.
    #[must_use]
    pub const fn newly_raised_since(self, before: Self) -> bool {
        self.backlog > before.backlog
            || (self.saves_tokens && !before.saves_tokens)
            || self.agents_lost > before.agents_lost
    }
}

impl Cluster {
    /// What calls for a plan. It costs next to nothing.
    #[must_use]
    pub fn replan_triggers(&self) -> ReplanTriggers {
        let fleet = &self.fleet;
        ReplanTriggers {
            backlog: backlog(fleet.queue.len(), self.policy().queue_depth_up),
            saves_tokens: fleet.tokens.is_conserving(),
            agents_lost: fleet.lost.0,
        }
    }
}

/// How many doublings of `most` it takes to reach beyond the tasks that wait.
const fn backlog(waiting: u64, most: u64) -> u32 {
    let over = waiting / if most == 0 { 1 } else { most };
    if waiting <= most { 0 } else { over.ilog2() + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_calls() {
        let replan_triggers =
            |backlog, saves_tokens, agents_lost| ReplanTriggers { backlog, saves_tokens, agents_lost };
        let quiet = replan_triggers(0, false, 2);
        for loud in [replan_triggers(1, false, 2), replan_triggers(0, true, 2), replan_triggers(0, false, 3)] {
            assert!(loud.newly_raised_since(quiet), "{loud:?}");
            assert!(!loud.newly_raised_since(loud) && !quiet.newly_raised_since(loud), "{loud:?}");
        }
        assert!(replan_triggers(1, true, 2).newly_raised_since(replan_triggers(1, false, 2)));
        assert!(replan_triggers(2, false, 2).newly_raised_since(replan_triggers(1, false, 2)));
    }

    #[test]
    fn a_backlog_calls_again_when_it_has_doubled() {
        let levels = [(0, 0), (30, 0), (31, 1), (59, 1), (60, 2), (119, 2), (120, 3), (u64::MAX, 60)];
        for (waiting, level) in levels {
            assert_eq!(backlog(waiting, 30), level, "{waiting} tasks");
        }
        assert_eq!([backlog(0, 0), backlog(1, 0), backlog(2, 0)], [0, 1, 2]);
    }
}
