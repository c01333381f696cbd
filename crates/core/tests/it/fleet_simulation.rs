//! A seeded simulation of agents, tasks and tokens: random commands to the cluster and to a naive reference model,
//! compared after each step. Leases and the fleet share one capacity, so the commands include leases.

mod fleet;
mod generate;
mod situations;

use cortex_core::allocation::State;
use cortex_core::command::{Command, Outcome};
use cortex_core::event::{Event, Recorded};
use cortex_core::fleet::command::FleetCommand;
use cortex_core::fleet::image::FleetOutline;
use cortex_core::fleet::view::{AgentFilter, TaskFilter};
use cortex_core::ids::{AgentId, FencingToken, TaskNumber};
use cortex_core::image::{Outline, Restoration};
use cortex_core::provisioning::Provisioning;
use cortex_core::time::{Millis, Timestamp};
use cortex_core::units::{CpuMillis, MemoryMb, WorkerSize};
use cortex_core::view::Filter;
use cortex_core::{Cluster, check};
use cortex_test_support::replica::Replica;
use cortex_test_support::seeded_simulation::{SeededRun, SeededSimulation, SituationCounts};
use fastrand::Rng;
use fleet::Fleet;
use generate::Shape;
use situations::{SITUATIONS, situation, situations_of};
use std::sync::Arc;

/// The worker size for which the number of further agents is compared. Registered agents have any size.
const SIZE: WorkerSize = WorkerSize { cpu_millis: CpuMillis::from_millis(1_000), memory_mb: MemoryMb(2_048) };
/// The number of commands that `cargo test` runs: 9 s on one core.
const STEPS: u64 = 100_000;
/// The seed of the first run. Each further run has the next number.
const SEED: u64 = 20_260_401;
/// The number of steps between comparisons with the replica.
const REPLAY_STEPS: u64 = 64;
/// The number of steps between comparisons of all lists.
const LIST_STEPS: u64 = 8;
/// The number of steps after which a new copy is restored from a snapshot; it then executes the same commands.
const COPY_STEPS: u64 = 200;

#[test]
fn the_fleet_does_what_the_naive_reference_does() {
    let simulation = SeededSimulation {
        command: "cargo test -p cortex-core --test it fleet_simulation::",
        seed: SEED,
        steps: STEPS,
        situations: &SITUATIONS,
        times_min: 25,
    };
    simulation.check::<Run>();
}

