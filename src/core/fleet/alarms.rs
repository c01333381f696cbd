//! Alarms: what calls for a plan before the next one is due.

use super::super::cluster::Cluster;

/// What calls for a plan, if it was not so before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alarms {
    /// More tasks wait than the policy lets wait before it wants more agents.
    pub is_backlogged: bool,
    /// So many tokens are used that the rest is saved.
    pub saves_tokens: bool,
    /// How many agents were lost since these books were opened.
    pub agents_lost: u64,
}

impl Alarms {
    /// Whether anything calls now that did not before.
    #[must_use]
    pub const fn rise_over(self, before: Self) -> bool {
        (self.is_backlogged && !before.is_backlogged)
            || (self.saves_tokens && !before.saves_tokens)
            || self.agents_lost > before.agents_lost
    }
}

impl Cluster {
    /// What calls for a plan. It costs next to nothing.
    #[must_use]
    pub fn alarms(&self) -> Alarms {
        let fleet = &self.fleet;
        Alarms {
            is_backlogged: fleet.queue.len() > self.policy().queue_depth_up,
            saves_tokens: fleet.tokens.is_conserving(),
            agents_lost: fleet.lost.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_calls() {
        let alarms = |is_backlogged, saves_tokens, agents_lost| Alarms { is_backlogged, saves_tokens, agents_lost };
        let quiet = alarms(false, false, 2);
        for loud in [alarms(true, false, 2), alarms(false, true, 2), alarms(false, false, 3)] {
            assert!(loud.rise_over(quiet), "{loud:?}");
            assert!(!loud.rise_over(loud) && !quiet.rise_over(loud), "{loud:?}");
        }
        assert!(alarms(true, true, 2).rise_over(alarms(true, false, 2)));
    }
}
