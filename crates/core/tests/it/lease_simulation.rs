//! A seeded simulation: random commands against the lease machine and against a naive reference, compared at each step.
//!
//! Seed and length come from `CORTEX_SIM_SEED` and `CORTEX_SIM_STEPS`; `.ci/simulate` runs many more steps. A failure
//! prints the seed of its run, and the command that repeats it.

use cortex_core::allocation::State;
use cortex_core::command::{Command, Denied, Outcome, Shortage};
use cortex_core::event::{Event, Recorded};
use cortex_core::ids::{AllocationId, FencingToken};
use cortex_core::time::{Millis, Timestamp};
use cortex_core::view::Filter;
use cortex_core::{Cluster, check};
use cortex_test_support::lease_draws::{self, Shape};
use cortex_test_support::model::Model;
use cortex_test_support::seeds::{Plan, Seen};
use fastrand::Rng;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How many commands `cargo test` runs.
const STEPS: u64 = 1_000_000;
/// The seed of the first run; the next run has the next number.
const SEED: u64 = 20_260_101;
/// Every so many steps the state is compared with that of a replay.
const REPLAY_STEPS: u64 = 64;
/// Every so many steps all lists are compared.
const LIST_STEPS: u64 = 8;

/// What a simulation has to meet to be worth its time.
const SITUATIONS: [&str; 26] = [
    "already released",
    "below leased",
    "below live",
    "done",
    "expired",
    "granted",
    "granted after a reclaim",
    "more left by a sweep",
    "no room for CPU",
    "no room for live allocations",
    "no room for memory",
    "no room for servers",
    "no room for workers",
    "not active",
    "not pending",
    "not releasing",
    "released",
    "releasing",
    "renewed",
    "repeated",
    "request id reused",
    "room is coming",
    "stale token",
    "swept",
    "unknown",
    "unknown servers",
];

/// What kind of answer this is.
fn situation(outcome: &Result<Outcome, Denied>) -> &'static str {
    match outcome {
        Ok(Outcome::Done) => "done",
        Ok(Outcome::Granted { reclaimed, .. }) if reclaimed.is_empty() => "granted",
        Ok(Outcome::Granted { .. }) => "granted after a reclaim",
        Ok(Outcome::Repeated { .. }) => "repeated",
        Ok(Outcome::RoomIsComing { .. }) => "room is coming",
        Ok(Outcome::Releasing { .. }) => "releasing",
        Ok(Outcome::Released(_)) => "released",
        Ok(Outcome::AlreadyReleased { .. }) => "already released",
        Ok(Outcome::Renewed { .. }) => "renewed",
        Ok(Outcome::Swept { more: true, .. }) => "more left by a sweep",
        Ok(Outcome::Swept { .. }) => "swept",
        Err(Denied::NoRoom { shortage, .. }) => match shortage {
            Shortage::Workers { .. } => "no room for workers",
            Shortage::Cpu { .. } => "no room for CPU",
            Shortage::Memory { .. } => "no room for memory",
            Shortage::ServerPorts { .. } => "no room for servers",
            Shortage::WorkerPorts { .. } => "no room for the ports of workers",
            Shortage::LiveAllocations { .. } => "no room for live allocations",
        },
        Err(Denied::NoNode) => "no node",
        Err(Denied::UnknownAllocation(_)) => "unknown",
        Err(Denied::RequestIdReused { .. }) => "request id reused",
        Err(Denied::StaleToken { .. }) => "stale token",
        Err(Denied::Expired { .. }) => "expired",
        Err(Denied::NotActive { .. }) => "not active",
        Err(Denied::NotPending { .. }) => "not pending",
        Err(Denied::NotReleasing { .. }) => "not releasing",
        Err(Denied::UnknownServers { .. }) => "unknown servers",
        Err(Denied::BelowLeased { .. }) => "below leased",
        Err(Denied::BelowLive { .. }) => "below live",
        Ok(Outcome::Fleet(_)) | Err(Denied::Fleet(_)) => "of the fleet",
    }
}

#[test]
fn the_lease_machine_does_what_the_naive_reference_does() {
    let plan = Plan { seed: SEED, steps: STEPS, situations: &SITUATIONS, times_min: 100 };
    plan.run(|seed| Shape::draw(&mut Rng::with_seed(seed)).steps, run);
}

/// Runs one seed. A failure ends with the command that repeats it.
fn run(seed: u64, steps: u64) -> Seen {
    let mut reached = 0;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut rng = Rng::with_seed(seed);
        let shape = Shape::draw(&mut rng);
        let mut run = Run::new(rng, shape);
        for step in 0..steps {
            reached = step + 1;
            run.step(step);
        }
        run.replay_all();
        run.seen
    }));
    outcome.unwrap_or_else(|_| {
        panic!(
            "the run of seed {seed} failed at its step {reached}, for the reason above. To repeat it: \
         CORTEX_SIM_SEED={seed} CORTEX_SIM_STEPS={reached} cargo test -p cortex-core --test it lease_simulation::"
        )
    })
}

/// One run: the machine, the reference, and a second machine that is only told the events.
struct Run {
    rng: Rng,
    shape: Shape,
    now: Timestamp,
    cluster: Cluster,
    model: Model,
    replica: Cluster,
    events: Vec<Recorded>,
    seen: Seen,
}

impl Run {
    fn new(mut rng: Rng, shape: Shape) -> Self {
        let now = Timestamp::from_millis(rng.i64(-10_000_000_000..2_000_000_000_000));
        let (mut cluster, mut replica, mut model) = (Cluster::default(), Cluster::default(), Model::default());
        cluster.set_provisioning(shape.provisioning.clone());
        // It needs none to be told the events; with them the two can be compared.
        replica.set_provisioning(shape.provisioning.clone());
        model.set_provisioning(shape.provisioning.clone());
        Self { rng, shape, now, cluster, model, replica, events: Vec::new(), seen: Seen::new() }
    }

