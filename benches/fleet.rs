//! Benchmarks of agents, tasks and tokens in the core, against target figures.
//!
//! `cargo bench --bench fleet` prints a markdown table; words after `--` select the rows whose name contains one
//! of them. Times are medians of several samples.

use cortex_core::allocation::Metadata;
use cortex_core::command::{Command, Decision, Outcome};
use cortex_core::demand::{DEMAND_BIN, DEMAND_BINS_MAX, DemandBin};
use cortex_core::event::Recorded;
use cortex_core::fleet::agent::{AgentRequest, Capabilities};
use cortex_core::fleet::command::{FleetCommand, FleetOutcome, NoTaskReason, ReportedResult, TaskReport};
use cortex_core::fleet::settings::FleetSettings;
use cortex_core::fleet::task::{Complexity, Selector, TaskRequest, TokenHints};
use cortex_core::ids::{AgentId, AgentType, Capability, FencingToken, NodeId, TaskId};
use cortex_core::priority::Priority;
use cortex_core::time::{Millis, Timestamp, TtlSeconds};
use cortex_core::units::{CpuMillis, MemoryMb, Resources, WorkerSize};
use cortex_core::view::RequestCounts;
use cortex_core::{Cluster, check};
use cortex_planning::{Bottlenecks, Bounds, Planner};
use cortex_test_support::table::{Measurement, median, milliseconds, resident_bytes, thousands};
use fastrand::Rng;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// The number of waiting tasks in the large queue.
const QUEUED: usize = 100_000;
/// The number of agents that claim them.
const AGENTS: usize = 1_000;
/// The number of tasks that are submitted, claimed and completed in one sample.
const ROUNDS: usize = 50_000;
/// The number of choices among agents in one sample.
const CHOICES: usize = 10_000;
/// The number of agent types, and thus of task lanes.
const TYPES: usize = 8;
/// The resources of a worker.
const WORKER_SIZE: WorkerSize = WorkerSize { cpu_millis: CpuMillis::from_millis(1_000), memory_mb: MemoryMb(2_048) };
/// A number of tokens that is never exhausted.
const PLENTY: u64 = 1 << 60;

/// All rows. The memory row is first, because it measures the resident memory of the process.
const MEASUREMENTS: [Measurement; 9] = [
    ("memory per queued task without payload, 100,000 queued", "≤ 512 bytes", memory),
    ("submit + claim + complete, 100,000 queued, 1,000 agents", "≥ 100,000 a second", rounds),
    ("the same while tokens are saved", "none", rounds_saving),
    ("ordering 1,000 tasks by efficiency", "≤ 0.20 ms", ordering_few),
    ("ordering 1,000,000 tasks by efficiency, beside a plain sort of as many keys", "≤ 3x", ordering_many),
    ("choosing among 10,000 agents and leasing", "≤ 50 µs", choosing),
    ("a heartbeat of one of 10,000 agents", "none", beating),
    ("first look at 100,000 tasks that were all raised a level", "none", raising),
    ("a scaling decision with 10,000 agents and 1,000,000 queued tasks", "≤ 1 ms", scaling),
];

fn main() {
    cortex_test_support::table::print(&MEASUREMENTS);
}

/// The state under test, with the inputs to drive it.
struct Driver {
    cluster: Cluster,
    now: Timestamp,
    random: Rng,
    submitted: usize,
    /// The number of tokens reported for each task.
    tokens_used: u64,
}

impl Driver {
    /// Returns a state with enough capacity and these numbers of agents and waiting tasks.
    fn new(agents: usize, tasks: usize) -> Self {
        let mut driver = Self {
            cluster: Cluster::default(),
            now: Timestamp::from_millis(1_765_220_400_000),
            random: Rng::with_seed(1),
            submitted: 0,
            tokens_used: 500,
        };
        let capacity =
            Resources { cpu_millis: CpuMillis::from_millis(1 << 40), memory_mb: MemoryMb(1 << 40), workers: 50_000 };
        driver.run(&Command::SetCapacity { node: NodeId::local(), capacity });
        let settings = FleetSettings { tasks_max: u64::MAX, task_bytes_max: u64::MAX, ..FleetSettings::default() };
        driver.fleet(FleetCommand::SetSettings(settings));
        driver.fleet(FleetCommand::SetTokenBudget { job: None, tokens: Some(PLENTY), window: None });
        for number in 0..agents {
            driver.register(number);
        }
        for _ in 0..tasks {
            let request = driver.task();
            driver.submit(request);
        }
        driver.pass(1);
        driver
    }

