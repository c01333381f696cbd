//! Random histories of a cluster: generated commands, and the events that they led to.

use crate::lease_generator::{self as generator, Shape};
use crate::model::Model;
use cortex_core::Cluster;
use cortex_core::allocation::State;
use cortex_core::command::{Command, Denied, Outcome};
use cortex_core::event::{Event, Limits, Recorded};
use cortex_core::image::{AllocationImage, Outline};
use cortex_core::time::{Millis, Timestamp};
use fastrand::Rng;

/// When histories begin, in milliseconds since 1970: long enough ago that they end before the present.
const BEGIN_MS: i64 = 1_600_000_000_000;

/// Returns the image of the leases, which identifies their state.
pub fn image(cluster: &Cluster) -> (Outline, Vec<AllocationImage<'_>>) {
    (cluster.outline(), cluster.allocation_images().collect())
}

/// Fails unless two clusters have the same leases. It does not print the allocations, which would be unreadable.
#[track_caller]
pub fn assert_same(found: &Cluster, expected: &Cluster, when: &str) {
    assert_eq!(found.outline(), expected.outline(), "{when}");
    assert_eq!(found.private_servers(), expected.private_servers(), "{when}");
    assert!(image(found) == image(expected), "{when}: the allocations are not the same");
}

/// A cluster with a random past, to which each step adds.
pub struct History {
    pub rng: Rng,
    pub now: Timestamp,
    pub cluster: Cluster,
    shape: Shape,
    model: Model,
    begun: bool,
    small_events: u64,
}

impl History {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let shape = Shape::generate(&mut rng);
        let now = Timestamp::from_millis(BEGIN_MS);
        let (mut cluster, mut model) = (Cluster::default(), Model::default());
        cluster.set_provisioning(shape.provisioning.clone());
        model.set_provisioning(shape.provisioning.clone());
        Self { rng, now, cluster, shape, model, begun: false, small_events: 0 }
    }

    /// Advances the time, and generates the next command.
    pub fn next_command(&mut self) -> Command {
        if !std::mem::replace(&mut self.begun, true) {
            return self.shape.capacity(&mut self.rng);
        }
        let before = self.now;
        let to_deadline = self.cluster.next_deadline().map(|(at, _)| at.since(before).0).filter(|ms| *ms < 1_000_000);
        self.now = before.after(Millis(generator::wait_ms(&mut self.rng, to_deadline)));
        if self.rng.u8(0..50) == 0 {
            return generator::outage(&mut self.rng, before);
        }
        self.shape.command(&mut self.rng, &self.model)
    }

    /// Carries out a command, completely or only its first half, and returns its outcome and its events.
    pub fn carry_out(&mut self, command: &Command) -> (Result<Outcome, Denied>, Vec<Recorded>) {
        self.cluster.observe(self.now);
        self.model.observe(self.now);
        let decision = self.cluster.decide(self.now, command);
        let (outcome, mut events) = match decision {
            Ok(decision) => (Ok(decision.outcome), decision.events),
            Err(denied) => (Err(denied), Vec::new()),
        };
        let has_halves = match &outcome {
            Ok(Outcome::Granted { .. }) => true,
            Ok(Outcome::Released(_)) => events.len() == 2,
            _ => false,
        };
        let whole = !(has_halves && self.shape.comes_in_halves(&mut self.rng));
        if !whole {
            events.pop();
        }
        // The model only supplies ids for the generator; another test compares the outcomes.
        let _ = self.model.command(self.now, command, whole);
        (outcome, events.into_iter().map(|event| self.apply(event)).collect())
    }

    /// Takes the next step, and returns its events, if any.
    pub fn step(&mut self) -> Vec<Recorded> {
        let pending = self.rng.choice(self.model.ids(State::Pending));
        if let Some(allocation) = pending.filter(|_| self.rng.u8(0..4) == 0) {
            self.model.activate(self.now, allocation);
            return vec![self.apply(Event::Activated { allocation })];
        }
        let command = self.next_command();
        self.carry_out(&command).1
    }

    /// Returns at least `count` events.
    pub fn events(&mut self, count: usize) -> Vec<Recorded> {
        let mut events = Vec::new();
        while events.len() < count {
            events.extend(self.step());
        }
        events
    }

    /// Returns `count` events that change little and are fast to apply.
    pub fn small_events(&mut self, count: usize) -> Vec<Recorded> {
        let mut events = Vec::new();
        while events.len() < count {
            self.small_events += 1;
            let mut limits = Limits::default();
            limits.history_records_max += self.small_events % 2;
            events.extend(self.carry_out(&Command::SetLimits(limits)).1);
        }
        events
    }

    fn apply(&mut self, event: Event) -> Recorded {
        let recorded = Recorded { at: self.now, event };
        self.cluster.apply(&recorded);
        recorded
    }
}