/// One run: the cluster, the reference model, a replica that only applies the events, and at times a copy restored from
/// a snapshot.
struct Run {
    rng: Rng,
    shape: Shape,
    now: Timestamp,
    cluster: Cluster,
    fleet: Fleet,
    replica: Replica,
    copy: Option<Cluster>,
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
        let replica = Replica::new(Provisioning::default(), shape.every_prefix);
        Self {
            rng,
            shape,
            now,
            cluster: Cluster::default(),
            fleet: Fleet::new(),
            replica,
            copy: None,
            seen: SituationCounts::default(),
        }
    }

    fn step(&mut self, step: u64) {
        let command = match self.shape.first(&mut self.rng, step) {
            Some(command) => command,
            None => self.next_command(),
        };
        // Decisions about leases must not depend on an earlier `observe`; those about the fleet do.
        if matches!(command, Command::Fleet(_)) || self.rng.bool() {
            self.observe();
        }
        self.record_heartbeat_of_caller(&command);
        if !(self.rng.u8(0..8) == 0 && self.second_half()) {
            self.execute(&command);
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
        self.advance_time();
        if self.rng.u8(0..50) == 0 {
            return cortex_test_support::lease_generator::outage(&mut self.rng, before);
        }
        let is_due = self.cluster.next_fleet_deadline(self.now).is_some_and(|due| due <= self.now);
        // Due changes are recorded soon, as the engine does, but not immediately.
        if is_due && self.rng.u8(0..3) == 0 {
            return self.shape.advance_time(&mut self.rng);
        }
        self.shape.command(&mut self.rng, self.now, &self.fleet)
    }

    /// Advances the time, in one jump or with heartbeats in between.
    fn advance_time(&mut self) {
        let due = self.cluster.next_fleet_deadline(self.now);
        let deadline = self.cluster.next_deadline().map(|(at, _)| at);
        let next = match self.rng.u8(0..4) {
            0 => deadline,
            1 => self.fleet.late_next(self.now),
            _ => due,
        };
        // Jump only to deadlines that are near.
        let ahead = next.map(|at| at.since(self.now).0).filter(|ms| *ms < 100_000);
        let wait = match self.rng.u8(0..20) {
            0..11 => 0,
            11..15 => self.rng.u64(0..300),
            15..16 => self.rng.u64(0..3_000),
            // The deadline itself, or a moment before or after it.
            16..19 => ahead.map_or(0, |ms| (ms + self.rng.u64(0..3)).saturating_sub(1)),
            _ => self.rng.u64(0..30_000),
        };
        let target = self.now.after(Millis(wait));
        let interval = self.cluster.fleet_settings().heartbeat_ms;
        if wait / interval.0 < 100 && self.rng.u8(0..4) > 0 {
            while self.now.after(interval) < target {
                self.now = self.now.after(interval);
                self.record_heartbeats();
            }
        }
        self.now = target;
        if wait > 0 && self.rng.bool() {
            self.record_heartbeats();
        }
        if self.rng.u8(0..200) == 0 {
            self.presume_alive();
        }
    }

    /// Records heartbeats of the agents that send one.
    fn record_heartbeats(&mut self) {
        for agent in self.fleet.agent_ids() {
            if self.shape.sends_heartbeat(&mut self.rng) {
                self.record_heartbeat(&agent);
            }
        }
    }

    /// A call of an agent counts as a heartbeat, which the engine records before the decision; here it may be missing.
    fn record_heartbeat_of_caller(&mut self, command: &Command) {
        let Command::Fleet(command) = command else { return };
        let agent = match command {
            FleetCommand::Register { request, .. } => &request.agent,
            FleetCommand::Claim { agent } | FleetCommand::Complete { agent, .. } => agent,
            _ => return,
        };
        if self.rng.u8(0..4) > 0 {
            self.record_heartbeat(agent);
        }
    }

    fn record_heartbeat(&mut self, agent: &AgentId) {
        self.cluster.record_heartbeat(self.now, agent);
        self.fleet.record_heartbeat(self.now, agent);
        if let Some(copy) = &mut self.copy {
            copy.record_heartbeat(self.now, agent);
        }
    }

    fn presume_alive(&mut self) {
        self.cluster.presume_alive(self.now);
        self.fleet.presume_alive(self.now);
        if let Some(copy) = &mut self.copy {
            copy.presume_alive(self.now);
        }
    }

    fn observe(&mut self) {
        self.cluster.observe(self.now);
        self.fleet.observe(self.now);
        if let Some(copy) = &mut self.copy {
            copy.observe(self.now);
        }
    }

    fn execute(&mut self, command: &Command) {
        let decision = self.cluster.decide(self.now, command);
        if let Some(copy) = &self.copy {
            assert_eq!(copy.decide(self.now, command), decision, "a copy at {} to {command:?}", self.now);
        }
        let has_halves = match &decision {
            Ok(decision) => match &decision.outcome {
                Outcome::Granted { .. } => true,
                Outcome::Released(_) => {
                    let is_half = |event: &Event| matches!(event, Event::Releasing { .. });
                    decision.events.iter().any(is_half)
                }
                _ => false,
            },
            Err(_) => false,
        };
        let whole = !(has_halves && self.rng.u8(0..8) == 0);
        let mut events = Vec::new();
        let outcome = decision.map(|decision| {
            events = decision.events;
            decision.outcome
        });
        let before = self.fleet.clone();
        let expected = self.fleet.command(self.now, command, whole, &events);
        self.seen.add(situation(command, &outcome), 1);
        for what in situations_of(self.now, &before, &self.fleet, &outcome) {
            self.seen.add(what, 1);
        }
        assert_eq!(outcome, expected, "at {} to {command:?}", self.now);
        if !whole {
            events.pop();
        }
        let settles = !matches!(command, Command::Renew { .. });
        let before = (settles && !events.is_empty() && self.rng.u8(0..8) == 0).then(|| self.cluster.clone());
        for event in events {
            self.record(event);
        }
        // Heartbeats are counted by interval, so with another interval they are counted anew.
        if matches!(command, Command::Fleet(FleetCommand::SetSettings(_))) {
            self.presume_alive();
        }
        // A command that leaves the state unchanged must not lead to an event: it would only make the log longer.
        assert!(before.is_none_or(|before| before != self.cluster), "{command:?} changed nothing, and led to an event");
    }

    /// Completes a pending grant or release, if there is any, as a supervisor of processes does. Returns whether it
    /// did.
    fn second_half(&mut self) -> bool {
        let pending = self.rng.choice(self.fleet.ledger.ids(State::Pending));
        let leaving = self.rng.choice(self.fleet.ledger.ids(State::Releasing));
        match (pending, leaving) {
            (Some(allocation), _) if self.rng.bool() => {
                if self.rng.bool() {
                    self.record(Event::Activated { allocation });
                    self.fleet.ledger.activate(self.now, allocation);
                } else {
                    self.record(Event::ActivationFailed { allocation, error: Arc::from("no answer") });
                    self.fleet.ledger.fail(self.now, allocation, "no answer");
                }
            }
            (_, Some(allocation)) => {
                self.record(Event::Released { allocation });
                self.fleet.ledger.finish_release(self.now, allocation);
            }
            _ => return false,
        }
        true
    }

    fn record(&mut self, event: Event) {
        let recorded = Recorded { at: self.now, event };
        self.cluster.apply(&recorded);
        let decoded = self.replica.apply(&mut self.rng, &self.cluster, recorded);
        if let Some(copy) = &mut self.copy {
            copy.apply(&decoded);
        }
    }

    fn compare(&mut self, step: u64) {
        let now = self.now;
        assert_eq!(check::violations(&self.cluster), [""; 0], "at {now}");
        assert_eq!(self.cluster.capacity(now), self.fleet.ledger.capacity(now), "at {now}");
        assert_eq!(self.cluster.next_deadline(), self.fleet.ledger.next_deadline(), "at {now}");
        assert_eq!(self.cluster.usage(now, SIZE), self.fleet.usage(now, SIZE), "at {now}");
        assert_eq!(self.cluster.next_fleet_deadline(now), self.fleet.due(now), "at {now}");
        if let Some(copy) = &self.copy {
            assert_eq!(copy.usage(now, SIZE), self.cluster.usage(now, SIZE), "a copy at {now}");
            assert_eq!(copy.next_fleet_deadline(now), self.cluster.next_fleet_deadline(now), "a copy at {now}");
            let agents = |state: &Cluster| state.agents(now, &AgentFilter::default(), None).collect::<Vec<_>>();
            assert_eq!(agents(copy), agents(&self.cluster), "a copy at {now}");
        }
        let (task, agent) = (self.shape.task(&mut self.rng, &self.fleet), self.shape.agent(&mut self.rng));
        assert_eq!(self.cluster.task(now, &task), self.fleet.task(now, &task), "at {now}");
        assert_eq!(self.cluster.agent(now, &agent), self.fleet.agent(now, &agent), "at {now}");
        let job = self.fleet.task(now, &task).and_then(|view| view.task.spec.request.job.clone());
        assert_eq!(self.cluster.job_of_task(&task), job.as_ref(), "at {now}");
        if step.is_multiple_of(LIST_STEPS) {
            self.compare_lists();
        }
        if step.is_multiple_of(REPLAY_STEPS) {
            self.replica.compare(now, &self.cluster);
        }
        if step % COPY_STEPS == COPY_STEPS - 1 {
            self.copy();
        }
    }

    fn compare_lists(&mut self) {
        let after_task = TaskNumber::new(self.rng.u64(0..200));
        let after_agent = self.shape.agent(&mut self.rng);
        let tasks = self.shape.task_filter(&mut self.rng);
        let agents = self.shape.agent_filter(&mut self.rng);
        for (filter, after) in
            [(&TaskFilter::default(), TaskNumber::new(0)), (&tasks, TaskNumber::new(0)), (&tasks, after_task)]
        {
            let listed: Vec<_> = self.cluster.tasks(self.now, filter, after).collect();
            assert_eq!(listed, self.fleet.tasks(self.now, filter, after), "{filter:?} after {after:?}");
            let all = self.fleet.tasks(self.now, filter, TaskNumber::new(0)).len() as u64;
            assert_eq!(self.cluster.count_tasks(filter), all, "{filter:?}");
        }
        for (filter, after) in [(&AgentFilter::default(), None), (&agents, None), (&agents, Some(&after_agent))] {
            let listed: Vec<_> = self.cluster.agents(self.now, filter, after).collect();
            assert_eq!(listed, self.fleet.agents(self.now, filter, after), "{filter:?} after {after:?}");
            let all = self.fleet.agents(self.now, filter, None).len() as u64;
            assert_eq!(self.cluster.count_agents(self.now, filter), all, "{filter:?}");
        }
        let expected: Vec<_> = self.fleet.tasks_by_efficiency().into_iter().map(|task| task.spec.number).collect();
        assert_eq!(self.cluster.tasks_by_efficiency(), expected, "at {}", self.now);
        let leases: Vec<_> = self.cluster.list(self.now, &Filter::default(), FencingToken::new(0)).collect();
        assert_eq!(leases, self.fleet.ledger.list(self.now, &Filter::default(), FencingToken::new(0)));
        assert_eq!(self.cluster.fleet_metrics(self.now, SIZE), self.fleet.figures(self.now, SIZE), "at {}", self.now);
        assert_eq!(self.cluster.fleet_summary(self.now), self.fleet.summary(self.now), "at {}", self.now);
    }

    /// Replaces the copy with one restored from a snapshot. Heartbeats are not part of a snapshot.
    fn copy(&mut self) {
        self.observe();
        if let Some(copy) = self.copy.take() {
            assert!(copy.has_image_of(&self.cluster), "a copy has diverged by {}", self.now);
        }
        let mut copy = restored(&self.cluster);
        copy.observe(self.now);
        assert_eq!(check::violations(&copy), [""; 0], "a copy at {}", self.now);
        assert!(copy.has_image_of(&self.cluster), "a copy differs at {}", self.now);
        self.copy = Some(copy);
        self.presume_alive();
    }
}

/// Restores a cluster from its serialized snapshot.
fn restored(state: &Cluster) -> Cluster {
    let outline = postcard::to_stdvec(&state.outline()).expect("an outline can be written");
    let mut restoration = Restoration::new(postcard::from_bytes::<Outline>(&outline).expect("and read"));
    for image in state.allocation_images() {
        restoration.add(&image).expect("an image of this state");
    }
    if let Some(outline) = state.fleet_outline() {
        let written = postcard::to_stdvec(&outline).expect("an outline can be written");
        let read: FleetOutline = postcard::from_bytes(&written).expect("and read");
        assert_eq!(read, outline);
        restoration.add_fleet(read);
    }
    for image in state.agent_images() {
        restoration.add_agent(&image).expect("an image of this state");
    }
    for image in state.task_images() {
        restoration.add_task(&image).expect("an image of this state");
    }
    restoration.finish()
}
