//! Random commands for the fleet: the shape of a run, and what is drawn within it. Agents are few, names fewer, budgets and
//! bounds tight, so that paths cross often. The commands for leases are drawn as for the simulation of the lease machine.

use crate::fleet_simulation::fleet::Fleet;
use cortex_core::allocation::{Metadata, State};
use cortex_core::command::Command;
use cortex_core::fleet::agent::{AgentRequest, Capabilities};
use cortex_core::fleet::command::{FleetCommand, Report, ReportedResult};
use cortex_core::fleet::settings::FleetSettings;
use cortex_core::fleet::task::{Complexity, JsonText, Selector, TaskRequest, TaskState, TokensExpected};
use cortex_core::fleet::view::{AgentFilter, AgentState, TaskFilter};
use cortex_core::ids::{AgentId, AgentType, BatchKey, Capability, FencingToken, JobId, TaskId};
use cortex_core::priority::Priority;
use cortex_core::time::{Millis, Timestamp, TtlSeconds};
use cortex_core::units::{CpuMillis, MemoryMb, Resources, WorkerSize};
use cortex_test_support::lease_generator::{self, Shape as LeaseShape};
use fastrand::Rng;
use std::sync::Arc;

/// The most that is drawn in a run.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// How many commands the run has.
    pub(crate) steps: u64,
    /// Whether the state is compared with a replay after each event.
    pub(crate) every_prefix: bool,
    /// The commands for leases.
    leases: LeaseShape,
    /// In percent of all commands: those for leases.
    leases_percent: u64,
    /// Whether there is room for all agents, and leases beside them.
    has_room: bool,
    /// How many agents there are names for.
    agents: u64,
    /// In percent: how often an agent that has nothing else to say sends a heartbeat.
    beats_percent: u64,
    /// About how many tokens there are.
    tokens: u64,
    /// How many tokens a task is said to take at most.
    task_tokens_max: u64,
    tasks_max: u64,
    task_bytes_max: u64,
    ended_task_bytes_max: u64,
    heartbeat_max: u64,
    lease_seconds: &'static [u64],
}

