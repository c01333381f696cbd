//! Benchmarks of the lease core: grants, releases, sweeps and memory, against target figures.
//!
//! `cargo bench --bench core` prints a markdown table; words after `--` select the rows whose name contains one
//! of them. Commands are created in chunks outside the timed part, each a new object with its own job. A request is
//! thus as hot in the cache as one that was just read from a client. Times are medians of several samples.

use cortex_core::allocation::{EndReason, Metadata};
use cortex_core::command::{Command, Decision, DistinctServers, Outcome, Request};
use cortex_core::event::Recorded;
use cortex_core::ids::{AllocationId, JobId, NodeId, ServerName};
use cortex_core::priority::Priority;
use cortex_core::time::{Timestamp, TtlSeconds};
use cortex_core::units::{CpuMillis, MemoryMb, Resources, WorkerSize};
use cortex_core::{Cluster, check};
use cortex_test_support::table::{Measurement, median, milliseconds, resident_bytes, thousands};
use fastrand::Rng;
use std::collections::VecDeque;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// The number of commands that are created before a timed part, few enough that all of them stay in the cache.
const CHUNK: usize = 100;
/// The number of distinct servers in the requests.
const SERVERS: usize = 50;
/// The number of live leases in the large state.
const MANY: usize = 1_000_000;
/// The number of grant and release pairs in one sample.
const PAIRS: usize = 200_000;
/// The maximum number of leases that a sweep ends in one batch.
const SWEEP_LEASES_MAX: usize = 500;
/// The time to live of leases that stay live, in seconds.
const LONG_TTL_SECONDS: u64 = 3_600;
/// The time to live of leases that expire, in seconds.
const SHORT_TTL_SECONDS: u64 = 1;

fn main() {
    cortex_test_support::table::print(&MEASUREMENTS);
}

/// All rows. The memory row is first, because it measures the resident memory of the process.
const MEASUREMENTS: [Measurement; 8] = [
    ("memory per live allocation of 1 server, 1,000,000 live", "≤ 1,024 bytes", memory),
    ("grant + release, 100 live leases of 2 workers and 1 server", "≥ 1,000,000 pairs/s", few_live),
    ("grant + release, 1,000,000 live leases of 1 server, oldest first", "≥ 400,000 pairs/s", many_oldest_first),
    ("grant + release, 1,000,000 live leases of 1 server, at random", "≥ 150,000 pairs/s", many_at_random),
    ("sweep of 500 expired among 1,000 others", "as the next", sweep_among_few),
    ("sweep of 500 expired among 1,000,000 others", "as the last; ≤ 5 ms", sweep_among_many),
    ("longest batch of 500 in a sweep of 1,000,000 expired", "≤ 5 ms", longest_sweep_batch),
    ("first look at 1,000,000 leases that ran out at once", "none", first_look),
];

/// The resources and the time to live of a lease.
#[derive(Clone, Copy)]
struct Shape {
    workers: u64,
    ttl_seconds: u64,
}

const SERVER_ONLY: Shape = Shape { workers: 0, ttl_seconds: LONG_TTL_SECONDS };
const TWO_WORKERS: Shape = Shape { workers: 2, ttl_seconds: LONG_TTL_SECONDS };
const SHORT_LIVED: Shape = Shape { workers: 0, ttl_seconds: SHORT_TTL_SECONDS };

/// The order in which leases are released.
#[derive(Clone, Copy)]
enum Order {
    OldestFirst,
    Random,
}

/// The state under test, with the inputs to drive it.
struct Driver {
    cluster: Cluster,
    now: Timestamp,
    /// The live leases, oldest first until one is removed from the middle.
    held: VecDeque<AllocationId>,
    jobs: u64,
    random: Rng,
    names: Vec<ServerName>,
    metadata: Metadata,
}

