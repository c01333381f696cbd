//! Generates random commands for the fleet within the shape of a run. Agents and names are few and limits tight, so
//! that commands interact often. Commands for leases are generated as in the simulation of leases.

use crate::fleet_simulation::fleet::Fleet;
use cortex_core::allocation::{Metadata, State};
use cortex_core::command::Command;
use cortex_core::fleet::agent::{AgentRequest, Capabilities};
use cortex_core::fleet::command::{FleetCommand, ReportedResult, TaskReport};
use cortex_core::fleet::settings::FleetSettings;
use cortex_core::fleet::task::{Complexity, JsonText, Selector, TaskRequest, TaskState, TokenHints};
use cortex_core::fleet::view::{AgentFilter, AgentState, TaskFilter};
use cortex_core::ids::{AgentId, AgentType, BatchKey, Capability, FencingToken, JobId, TaskId};
use cortex_core::priority::Priority;
use cortex_core::time::{Millis, Timestamp, TtlSeconds};
use cortex_core::units::{CpuMillis, MemoryMb, Resources};
use cortex_test_support::lease_generator::{self, Shape as LeaseShape};
use fastrand::Rng;
use std::sync::Arc;

/// The limits of the values generated in a run.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) steps: u64,
    pub(crate) every_prefix: bool,
    /// The generator of commands for leases.
    leases: LeaseShape,
    /// The share of commands for leases, in percent.
    leases_percent: u64,
    /// Whether there is capacity for all agents along with leases.
    has_capacity: bool,
    /// The number of distinct agent ids.
    agents: u64,
    /// How often an otherwise silent agent sends a heartbeat, in percent.
    heartbeats_percent: u64,
    /// The approximate token budget.
    tokens: u64,
    /// The maximum estimate that a submitter gives.
    task_tokens_max: u64,
    tasks_max: u64,
    task_bytes_max: u64,
    ended_task_bytes_max: u64,
    heartbeat_max: u64,
    lease_seconds: &'static [u64],
}