impl Shape {
    /// The shape of the run with this seed.
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let leases = LeaseShape::generate(rng);
        let usual = Self {
            steps: 3_000,
            every_prefix: false,
            leases,
            leases_percent: rng.choice([4, 12, 30]).unwrap_or(12),
            has_room: rng.u8(0..3) > 0,
            agents: rng.u64(1..=8),
            beats_percent: rng.choice([20, 80, 100]).unwrap_or(80),
            tokens: rng.choice([1_000, 3_000, 20_000, 200_000]).unwrap_or(3_000),
            task_tokens_max: rng.choice([10, 1_500, 6_000]).unwrap_or(1_500),
            tasks_max: rng.u64(2..=40),
            task_bytes_max: rng.choice([200, 1_500, 100_000]).unwrap_or(1_500),
            ended_task_bytes_max: rng.choice([0, 100, 600, 100_000]).unwrap_or(600),
            heartbeat_max: rng.choice([1, 3_000, 20_000, 20_000]).unwrap_or(20_000),
            lease_seconds: rng.choice([&[1, 5][..], &[1, 10, 60], &[30, 600]]).unwrap_or(&[60]),
        };
        match rng.u8(0..16) {
            0 => Self { steps: 300, every_prefix: true, ..usual },
            // Nothing is in the way, so that much is done, and much is learned.
            1..4 => Self {
                agents: 8,
                beats_percent: 100,
                tokens: 10_000_000,
                tasks_max: 40,
                task_bytes_max: 1 << 20,
                heartbeat_max: 10_000,
                lease_seconds: &[30, 600],
                ..usual
            },
            _ => usual,
        }
    }

    /// The first commands of a run.
    pub(crate) fn first(&self, rng: &mut Rng, step: u64) -> Option<Command> {
        let command = match step {
            0 => return Some(self.capacity(rng)),
            1 => FleetCommand::SetSettings(self.settings(rng)),
            2 => FleetCommand::SetTokenBudget { job: None, tokens: Some(self.tokens), window: None },
            _ => return None,
        };
        Some(Command::Fleet(command))
    }

    /// Any command.
    pub(crate) fn command(&self, rng: &mut Rng, now: Timestamp, fleet: &Fleet) -> Command {
        if rng.u64(0..100) < self.leases_percent {
            return match self.leases.command(rng, &fleet.ledger) {
                Command::SetCapacity { .. } => self.capacity(rng),
                command => command,
            };
        }
        let holds = !fleet.held().is_empty();
        Command::Fleet(match rng.u8(0..100) {
            0..12 => {
                FleetCommand::Register { request: Box::new(self.agent_request(rng, fleet)), worker_size: size(rng) }
            }
            12..13 => FleetCommand::Unregister { agent: self.known_agent(rng, fleet) },
            13..35 => FleetCommand::Submit { request: Box::new(self.task_request(rng, now)), draw: draw(rng) },
            35..55 => FleetCommand::Claim { agent: self.known_agent(rng, fleet) },
            55..63 => FleetCommand::Assign { task: self.task(rng, fleet), draw: rng.u64(..) },
            63..65 => {
                let (task, _, fencing_token) = self.hold(rng, fleet);
                FleetCommand::Return { task, fencing_token }
            }
            // Reports are made of what is held, and only now and then of what is not.
            65..81 if holds || rng.u8(0..8) == 0 => {
                let (task, agent, fencing_token) = self.hold(rng, fleet);
                FleetCommand::Complete { task, agent, fencing_token, report: Box::new(self.report(rng)) }
            }
            65..73 => {
                FleetCommand::Register { request: Box::new(self.agent_request(rng, fleet)), worker_size: size(rng) }
            }
            73..81 => FleetCommand::Claim { agent: self.known_agent(rng, fleet) },
            81..85 => FleetCommand::Cancel { task: self.task(rng, fleet) },
            85..88 => FleetCommand::Update {
                task: self.task(rng, fleet),
                priority: rng.bool().then(|| priority(rng)),
                deadline: rng.bool().then(|| deadline(rng, now)),
            },
            88..92 => self.budget(rng),
            92..93 => FleetCommand::SetAgentQuota {
                agent_type: rng.bool().then(|| agent_type(rng)),
                agents: (rng.u8(0..3) == 0).then(|| rng.u64(0..8)),
            },
            93..94 => FleetCommand::SetSettings(self.settings(rng)),
            _ => FleetCommand::PassTime { steps_max: rng.choice([0, 1, 2, 3, 100]).unwrap_or(100) },
        })
    }

    /// What is to be done about time that has passed.
    pub(crate) fn pass_time(&self, rng: &mut Rng) -> Command {
        Command::Fleet(FleetCommand::PassTime { steps_max: rng.choice([1, 2, 100, 100]).unwrap_or(100) })
    }

    /// Whether an agent is heard of by the way.
    pub(crate) fn beats(&self, rng: &mut Rng) -> bool {
        rng.u64(0..100) < self.beats_percent
    }

    /// Some agent, registered or not.
    pub(crate) fn agent(&self, rng: &mut Rng) -> AgentId {
        AgentId::new(&format!("agent-{}", rng.u64(0..self.agents))).expect("a name")
    }

    /// Mostly one that is registered.
    fn known_agent(&self, rng: &mut Rng, fleet: &Fleet) -> AgentId {
        let known = rng.choice(fleet.agent_ids()).filter(|_| rng.u8(0..8) > 0);
        known.unwrap_or_else(|| self.agent(rng))
    }

    /// Some task: mostly one that is open, at times one that has ended, or one that never was.
    pub(crate) fn task(&self, rng: &mut Rng, fleet: &Fleet) -> TaskId {
        let known = fleet.task_ids(rng.u8(0..4) > 0);
        rng.choice(known).filter(|_| rng.u8(0..16) > 0).unwrap_or_else(|| task_id(rng))
    }

    /// A filter of agents.
    pub(crate) fn agent_filter(&self, rng: &mut Rng) -> AgentFilter {
        AgentFilter {
            state: rng.choice(AgentState::ALL).filter(|_| rng.bool()),
            agent_type: rng.bool().then(|| agent_type(rng)),
        }
    }

    /// A filter of tasks.
    pub(crate) fn task_filter(&self, rng: &mut Rng) -> TaskFilter {
        TaskFilter {
            state: rng.choice(TaskState::ALL).filter(|_| rng.bool()),
            job: (rng.u8(0..3) == 0).then(|| job(rng)),
            agent: (rng.u8(0..3) == 0).then(|| self.agent(rng)),
        }
    }

    /// What the node has: as for leases alone, or as much as the agents need.
    fn capacity(&self, rng: &mut Rng) -> Command {
        match self.leases.capacity(rng) {
            Command::SetCapacity { node, capacity } if self.has_room => {
                let workers = capacity.workers + self.agents;
                let (cpu_millis, memory_mb) = (CpuMillis::from_millis(2_000 * workers), MemoryMb(4_000 * workers));
                Command::SetCapacity { node, capacity: Resources { cpu_millis, memory_mb, workers } }
            }
            command => command,
        }
    }

    fn settings(&self, rng: &mut Rng) -> FleetSettings {
        FleetSettings {
            tasks_max: rng.u64(self.tasks_max / 2 + 1..=self.tasks_max),
            task_bytes_max: rng.u64(self.task_bytes_max / 2..=self.task_bytes_max),
            ended_task_bytes_max: rng.u64(0..=self.ended_task_bytes_max),
            heartbeat_ms: Millis(rng.u64(self.heartbeat_max / 4 + 1..=self.heartbeat_max)),
            priority_aging_ms: Millis(rng.choice([0, 1, 1_000, 10_000]).unwrap_or(0)),
            response_target_ms: Millis(rng.choice([1, 500, 3_000]).unwrap_or(1)),
        }
    }

    fn agent_request(&self, rng: &mut Rng, fleet: &Fleet) -> AgentRequest {
        let agent = self.agent(rng);
        // Half of them say the same of themselves whenever they come.
        let mut again = Rng::with_seed(agent.as_str().bytes().map(u64::from).sum());
        let rng = if rng.bool() { &mut again } else { rng };
        let allocation = (rng.u8(0..3) == 0).then(|| {
            let active = rng.choice(fleet.ledger.ids(State::Active)).filter(|_| rng.u8(0..8) > 0);
            active.unwrap_or_else(|| lease_generator::allocation(rng, &fleet.ledger))
        });
        AgentRequest {
            agent,
            agent_type: agent_type(rng),
            capabilities: capabilities(rng, 3),
            tasks_max: rng.choice([1, 2, 3, 8]).unwrap_or(1),
            allocation,
            metadata: Metadata::empty(),
        }
    }

    fn task_request(&self, rng: &mut Rng, now: Timestamp) -> TaskRequest {
        let task = (rng.u8(0..4) == 0).then(|| task_id(rng));
        // Half of those with an id are the same whenever that id comes up; a deadline would be another each time.
        let mut again = Rng::with_seed(task.iter().flat_map(|task| task.as_str().bytes()).map(u64::from).sum());
        let repeats = task.is_some() && rng.bool();
        let deadline = if repeats || rng.u8(0..4) > 0 { None } else { Some(deadline(rng, now)) };
        let rng = if repeats { &mut again } else { rng };
        TaskRequest {
            task,
            job: rng.bool().then(|| job(rng)),
            selector: Selector { agent_type: rng.bool().then(|| agent_type(rng)), capabilities: capabilities(rng, 1) },
            priority: priority(rng),
            tokens: self.tokens_expected(rng),
            deadline,
            batch: rng.bool().then(|| batch(rng)),
            payload: rng.bool().then(|| json(rng)),
            attempts_max: rng.choice([1, 2, 3]).unwrap_or(1),
            lease_seconds: TtlSeconds::new(rng.choice(self.lease_seconds).copied().unwrap_or(1)).expect("at least 1"),
        }
    }

    fn tokens_expected(&self, rng: &mut Rng) -> TokensExpected {
        let given = match rng.u16(0..400) {
            0 => Some(u64::MAX),
            1..20 => Some(0),
            // What is worth as much for its tokens as something else.
            20..100 => Some(self.task_tokens_max.min(100) * rng.choice([1, 2, 5, 10]).unwrap_or(1)),
            100..200 => Some(rng.u64(0..=self.task_tokens_max)),
            _ => None,
        };
        TokensExpected {
            given,
            complexity: rng.choice(Complexity::ALL).unwrap_or_default(),
            input_characters: if rng.bool() { 0 } else { rng.u64(0..3_000) },
        }
    }

    /// An agent's hold on a task: mostly one that it has, at times one that it had, or one that is made of others.
    fn hold(&self, rng: &mut Rng, fleet: &Fleet) -> (TaskId, AgentId, FencingToken) {
        let any = (self.task(rng, fleet), self.agent(rng), FencingToken::new(rng.u64(0..40)));
        let held = rng.choice(fleet.held()).unwrap_or_else(|| any.clone());
        match rng.u8(0..12) {
            0 => any,
            1 => (held.0, any.1, held.2),
            2 => (held.0, held.1, any.2),
            3..5 => rng.choice(fleet.attempts()).unwrap_or(any),
            _ => held,
        }
    }

    fn report(&self, rng: &mut Rng) -> Report {
        let result = match rng.u8(0..10) {
            0..7 => ReportedResult::Success,
            7..9 => ReportedResult::Failure,
            _ => ReportedResult::Timeout,
        };
        let tokens_used = match rng.u8(0..20) {
            0 => Some(1 << 40),
            1..11 => Some(rng.u64(0..=2 * self.task_tokens_max)),
            _ => None,
        };
        Report {
            result,
            tokens_used,
            duration: rng.bool().then(|| Millis(rng.u64(0..5_000))),
            output: rng.bool().then(|| json(rng)),
            error: (result != ReportedResult::Success && rng.bool()).then(|| Arc::from("it broke")),
        }
    }

    fn budget(&self, rng: &mut Rng) -> FleetCommand {
        if rng.u8(0..3) == 0 {
            let tokens = (rng.u8(0..3) == 0).then(|| rng.u64(0..=self.tokens));
            return FleetCommand::SetTokenBudget { job: Some(job(rng)), tokens, window: None };
        }
        FleetCommand::SetTokenBudget {
            job: None,
            tokens: rng.bool().then(|| rng.u64(self.tokens / 4..=2 * self.tokens)),
            window: rng.bool().then(|| Millis(rng.choice([0, 700, 5_000, 30_000]).unwrap_or(0))),
        }
    }
}