impl Driver {
    /// Returns a state with enough capacity and `live` leases of one shape.
    fn with_live(live: usize, shape: Shape) -> Self {
        let names = (0..SERVERS).map(|n| ServerName::new(&format!("server-{n}")).expect("a name")).collect();
        let mut driver = Self {
            cluster: Cluster::default(),
            now: Timestamp::from_millis(1_765_220_400_000),
            held: VecDeque::with_capacity(live),
            jobs: 0,
            random: Rng::with_seed(1),
            names,
            metadata: Metadata::empty(),
        };
        let capacity =
            Resources { cpu_millis: CpuMillis::from_millis(1 << 40), memory_mb: MemoryMb(1 << 40), workers: 50_000 };
        driver.run(&Command::SetCapacity { node: NodeId::local(), capacity });
        driver.run(&Command::SetLimits(cortex_core::event::Limits {
            // A lease is granted before another one is released, so the limit is above the number of live leases.
            live_allocations_max: MANY as u64 * 2,
            ..cortex_core::event::Limits::default()
        }));
        driver.grant(live, shape);
        driver
    }

    fn request(&mut self, shape: Shape) -> Command {
        self.jobs += 1;
        let job = JobId::new(&format!("job-{:07}", self.jobs)).expect("a name");
        let chosen = self.random.usize(..SERVERS);
        let request = Request {
            job,
            servers: DistinctServers::new([self.names[chosen].clone()]),
            workers: shape.workers,
            priority: Priority::Normal,
            ttl_seconds: TtlSeconds::new(shape.ttl_seconds).expect("above 0"),
            request_id: None,
            metadata: self.metadata.clone(),
        };
        let worker_size = WorkerSize { cpu_millis: CpuMillis::from_millis(1_000), memory_mb: MemoryMb(2_048) };
        Command::Request { request: Box::new(request), worker_size, random: self.random.u64(..) }
    }

    fn requests(&mut self, count: usize, shape: Shape) -> Vec<Command> {
        (0..count).map(|_| self.request(shape)).collect()
    }

    /// Decides a command and applies its events, as the engine does.
    fn run(&mut self, command: &Command) -> Outcome {
        run(&mut self.cluster, self.now, command)
    }

    fn grant(&mut self, count: usize, shape: Shape) {
        for start in (0..count).step_by(CHUNK) {
            for command in self.requests(CHUNK.min(count - start), shape) {
                let outcome = self.run(&command);
                self.held.push_back(granted(&outcome));
            }
            self.pass(1);
        }
    }

    /// Advances the time.
    fn pass(&mut self, millis: i64) {
        self.now = Timestamp::from_millis(self.now.as_millis() + millis);
        self.cluster.observe(self.now);
    }

    /// Removes the next leases to release from the live ones, and returns their ids.
    fn choose(&mut self, count: usize, order: Order) -> Vec<AllocationId> {
        let take = |driver: &mut Self| match order {
            Order::OldestFirst => driver.held.pop_front(),
            Order::Random => {
                let index = driver.random.usize(..driver.held.len());
                driver.held.swap_remove_back(index)
            }
        };
        (0..count).filter_map(|_| take(self)).collect()
    }

    /// Returns the number of pairs per second. A pair is a grant and the release of another lease.
    fn pairs_per_second(&mut self, shape: Shape, order: Order) -> f64 {
        let chunk = CHUNK.min(self.held.len());
        let chunks = PAIRS / chunk;
        let mut spent = Duration::ZERO;
        for _ in 0..chunks {
            let requests = self.requests(chunk, shape);
            let releases: Vec<Command> = self.choose(chunk, order).into_iter().map(release).collect();
            let mut outcomes = Vec::with_capacity(chunk);
            let (cluster, now) = (&mut self.cluster, self.now);
            let start = Instant::now();
            for (request, release) in requests.iter().zip(&releases) {
                outcomes.push(run(cluster, now, request));
                black_box(run(cluster, now, release));
            }
            spent += start.elapsed();
            self.held.extend(outcomes.iter().map(granted));
            self.pass(1);
        }
        (chunks * chunk) as f64 / spent.as_secs_f64()
    }