    fn register(&mut self, number: usize) {
        let request = AgentRequest {
            agent: agent(number),
            agent_type: agent_type(number),
            capabilities: Capabilities::new([Capability::new("rust").expect("a name")]),
            tasks_max: 3,
            allocation: None,
            metadata: Metadata::empty(),
        };
        self.fleet(FleetCommand::Register { request: Box::new(request), worker_size: WORKER_SIZE });
    }

    /// Returns a task for agents of one type.
    fn task(&mut self) -> TaskRequest {
        self.submitted += 1;
        let number = self.submitted;
        let priority = Priority::ALL[self.random.usize(..4)];
        let estimated = 100 + self.random.u64(..3_000);
        TaskRequest {
            task: Some(TaskId::new(&format!("task-{number:08}")).expect("a name")),
            job: None,
            selector: Selector { agent_type: Some(agent_type(number)), capabilities: Capabilities::default() },
            priority,
            tokens: TokenHints { given: Some(estimated), complexity: Complexity::Medium, input_characters: 0 },
            deadline: None,
            batch: None,
            payload: None,
            attempts_max: 3,
            lease_seconds: TtlSeconds::new(3_600).expect("above 0"),
        }
    }

    fn submit(&mut self, request: TaskRequest) {
        self.fleet(FleetCommand::Submit { request: Box::new(request), random: 0 });
    }

    /// Decides a command and applies its events, as the engine does.
    fn run(&mut self, command: &Command) -> Outcome {
        let Decision { events, outcome } = self.cluster.decide(self.now, command).expect("there is room");
        for event in events {
            self.cluster.apply(&Recorded { at: self.now, event });
        }
        outcome
    }

    fn fleet(&mut self, command: FleetCommand) -> FleetOutcome {
        match self.run(&Command::Fleet(command)) {
            Outcome::Fleet(outcome) => outcome,
            other => panic!("a command about the fleet answered {other:?}"),
        }
    }

    /// Advances the time.
    fn pass(&mut self, millis: u64) {
        self.now = self.now.after(Millis(millis));
        self.cluster.observe(self.now);
    }

    /// Claims the best task for an agent and completes it.
    fn claim_and_complete(&mut self, agent: &AgentId) {
        let tasks = match self.fleet(FleetCommand::Claim { agent: agent.clone() }) {
            FleetOutcome::Leased { tasks, .. } => tasks,
            // During token conservation, all eligible tasks may be of other types.
            FleetOutcome::NoTask(NoTaskReason::NoTokens) => Vec::new(),
            other => panic!("agent {agent} found no task: {other:?}"),
        };
        for task in tasks {
            let fencing_token = self.token(&task);
            let report = self.report();
            self.fleet(FleetCommand::Complete { task, agent: agent.clone(), fencing_token, report });
        }
    }

    fn report(&self) -> Box<TaskReport> {
        let (tokens_used, duration) = (Some(self.tokens_used), Some(Millis(2_000)));
        Box::new(TaskReport { result: ReportedResult::Success, tokens_used, duration, output: None, error: None })
    }

    fn token(&self, task: &TaskId) -> FencingToken {
        let view = self.cluster.task(self.now, task).expect("a task");
        view.task.lease().expect("a running task").fencing_token
    }