impl Shape {
    /// Generates the shape of a run.
    pub(crate) fn generate(rng: &mut Rng) -> Self {
        let leases = LeaseShape::generate(rng);
        let usual = Self {
            steps: 3_000,
            every_prefix: false,
            leases,
            leases_percent: rng.choice([4, 12, 30]).unwrap_or(12),
            has_capacity: rng.u8(0..3) > 0,
            agents: rng.u64(1..=8),
            heartbeats_percent: rng.choice([20, 80, 100]).unwrap_or(80),
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
            // Generous limits, so that many tasks are completed and estimates are learned.
            1..4 => Self {
                agents: 8,
                heartbeats_percent: 100,
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

    /// The first commands of a run, which set it up.
    pub(crate) fn first(&self, rng: &mut Rng, step: u64) -> Option<Command> {
        let command = match step {
            0 => return Some(self.capacity(rng)),
            1 => FleetCommand::SetSettings(self.settings(rng)),
            2 => FleetCommand::SetTokenBudget { job: None, tokens: Some(self.tokens), window: None },
            _ => return None,
        };
        Some(Command::Fleet(command))
    }

    /// Generates any command.
    pub(crate) fn command(&self, rng: &mut Rng, now: Timestamp, fleet: &Fleet) -> Command {
        if rng.u64(0..100) < self.leases_percent {
            return match self.leases.command(rng, &fleet.ledger) {
                Command::SetCapacity { .. } => self.capacity(rng),
                command => command,
            };
        }
        let holds = !fleet.held().is_empty();
        Command::Fleet(match rng.u8(0..100) {
            0..12 => FleetCommand::Register {
                request: Box::new(self.agent_request(rng, fleet)),
                worker_size: lease_generator::size(rng),
            },
            12..13 => FleetCommand::Unregister { agent: self.known_agent(rng, fleet) },
            13..35 => FleetCommand::Submit {
                request: Box::new(self.task_request(rng, now)),
                random: lease_generator::id_bits(rng),
            },
            35..55 => FleetCommand::Claim { agent: self.known_agent(rng, fleet) },
            55..63 => FleetCommand::Assign { task: self.task(rng, fleet), random: rng.u64(..) },
            63..65 => {
                let (task, _, fencing_token) = self.hold(rng, fleet);
                FleetCommand::Return { task, fencing_token }
            }
            // Most reports are on tasks that are held, a few on others.
            65..81 if holds || rng.u8(0..8) == 0 => {
                let (task, agent, fencing_token) = self.hold(rng, fleet);
                FleetCommand::Complete { task, agent, fencing_token, report: Box::new(self.report(rng)) }
            }
            65..73 => FleetCommand::Register {
                request: Box::new(self.agent_request(rng, fleet)),
                worker_size: lease_generator::size(rng),
            },
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
            _ => FleetCommand::AdvanceTime { steps_max: rng.choice([0, 1, 2, 3, 100]).unwrap_or(100) },
        })
    }

    /// Generates a command that records due changes.
    pub(crate) fn advance_time(&self, rng: &mut Rng) -> Command {
        Command::Fleet(FleetCommand::AdvanceTime { steps_max: rng.choice([1, 2, 100, 100]).unwrap_or(100) })
    }

    /// Whether an agent sends a heartbeat now.
    pub(crate) fn sends_heartbeat(&self, rng: &mut Rng) -> bool {
        rng.u64(0..100) < self.heartbeats_percent
    }

    /// Any agent, registered or not.
    pub(crate) fn agent(&self, rng: &mut Rng) -> AgentId {
        AgentId::new(&format!("agent-{}", rng.u64(0..self.agents))).expect("a name")
    }

    /// Mostly a registered agent.
    fn known_agent(&self, rng: &mut Rng, fleet: &Fleet) -> AgentId {
        let known = rng.choice(fleet.agent_ids()).filter(|_| rng.u8(0..8) > 0);
        known.unwrap_or_else(|| self.agent(rng))
    }

    /// Any task: mostly an open one, at times one that has ended or never existed.
    pub(crate) fn task(&self, rng: &mut Rng, fleet: &Fleet) -> TaskId {
        let known = fleet.task_ids(rng.u8(0..4) > 0);
        rng.choice(known).filter(|_| rng.u8(0..16) > 0).unwrap_or_else(|| task_id(rng))
    }

    pub(crate) fn agent_filter(&self, rng: &mut Rng) -> AgentFilter {
        AgentFilter {
            state: rng.choice(AgentState::ALL).filter(|_| rng.bool()),
            agent_type: rng.bool().then(|| agent_type(rng)),
        }
    }

    pub(crate) fn task_filter(&self, rng: &mut Rng) -> TaskFilter {
        TaskFilter {
            state: rng.choice(TaskState::ALL).filter(|_| rng.bool()),
            job: (rng.u8(0..3) == 0).then(|| job(rng)),
            agent: (rng.u8(0..3) == 0).then(|| self.agent(rng)),
        }
    }

    /// The capacity of the node: as for leases alone, or with enough for all agents.
    fn capacity(&self, rng: &mut Rng) -> Command {
        match self.leases.capacity(rng) {
            Command::SetCapacity { node, capacity } if self.has_capacity => {
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
        // Half of the registrations of an agent repeat the same arguments.
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
        // Half of the tasks with a chosen id repeat the same arguments. They have no deadline, which would differ.
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

    fn tokens_expected(&self, rng: &mut Rng) -> TokenHints {
        let given = match rng.u16(0..400) {
            0 => Some(u64::MAX),
            1..20 => Some(0),
            // Estimates that give tasks of different priorities the same efficiency.
            20..100 => Some(self.task_tokens_max.min(100) * rng.choice([1, 2, 5, 10]).unwrap_or(1)),
            100..200 => Some(rng.u64(0..=self.task_tokens_max)),
            _ => None,
        };
        TokenHints {
            given,
            complexity: rng.choice(Complexity::ALL).unwrap_or_default(),
            input_characters: if rng.bool() { 0 } else { rng.u64(0..3_000) },
        }
    }

    /// A task, an agent and a token: mostly those of a lease, at times those of a past lease, or mixed ones.
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

    fn report(&self, rng: &mut Rng) -> TaskReport {
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
        TaskReport {
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

/// Each of three capabilities, with `in_four` chances in four; the third one is rare.
fn capabilities(rng: &mut Rng, in_four: u8) -> Capabilities {
    let all = ["rust", "sql", "vision"]
        .into_iter()
        .filter(|name| rng.u8(0..4) < in_four && (*name != "vision" || rng.u8(0..8) == 0));
    Capabilities::new(all.map(|name| Capability::new(name).expect("a name")).collect::<Vec<_>>())
}

fn priority(rng: &mut Rng) -> Priority {
    rng.choice(Priority::ALL).unwrap_or_default()
}

/// Mostly a future deadline, at times one that has just passed.
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

/// An id that a submitter chose, or a generated one.
fn task_id(rng: &mut Rng) -> TaskId {
    match rng.u8(0..4) {
        0 => TaskId::from_bits(lease_generator::id_bits(rng)),
        _ => TaskId::new(&format!("my-{}", rng.u8(0..12))).expect("a name"),
    }
}