fn agent_type(rng: &mut Rng) -> AgentType {
    AgentType::new(rng.choice(["backend", "frontend"]).unwrap_or("backend")).expect("a name")
}

/// Each of three with so many chances in four; the third one is hardly ever there.
fn capabilities(rng: &mut Rng, in_four: u8) -> Capabilities {
    let all = ["rust", "sql", "vision"]
        .into_iter()
        .filter(|name| rng.u8(0..4) < in_four && (*name != "vision" || rng.u8(0..8) == 0));
    Capabilities::new(all.map(|name| Capability::new(name).expect("a name")).collect::<Vec<_>>())
}

fn priority(rng: &mut Rng) -> Priority {
    rng.choice(Priority::ALL).unwrap_or_default()
}

/// Mostly one that lies ahead, at times one that is just over.
fn deadline(rng: &mut Rng, now: Timestamp) -> Timestamp {
    let ahead = rng.choice([0, 1, 2, 500, 5_000, 30_000, 100_000]).unwrap_or(0);
    if rng.u8(0..12) == 0 { now.before(Millis(ahead)) } else { now.after(Millis(ahead)) }
}

fn job(rng: &mut Rng) -> JobId {
    JobId::new(&format!("job-{}", rng.u8(0..3))).expect("a name")
}

fn batch(rng: &mut Rng) -> BatchKey {
    BatchKey::new(&format!("batch-{}", rng.u8(0..3))).expect("a name")
}

fn json(rng: &mut Rng) -> JsonText {
    JsonText::new(&serde_json::json!({"é": "x".repeat(rng.usize(0..60))}))
}

/// An id that a submitter chose, or that of a number that was drawn.
fn task_id(rng: &mut Rng) -> TaskId {
    match rng.u8(0..4) {
        0 => TaskId::from_bits(draw(rng)),
        _ => TaskId::new(&format!("my-{}", rng.u8(0..12))).expect("a name"),
    }
}

/// Few numbers, so that they collide; among them the last ids, whose successor is the first.
fn draw(rng: &mut Rng) -> u64 {
    if rng.bool() { rng.u64(0..40) } else { u64::MAX - rng.u64(0..3) }
}

fn size(rng: &mut Rng) -> WorkerSize {
    match rng.u8(0..8) {
        0 => {
            WorkerSize { cpu_millis: CpuMillis::from_millis(rng.u64(0..2_000)), memory_mb: MemoryMb(rng.u64(0..4_000)) }
        }
        _ => WorkerSize { cpu_millis: CpuMillis::from_millis(1_000), memory_mb: MemoryMb(2_048) },
    }
}
