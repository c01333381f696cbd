//! A seeded simulation: random commands to the lease machine and to a naive reference, compared at each step.
//!
//! `CORTEX_SIM_SEED` and `CORTEX_SIM_STEPS` set seed and length; `.ci/simulate` runs many more steps. A failure
//! prints the seed of its run, and the command that repeats it.

use cortex_core::allocation::State;
use cortex_core::command::{Command, Denied, Outcome, Shortage};
use cortex_core::event::{Event, Recorded};
use cortex_core::ids::{AllocationId, FencingToken};
use cortex_core::time::{Millis, Timestamp};
use cortex_core::view::Filter;
use cortex_core::{Cluster, check};
use cortex_test_support::lease_generator::{self, Shape};
use cortex_test_support::model::Model;
use cortex_test_support::seeded_runs::{SeededRuns, SituationCounts};
use fastrand::Rng;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How many commands `cargo test` runs.
const STEPS: u64 = 1_000_000;
/// The seed of the first run; the next run has the next number.
const SEED: u64 = 20_260_101;
/// How often the state is compared with that of a replay, in steps.
const REPLAY_STEPS: u64 = 64;
/// How often all lists are compared, in steps.
const LIST_STEPS: u64 = 8;

/// The situations that a simulation has to reach to be worth its time.
const SITUATIONS: [&str; 26] = [
    "already released",
    "below leased",
    "below live",
    "done",
    "expired",
    "granted",
    "granted after a reclaim",
    "more left by a sweep",
    "insufficient CPU",
    "too many live allocations",
    "insufficient memory",
    "insufficient server ports",
    "insufficient workers",
    "not active",
    "not pending",
    "not releasing",
    "released",
    "releasing",
    "renewed",
    "repeated",
    "request id reused",
    "capacity pending",
    "stale token",
    "swept",
    "unknown",
    "unknown servers",
];