    fn step(&mut self, step: u64) {
        let command = if step == 0 { self.shape.capacity(&mut self.rng) } else { self.next_command() };
        // A decision must not depend on whether somebody looked before.
        if self.rng.bool() {
            self.cluster.observe(self.now);
            self.model.observe(self.now);
        }
        if !(self.rng.u8(0..4) == 0 && self.second_half()) {
            self.carry_out(&command);
        }
        self.compare(step);
    }

    /// Lets time go on, and draws what is asked for then.
    fn next_command(&mut self) -> Command {
        let before = self.now;
        let deadline = self.cluster.next_deadline();
        // A lease without end is no place to jump to.
        let ahead = deadline.map(|(at, _)| at.since(before).0).filter(|ms| *ms < 1_000_000);
        self.now = before.after(Millis(lease_draws::wait_ms(&mut self.rng, ahead)));
        if self.rng.u8(0..50) == 0 {
            return lease_draws::outage(&mut self.rng, before);
        }
        self.shape.command(&mut self.rng, &self.model)
    }

    fn carry_out(&mut self, command: &Command) {
        let decision = self.cluster.decide(self.now, command);
        let has_halves = match decision.as_ref().map(|decision| &decision.outcome) {
            Ok(Outcome::Granted { .. }) => true,
            Ok(Outcome::Released(_)) => decision.as_ref().is_ok_and(|decision| decision.events.len() == 2),
            _ => false,
        };
        let whole = !(has_halves && self.shape.comes_in_halves(&mut self.rng));
        let expected = self.model.command(self.now, command, whole);
        let mut events = Vec::new();
        let outcome: Result<Outcome, Denied> = decision.map(|decision| {
            events = decision.events;
            decision.outcome
        });
        *self.seen.entry(situation(&outcome)).or_default() += 1;
        assert_eq!(outcome, expected, "at {} to {command:?}", self.now);
        if !whole {
            events.pop();
        }
        // What leaves the books as they are is no event: a log would grow by it for nothing.
        let settles =
            matches!(command, Command::SetCapacity { .. } | Command::SetLimits(_) | Command::TrimHistory { .. });
        let before = (settles && !events.is_empty()).then(|| self.cluster.clone());
        for event in events {
            self.record(event);
        }
        assert!(before.is_none_or(|before| before != self.cluster), "{command:?} changed nothing, and led to an event");
    }

    /// The second half of something begun before, if there is any.
    fn second_half(&mut self) -> bool {
        let waits = |state| !self.model.ids(state).is_empty();
        if !waits(State::Pending) && !waits(State::Releasing) {
            return false;
        }
        let command = lease_draws::second_half(&mut self.rng, &self.model);
        self.carry_out(&command);
        true
    }

    fn record(&mut self, event: Event) {
        let recorded = Recorded { at: self.now, event };
        self.cluster.apply(&recorded);
        // Some events go the way through their written form.
        let told = if self.shape.every_prefix || self.rng.u8(0..16) == 0 {
            let line = serde_json::to_string(&recorded).expect("an event has a text");
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
        } else {
            recorded.clone()
        };
        assert_eq!(told, recorded);
        self.replica.apply(&told);
        self.events.push(recorded);
        if self.shape.every_prefix {
            assert_eq!(check::violations(&self.cluster), [""; 0]);
            self.compare_replica();
        }
    }

    fn compare(&mut self, step: u64) {
        assert_eq!(check::violations(&self.cluster), [""; 0], "at {}", self.now);
        assert_eq!(self.cluster.capacity(self.now), self.model.capacity(self.now), "at {}", self.now);
        assert_eq!(self.cluster.next_deadline(), self.model.next_deadline(), "at {}", self.now);
        let id: AllocationId = lease_draws::allocation(&mut self.rng, &self.model);
        assert_eq!(self.cluster.allocation(self.now, id), self.model.allocation(self.now, id));
        if step.is_multiple_of(LIST_STEPS) {
            let after = FencingToken::new(self.rng.u64(0..200));
            self.compare_lists(&Filter::default(), FencingToken::new(0));
            let filter = lease_draws::filter(&mut self.rng);
            self.compare_lists(&filter, after);
        }
        if step.is_multiple_of(REPLAY_STEPS) {
            self.compare_replica();
        }
    }

    fn compare_lists(&self, filter: &Filter, after: FencingToken) {
        let listed: Vec<_> = self.cluster.list(self.now, filter, after).collect();
        assert_eq!(listed, self.model.list(self.now, filter, after), "{filter:?} after {after}");
        let all = self.model.list(self.now, filter, FencingToken::new(0)).len() as u64;
        assert_eq!(self.cluster.count(filter), all, "{filter:?}");
    }

    fn compare_replica(&self) {
        self.compare_with(self.replica.clone());
    }

    fn compare_with(&self, mut folded: Cluster) {
        let mut own = self.cluster.clone();
        own.observe(self.now);
        folded.observe(self.now);
        assert_eq!(check::violations(&folded), [""; 0]);
        // What differs would not be readable in full.
        assert!(own == folded, "the events lead elsewhere at {}", self.now);
    }

    /// Folds all events of the run into a fresh machine.
    fn replay_all(&self) {
        let mut folded = Cluster::default();
        folded.set_provisioning(self.shape.provisioning.clone());
        for recorded in &self.events {
            folded.apply(recorded);
        }
        self.compare_with(folded);
    }
}