    /// Returns the time of one batch of a sweep, and whether expired leases remain.
    fn sweep_batch(&mut self) -> (Duration, bool) {
        let command = Command::Sweep { leases_max: SWEEP_LEASES_MAX };
        let start = Instant::now();
        let outcome = black_box(self.run(&command));
        let spent = start.elapsed();
        let Outcome::Swept { more, .. } = outcome else { panic!("a sweep answered {outcome:?}") };
        (spent, more)
    }
}

fn run(cluster: &mut Cluster, now: Timestamp, command: &Command) -> Outcome {
    let Decision { events, outcome } = cluster.decide(now, command).expect("there is room");
    for event in events {
        cluster.apply(&Recorded { at: now, event });
    }
    outcome
}

fn release(allocation: AllocationId) -> Command {
    Command::Release { allocation, reason: EndReason::Requested }
}

fn granted(outcome: &Outcome) -> AllocationId {
    match outcome {
        Outcome::Granted { allocation, .. } => *allocation,
        other => panic!("a request answered {other:?}"),
    }
}

fn memory() -> String {
    let Some(before) = resident_bytes() else { return "not measured on this system".to_owned() };
    let driver = Driver::with_live(MANY, SERVER_ONLY);
    let after = resident_bytes().unwrap_or(before);
    black_box(&driver.cluster);
    format!("{} bytes", thousands((after - before) as f64 / MANY as f64))
}

fn few_live() -> String {
    pairs(100, TWO_WORKERS, Order::OldestFirst)
}

fn many_oldest_first() -> String {
    pairs(MANY, SERVER_ONLY, Order::OldestFirst)
}

fn many_at_random() -> String {
    pairs(MANY, SERVER_ONLY, Order::Random)
}

fn pairs(live: usize, shape: Shape, order: Order) -> String {
    let mut driver = Driver::with_live(live, shape);
    // A warm-up sample fills the history, so each measured sample drops a record for each record it adds.
    driver.pairs_per_second(shape, order);
    let median = median(|| driver.pairs_per_second(shape, order));
    assert_eq!(driver.cluster.capacity(driver.now).live_allocations, live as u64);
    if live < MANY {
        assert_eq!(check::violations(&driver.cluster), [] as [String; 0]);
    }
    format!("{} pairs/s", thousands(median))
}

fn sweep_among_few() -> String {
    sweep_among(SWEEP_LEASES_MAX)
}

fn sweep_among_many() -> String {
    sweep_among(MANY)
}

fn sweep_among(others: usize) -> String {
    let mut driver = Driver::with_live(others, SERVER_ONLY);
    let median = median(|| {
        driver.grant(SWEEP_LEASES_MAX, SHORT_LIVED);
        driver.pass(1_000 * i64::try_from(SHORT_TTL_SECONDS).unwrap_or(1));
        let (spent, more) = driver.sweep_batch();
        assert!(!more, "only the short-lived had run out");
        spent.as_secs_f64()
    });
    milliseconds(median)
}

fn longest_sweep_batch() -> String {
    milliseconds(median(|| {
        let mut driver = Driver::with_live(MANY, SERVER_ONLY);
        driver.pass(2_000 * i64::try_from(LONG_TTL_SECONDS).unwrap_or(1));
        let mut longest = Duration::ZERO;
        loop {
            let (spent, more) = driver.sweep_batch();
            longest = longest.max(spent);
            if !more {
                return longest.as_secs_f64();
            }
        }
    }))
}

fn first_look() -> String {
    milliseconds(median(|| {
        let mut driver = Driver::with_live(MANY, SERVER_ONLY);
        let start = Instant::now();
        driver.pass(2_000 * i64::try_from(LONG_TTL_SECONDS).unwrap_or(1));
        start.elapsed().as_secs_f64()
    }))
}
