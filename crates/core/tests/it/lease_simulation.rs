//! A seeded simulation: random commands to the lease machine and to a naive reference, compared at each step.

use cortex_core::allocation::State;
use cortex_core::command::{Command, Denied, Outcome, Shortage};
use cortex_core::event::{Event, Recorded};
use cortex_core::ids::{AllocationId, FencingToken};
use cortex_core::time::{Millis, Timestamp};
use cortex_core::view::Filter;
use cortex_core::{Cluster, check};
use cortex_test_support::lease_generator::{self, Shape};
use cortex_test_support::model::Model;
use cortex_test_support::replica::Replica;
use cortex_test_support::seeded_simulation::{SeededRun, SeededSimulation, SituationCounts};
use fastrand::Rng;

/// The number of commands that `cargo test` runs: 5 s on one core.
const STEPS: u64 = 500_000;
/// The seed of the first run. Each further run has the next number.
const SEED: u64 = 20_260_101;
/// The number of steps between comparisons with the replica.
const REPLAY_STEPS: u64 = 64;
/// The number of steps between comparisons of all lists.
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
    let simulation = SeededSimulation {
        command: "cargo test -p cortex-core --test it lease_simulation::",
        seed: SEED,
        steps: STEPS,
        situations: &SITUATIONS,
        times_min: 10,
    };
    simulation.check::<Run>();
}

/// One run: the machine, the reference, and a replica that only applies the events.
struct Run {
    rng: Rng,
    shape: Shape,
    now: Timestamp,
    cluster: Cluster,
    model: Model,
    replica: Replica,
    seen: SituationCounts,
}

impl SeededRun for Run {
    fn steps_of(seed: u64) -> u64 {
        Shape::generate(&mut Rng::with_seed(seed)).steps
    }

    fn start(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let shape = Shape::generate(&mut rng);
        let now = Timestamp::from_millis(rng.i64(-10_000_000_000..2_000_000_000_000));
        let (mut cluster, mut model) = (Cluster::default(), Model::default());
        cluster.set_provisioning(shape.provisioning.clone());
        model.set_provisioning(shape.provisioning.clone());
        let replica = Replica::new(shape.provisioning.clone(), shape.every_prefix);
        Self { rng, shape, now, cluster, model, replica, seen: SituationCounts::default() }
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

    fn finish(self) -> SituationCounts {
        self.replica.replay(self.now, &self.cluster);
        self.seen
    }
}

impl Run {
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
        self.seen.add(situation(&outcome), 1);
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
        self.replica.apply(&mut self.rng, &self.cluster, recorded);
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
            self.replica.compare(self.now, &self.cluster);
        }
    }

    fn compare_lists(&self, filter: &Filter, after: FencingToken) {
        let listed: Vec<_> = self.cluster.list(self.now, filter, after).collect();
        assert_eq!(listed, self.model.list(self.now, filter, after), "{filter:?} after {after}");
        let all = self.model.list(self.now, filter, FencingToken::new(0)).len() as u64;
        assert_eq!(self.cluster.count(filter), all, "{filter:?}");
    }
}