/// Returns the situation that an outcome stands for.
fn situation(outcome: &Result<Outcome, Denied>) -> &'static str {
    match outcome {
        Ok(Outcome::Done | Outcome::PolicySet { .. }) => "done",
        Ok(Outcome::Granted { reclaimed, .. }) if reclaimed.is_empty() => "granted",
        Ok(Outcome::Granted { .. }) => "granted after a reclaim",
        Ok(Outcome::Repeated { .. }) => "repeated",
        Ok(Outcome::CapacityPending { .. }) => "capacity pending",
        Ok(Outcome::Releasing { .. }) => "releasing",
        Ok(Outcome::Released(_)) => "released",
        Ok(Outcome::AlreadyReleased { .. }) => "already released",
        Ok(Outcome::Renewed { .. }) => "renewed",
        Ok(Outcome::Swept { more: true, .. }) => "more left by a sweep",
        Ok(Outcome::Swept { .. }) => "swept",
        Err(Denied::InsufficientCapacity { shortage, .. }) => match shortage {
            Shortage::Workers { .. } => "insufficient workers",
            Shortage::Cpu { .. } => "insufficient CPU",
            Shortage::Memory { .. } => "insufficient memory",
            Shortage::ServerPorts { .. } => "insufficient server ports",
            Shortage::WorkerPorts { .. } => "insufficient worker ports",
            Shortage::LiveAllocations { .. } => "too many live allocations",
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
    let plan = SeededRuns { seed: SEED, steps: STEPS, situations: &SITUATIONS, times_min: 100 };
    plan.run(|seed| Shape::generate(&mut Rng::with_seed(seed)).steps, run);
}

/// Runs one seed. A failure ends with the command that repeats it.
fn run(seed: u64, steps: u64) -> SituationCounts {
    let mut reached = 0;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut rng = Rng::with_seed(seed);
        let shape = Shape::generate(&mut rng);
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

/// One run: the machine, the reference, and a replica that only applies the events.
struct Run {
    rng: Rng,
    shape: Shape,
    now: Timestamp,
    cluster: Cluster,
    model: Model,
    replica: Cluster,
    events: Vec<Recorded>,
    seen: SituationCounts,
}

impl Run {
    fn new(mut rng: Rng, shape: Shape) -> Self {
        let now = Timestamp::from_millis(rng.i64(-10_000_000_000..2_000_000_000_000));
        let (mut cluster, mut replica, mut model) = (Cluster::default(), Cluster::default(), Model::default());
        cluster.set_provisioning(shape.provisioning.clone());
        // The replica does not need it, but with it the two can be compared.
        replica.set_provisioning(shape.provisioning.clone());
        model.set_provisioning(shape.provisioning.clone());
        Self { rng, shape, now, cluster, model, replica, events: Vec::new(), seen: SituationCounts::new() }
    }

    fn step(&mut self, step: u64) {
        let command = if step == 0 { self.shape.capacity(&mut self.rng) } else { self.next_command() };
        // A decision must not depend on whether there was an observation before.
        if self.rng.bool() {
            self.cluster.observe(self.now);
            self.model.observe(self.now);
        }
        if !(self.rng.u8(0..4) == 0 && self.second_half()) {
            self.carry_out(&command);
        }
        self.compare(step);
    }

    /// Advances the time, and generates the next command.
    fn next_command(&mut self) -> Command {
        let before = self.now;
        let deadline = self.cluster.next_deadline();
        // A lease without an end is not a moment to jump to.
        let to_deadline = deadline.map(|(at, _)| at.since(before).0).filter(|ms| *ms < 1_000_000);
        self.now = before.after(Millis(lease_generator::wait_ms(&mut self.rng, to_deadline)));
        if self.rng.u8(0..50) == 0 {
            return lease_generator::outage(&mut self.rng, before);
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
        // A command that changes nothing must not lead to an event, which would only make the log grow.
        let settles =
            matches!(command, Command::SetCapacity { .. } | Command::SetLimits(_) | Command::TrimHistory { .. });
        let before = (settles && !events.is_empty()).then(|| self.cluster.clone());
        for event in events {
            self.record(event);
        }
        assert!(before.is_none_or(|before| before != self.cluster), "{command:?} changed nothing, and led to an event");
    }

    /// Finishes something that was begun before, if there is anything.
    fn second_half(&mut self) -> bool {
        let waits = |state| !self.model.ids(state).is_empty();
        if !waits(State::Pending) && !waits(State::Releasing) {
            return false;
        }
        let command = lease_generator::second_half(&mut self.rng, &self.model);
        self.carry_out(&command);
        true
    }

    fn record(&mut self, event: Event) {
        let recorded = Recorded { at: self.now, event };
        self.cluster.apply(&recorded);
        // Some events go through their written form.
        let read = if self.shape.every_prefix || self.rng.u8(0..16) == 0 {
            let line = serde_json::to_string(&recorded).expect("an event has a text");
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
        } else {
            recorded.clone()
        };
        assert_eq!(read, recorded);
        self.replica.apply(&read);
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
        let id: AllocationId = lease_generator::allocation(&mut self.rng, &self.model);
        assert_eq!(self.cluster.allocation(self.now, id), self.model.allocation(self.now, id));
        if step.is_multiple_of(LIST_STEPS) {
            let after = FencingToken::new(self.rng.u64(0..200));
            self.compare_lists(&Filter::default(), FencingToken::new(0));
            let filter = lease_generator::filter(&mut self.rng);
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

    fn compare_with(&self, mut replayed: Cluster) {
        let mut own = self.cluster.clone();
        own.observe(self.now);
        replayed.observe(self.now);
        assert_eq!(check::violations(&replayed), [""; 0]);
        // The difference would be too long to read.
        assert!(own == replayed, "the events lead elsewhere at {}", self.now);
    }

    /// Applies all events of the run to a new machine.
    fn replay_all(&self) {
        let mut replayed = Cluster::default();
        replayed.set_provisioning(self.shape.provisioning.clone());
        for recorded in &self.events {
            replayed.apply(recorded);
        }
        self.compare_with(replayed);
    }
}
