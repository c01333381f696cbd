//! A copy of a cluster that only applies its events.

use cortex_core::event::Recorded;
use cortex_core::provisioning::Provisioning;
use cortex_core::time::Timestamp;
use cortex_core::{Cluster, check};
use fastrand::Rng;

/// All events of a cluster, and the state that they lead to.
pub struct Replica {
    cluster: Cluster,
    events: Vec<Recorded>,
    provisioning: Provisioning,
    /// Whether each event makes a round trip through its written form and is followed by a comparison. Otherwise some
    /// events make the round trip.
    is_thorough: bool,
}

impl Replica {
    pub fn new(provisioning: Provisioning, is_thorough: bool) -> Self {
        let cluster = Self::empty(&provisioning);
        Self { cluster, events: Vec::new(), provisioning, is_thorough }
    }

    /// Applies an event that was applied to `cluster`. Returns it as it was read.
    pub fn apply(&mut self, rng: &mut Rng, cluster: &Cluster, recorded: Recorded) -> Recorded {
        let decoded = if self.is_thorough || rng.u8(0..16) == 0 {
            let line = serde_json::to_string(&recorded).expect("an event has a text");
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
        } else {
            recorded.clone()
        };
        assert_eq!(decoded, recorded);
        self.cluster.apply(&decoded);
        let now = recorded.at;
        self.events.push(recorded);
        if self.is_thorough {
            assert_eq!(check::violations(cluster), [""; 0]);
            self.compare(now, cluster);
        }
        decoded
    }

    /// Fails unless the events have led to the same state.
    pub fn compare(&self, now: Timestamp, cluster: &Cluster) {
        assert_same_state(now, cluster, self.cluster.clone());
    }

    /// Applies all events to an empty cluster, and fails unless they lead to the same state.
    pub fn replay(&self, now: Timestamp, cluster: &Cluster) {
        let mut replayed = Self::empty(&self.provisioning);
        for recorded in &self.events {
            replayed.apply(recorded);
        }
        assert_same_state(now, cluster, replayed);
    }

    /// A replica starts nothing, but without the same provisioning the two would differ.
    fn empty(provisioning: &Provisioning) -> Cluster {
        let mut cluster = Cluster::default();
        cluster.set_provisioning(provisioning.clone());
        cluster
    }
}

fn assert_same_state(now: Timestamp, cluster: &Cluster, mut replayed: Cluster) {
    let mut own = cluster.clone();
    own.observe(now);
    replayed.observe(now);
    assert_eq!(check::violations(&replayed), [""; 0]);
    // Not `assert_eq!`, whose output would be too long to read.
    assert!(own == replayed, "the replay leads to another state at {now}");
}
