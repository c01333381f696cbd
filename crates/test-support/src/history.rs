//! Random histories of books: commands drawn as the simulation of the lease machine draws them, and the events they led to.

use crate::lease_draws::{self as draws, Shape};
use crate::model::Model;
use cortex_core::Cluster;
use cortex_core::allocation::State;
use cortex_core::command::{Command, Denied, Outcome};
use cortex_core::event::{Event, Limits, Recorded};
use cortex_core::image::{AllocationImage, Outline};
use cortex_core::time::{Millis, Timestamp};
use fastrand::Rng;

/// When histories begin, in milliseconds since 1970: long enough ago that nothing in them lies ahead of the system's clock.
const BEGIN_MS: i64 = 1_600_000_000_000;

/// What makes books the books they are.
pub fn image(books: &Cluster) -> (Outline, Vec<AllocationImage<'_>>) {
    (books.outline(), books.allocation_images().collect())
}

/// Fails unless two books are the same; in full they would not be readable.
#[track_caller]
pub fn assert_same(found: &Cluster, expected: &Cluster, when: &str) {
    assert_eq!(found.outline(), expected.outline(), "{when}");
    assert_eq!(found.private_servers(), expected.private_servers(), "{when}");
    assert!(image(found) == image(expected), "{when}: the allocations are not the same");
}

/// Books with a random past, and more of it at each step.
pub struct History {
    pub rng: Rng,
    pub now: Timestamp,
    pub books: Cluster,
    shape: Shape,
    model: Model,
    begun: bool,
    small_events: u64,
}

impl History {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let shape = Shape::draw(&mut rng);
        let now = Timestamp::from_millis(BEGIN_MS);
        let (mut books, mut model) = (Cluster::default(), Model::default());
        books.set_provisioning(shape.provisioning.clone());
        model.set_provisioning(shape.provisioning.clone());
        Self { rng, now, books, shape, model, begun: false, small_events: 0 }
    }

    /// Lets time go on, and draws what is asked for then.
    pub fn next_command(&mut self) -> Command {
        if !std::mem::replace(&mut self.begun, true) {
            return self.shape.capacity(&mut self.rng);
        }
        let before = self.now;
        let ahead = self.books.next_deadline().map(|(at, _)| at.since(before).0).filter(|ms| *ms < 1_000_000);
        self.now = before.after(Millis(draws::wait_ms(&mut self.rng, ahead)));
        if self.rng.u8(0..50) == 0 {
            return draws::outage(&mut self.rng, before);
        }
        self.shape.command(&mut self.rng, &self.model)
    }

    /// Carries a command out, in full or only its first half, and gives its answer and its events.
    pub fn carry_out(&mut self, command: &Command) -> (Result<Outcome, Denied>, Vec<Recorded>) {
        self.books.observe(self.now);
        self.model.observe(self.now);
        let decision = self.books.decide(self.now, command);
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
        // The model is there to draw from; that it answers the same is another test's matter.
        let _ = self.model.command(self.now, command, whole);
        (outcome, events.into_iter().map(|event| self.apply(event)).collect())
    }

    /// The events of the next thing that happens, if it leads to any.
    pub fn step(&mut self) -> Vec<Recorded> {
        let pending = self.rng.choice(self.model.ids(State::Pending));
        if let Some(allocation) = pending.filter(|_| self.rng.u8(0..4) == 0) {
            self.model.activate(self.now, allocation);
            return vec![self.apply(Event::Activated { allocation })];
        }
        let command = self.next_command();
        self.carry_out(&command).1
    }

    /// At least so many events.
    pub fn events(&mut self, count: usize) -> Vec<Recorded> {
        let mut events = Vec::new();
        while events.len() < count {
            events.extend(self.step());
        }
        events
    }

    /// So many events that change little, and are made in no time.
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
        self.books.apply(&recorded);
        recorded
    }
}