    /// Returns the number of tasks that are submitted, claimed and completed per second.
    fn rounds_per_second(&mut self) -> f64 {
        let requests: Vec<TaskRequest> = (0..ROUNDS).map(|_| self.task()).collect();
        let agents: Vec<AgentId> = (0..AGENTS).map(agent).collect();
        let mut spent = Duration::ZERO;
        for (round, request) in requests.into_iter().enumerate() {
            if round.is_multiple_of(100) {
                self.pass(1);
            }
            let start = Instant::now();
            self.submit(request);
            self.claim_and_complete(&agents[round % AGENTS]);
            spent += start.elapsed();
        }
        ROUNDS as f64 / spent.as_secs_f64()
    }
}

fn agent(number: usize) -> AgentId {
    AgentId::new(&format!("agent-{number:05}")).expect("a name")
}

fn agent_type(number: usize) -> AgentType {
    AgentType::new(&format!("type-{}", number % TYPES)).expect("a name")
}

fn memory() -> String {
    let mut driver = Driver::new(0, 0);
    let Some(before) = resident_bytes() else { return "not measured on this system".to_owned() };
    for _ in 0..QUEUED {
        let request = driver.task();
        driver.submit(request);
    }
    let after = resident_bytes().unwrap_or(before);
    black_box(&driver.cluster);
    format!("{} bytes", thousands((after - before) as f64 / QUEUED as f64))
}

fn rounds() -> String {
    let mut driver = Driver::new(AGENTS, QUEUED);
    let measured = median(|| driver.rounds_per_second());
    assert_eq!(driver.cluster.usage(driver.now, WORKER_SIZE).queue.all.tasks, QUEUED as u64);
    assert_eq!(check::violations(&driver.cluster), [] as [String; 0]);
    format!("{} a second", thousands(measured))
}

fn rounds_saving() -> String {
    let mut driver = Driver::new(AGENTS, QUEUED);
    // One task reserves nine tenths of the budget.
    driver.fleet(FleetCommand::SetTokenBudget { job: None, tokens: Some(PLENTY / 2), window: None });
    let hog = TaskRequest {
        tokens: TokenHints { given: Some(PLENTY / 2 / 10 * 9), ..TokenHints::default() },
        priority: Priority::Critical,
        selector: Selector {
            agent_type: Some(agent_type(0)),
            capabilities: Capabilities::new([Capability::new("rust").expect("a name")]),
        },
        ..driver.task()
    };
    let task = hog.task.clone().expect("an id");
    driver.submit(hog);
    driver.fleet(FleetCommand::Assign { task, random: 0 });
    let used = driver.cluster.usage(driver.now, WORKER_SIZE).tokens.all.reserved;
    // The remaining tokens suffice for some thousand other tasks. They do not decrease, because those tasks report no
    // usage.
    driver.fleet(FleetCommand::SetTokenBudget { job: None, tokens: Some(used + 1_000_000), window: None });
    driver.tokens_used = 0;
    assert!(driver.cluster.usage(driver.now, WORKER_SIZE).conservation.is_on);
    format!("{} a second", thousands(median(|| driver.rounds_per_second())))
}

fn ordering_few() -> String {
    let driver = Driver::new(0, 1_000);
    milliseconds(median(|| ordering(&driver)))
}

fn ordering_many() -> String {
    const MANY: usize = 1_000_000;
    let driver = Driver::new(0, MANY);
    assert_eq!(driver.cluster.tasks_by_efficiency().len(), MANY);
    let mut shuffling = Rng::with_seed(2);
    // The minimum data to order a task: its efficiency, and its number, which makes the key unique.
    let of_pairs = median(|| {
        let pairs = (0..MANY).map(|number| (shuffling.u64(..30_000), number));
        ordering(&driver) / sorting(pairs.collect())
    });
    let of_numbers = median(|| ordering(&driver) / sorting((0..MANY).map(|_| shuffling.u64(..)).collect()));
    let spent = milliseconds(median(|| ordering(&driver)));
    format!("{of_pairs:.1}x of pairs, {of_numbers:.1}x of numbers, {spent}")
}

/// Returns the time to sort these keys.
fn sorting<K: Ord>(mut keys: Vec<K>) -> f64 {
    let start = Instant::now();
    keys.sort_unstable();
    let spent = start.elapsed().as_secs_f64();
    black_box(&keys);
    spent
}

/// Returns the time to iterate over all waiting tasks by efficiency.
fn ordering(driver: &Driver) -> f64 {
    let start = Instant::now();
    black_box(driver.cluster.tasks_by_efficiency());
    start.elapsed().as_secs_f64()
}

fn choosing() -> String {
    let mut driver = Driver::new(10_000, 0);
    let measured = median(|| {
        let mut spent = Duration::ZERO;
        for _ in 0..CHOICES {
            let request = TaskRequest { selector: Selector::default(), ..driver.task() };
            let task = request.task.clone().expect("an id");
            driver.submit(request);
            let command = FleetCommand::Assign { task: task.clone(), random: driver.random.u64(..) };
            let start = Instant::now();
            let outcome = black_box(driver.fleet(command));
            spent += start.elapsed();
            let FleetOutcome::Leased { agent, .. } = outcome else { panic!("no agent was chosen: {outcome:?}") };
            let fencing_token = driver.token(&task);
            let report = driver.report();
            driver.fleet(FleetCommand::Complete { task, agent, fencing_token, report });
        }
        spent.as_secs_f64() / CHOICES as f64
    });
    format!("{:.2} µs", measured * 1e6)
}

fn beating() -> String {
    let mut driver = Driver::new(10_000, 0);
    let agents: Vec<AgentId> = (0..10_000).map(agent).collect();
    let measured = median(|| {
        driver.pass(10_000);
        let start = Instant::now();
        for agent in &agents {
            driver.cluster.record_heartbeat(driver.now, agent);
        }
        start.elapsed().as_secs_f64() / agents.len() as f64
    });
    format!("{:.2} µs", measured * 1e6)
}

fn raising() -> String {
    milliseconds(median(|| {
        let mut driver = Driver::new(0, QUEUED);
        let start = Instant::now();
        driver.pass(300_000);
        start.elapsed().as_secs_f64()
    }))
}

fn scaling() -> String {
    let mut driver = Driver::new(10_000, 1_000_000);
    let mut planner = Planner::new(Bounds { workers_min: 1, workers_max: 50_000 });
    // Two weeks of demand, sized for this fleet, so that the planner also plans capacity.
    let start = DemandBin::start_of(driver.now.before(Millis(DEMAND_BIN.0 * DEMAND_BINS_MAX as u64)));
    let bins = (0..DEMAND_BINS_MAX as u64).map(|bin| DemandBin {
        task_submissions: 300_000 + driver.random.u64(..100_000),
        workers_max: 9_000 + driver.random.u64(..1_000),
        ..DemandBin::empty(start.after(Millis(DEMAND_BIN.0 * bin)))
    });
    planner.ingest(&bins.collect::<Vec<_>>(), driver.now);
    // A few completed tasks provide the estimates for the others.
    for _ in 0..20 {
        let request = driver.task();
        driver.submit(request);
        driver.claim_and_complete(&agent(0));
    }
    // The first sample is the baseline of all counts.
    planner.sample(driver.now, &driver.cluster.demand(driver.now, RequestCounts::default(), WORKER_SIZE));
    let spent = median(|| {
        driver.pass(30_000);
        let start = Instant::now();
        let demand = driver.cluster.demand(driver.now, RequestCounts::default(), WORKER_SIZE);
        let bottlenecks = Bottlenecks::find(&driver.cluster.fleet_metrics(driver.now, WORKER_SIZE));
        let seen = planner.sample(driver.now, &demand);
        let plan = black_box(planner.plan(&seen, Some(&bottlenecks)));
        let spent = start.elapsed().as_secs_f64();
        assert_eq!((plan.pending_tasks, plan.current_agents), (1_000_000, 10_000));
        assert!(plan.capacity.agents.is_some(), "capacity is planned: {:?}", plan.reasons);
        planner.record(&plan, false);
        spent
    });
    milliseconds(spent)
}
