//! What a lasting state costs: grants and releases beside SQLite itself, recovery, snapshots, and bytes.
//!
//! `cargo bench --bench journal` prints a markdown table; words after `--` choose the rows whose name has one of them.
//! For the first rows each sample runs the engine on a new state and notes how its events came in batches; then SQLite
//! alone writes the same rows in the same batches to the same disk. The two take turns, so that a moment in which the
//! disk is slow is slow for both.

use cortex_core::Cluster;
use cortex_core::allocation::{EndReason, Metadata};
use cortex_core::command::{Command, DistinctServers, Outcome, Request};
use cortex_core::event::{Limits, Recorded};
use cortex_core::ids::{AllocationId, JobId, NodeId, ServerName};
use cortex_core::priority::Priority;
use cortex_core::time::{Timestamp, TtlSeconds};
use cortex_core::units::{CpuMillis, MemoryMb, Resources, WorkerSize};
use cortex_core::view::Filter;
use cortex_engine::clock::EngineClock;
use cortex_engine::{CancelHandle, Engine, EngineHandle, EngineOptions};
use cortex_journal::{
    Entry, EventRows, Journal, JournalError, Recovered, SNAPSHOT_EVENTS_MIN, SqliteJournal, SqliteOptions, Synchronous,
    find_snapshots, open_to_read,
};
use cortex_util::lock::{LOCK_WAIT_MAX, OwnerRecord};
use rusqlite::{Connection, TransactionBehavior, params};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How many samples a median is taken of.
const SAMPLES: usize = 5;
/// How long one sample of grants and releases lasts.
const SAMPLE_TIME: Duration = Duration::from_millis(700);
/// The live leases of the large state.
const MANY: u64 = 1_000_000;
/// How many events there can be behind its snapshot before the next is begun: half as many as there are records.
const TAIL_EVENTS: u64 = MANY / 2;
/// How many grants and releases are timed at most while no snapshot is written: fewer than lead to the next.
const QUIET_CALLS_MAX: u32 = 20_000;
/// How many entries the large state is written with at once.
const ENTRIES_AT_ONCE: usize = 20_000;
/// How long a snapshot of the large state may take before the bench gives up.
const SNAPSHOT_WAIT_MAX: Duration = Duration::from_secs(60);

#[expect(clippy::print_stdout, reason = "the table is what a bench is for")]
fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |what: &str| wanted.is_empty() || wanted.iter().any(|word| what.contains(word.as_str()));
    println!("| what | figure to reach | measured (median of {SAMPLES}) |\n|---|---|---|");
    for synchronous in [Synchronous::Full, Synchronous::Normal] {
        for callers in [1, 16, 64] {
            let what = format!("grant + release, {synchronous:?}, {callers} callers").to_lowercase();
            if is_wanted(&what) {
                let figure = if callers == 64 { "≥ 70 % of SQLite alone" } else { "beside SQLite alone" };
                println!("| {what} | {figure} | {} |", pairs(synchronous, callers));
            }
        }
    }
    if is_wanted("bytes per event") {
        println!("| bytes per event, over grants and releases of one worker and one server | none | {} |", bytes());
    }
    if ["recovery", "snapshot"].iter().any(|what| is_wanted(what)) {
        large(&|what, figure, measured| println!("| {what} | {figure} | {measured} |"));
    }
}

fn folder() -> TempDir {
    // Beside what is built: a temporary folder may be kept in memory, which no disk is.
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

fn options(path: &Path, synchronous: Synchronous) -> SqliteOptions {
    SqliteOptions {
        path: path.to_owned(),
        synchronous,
        keep_events: Duration::from_secs(30 * 86_400),
        snapshot_events_min: SNAPSHOT_EVENTS_MIN,
    }
}

fn open(path: &Path, synchronous: Synchronous) -> SqliteJournal {
    SqliteJournal::open(options(path, synchronous), &OwnerRecord::of_this_process(), LOCK_WAIT_MAX)
        .expect("a state of our own")
}

fn engine_options() -> EngineOptions {
    let capacity =
        Resources { cpu_millis: CpuMillis::from_millis(1 << 40), memory_mb: MemoryMb(1 << 40), workers: 50_000 };
    EngineOptions {
        worker_size: WORKER,
        limits: LIMITS,
        close_within: Duration::ZERO,
        ..EngineOptions::fixed(capacity)
    }
}

const WORKER: WorkerSize = WorkerSize { cpu_millis: CpuMillis::from_millis(1_000), memory_mb: MemoryMb(2_048) };
const LIMITS: Limits = Limits { live_allocations_max: 2 * MANY, history_records_max: 10_000 };

fn request(job: u64, workers: u64) -> Request {
    Request {
        job: JobId::new(&format!("job-{job}")).expect("a name"),
        servers: DistinctServers::new([ServerName::new("filesystem").expect("a name")]),
        workers,
        priority: Priority::Normal,
        ttl_seconds: TtlSeconds::new(86_400).expect("a time to live"),
        request_id: None,
        metadata: Metadata::empty(),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A journal that also notes how many entries each batch had.
struct Noting {
    journal: SqliteJournal,
    batches: Arc<Mutex<Vec<usize>>>,
    batch: usize,
}

impl Journal for Noting {
    const IS_DURABLE: bool = true;

    async fn load(&mut self) -> Result<Recovered, JournalError> {
        self.journal.load().await
    }

    fn append(&mut self, entries: &mut Vec<Entry>) {
        self.batch += entries.len();
        self.journal.append(entries);
    }

    async fn commit(&mut self) -> Result<(), JournalError> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::take(&mut self.batch));
        self.journal.commit().await
    }

    async fn close(self, books: Cluster, within: Duration) {
        self.journal.close(books, within).await;
    }
}

/// Pairs per second, and how that is to what SQLite alone does with the same rows.
fn pairs(synchronous: Synchronous, callers: u64) -> String {
    let mut samples: Vec<(f64, f64)> = (0..SAMPLES).map(|_| pairs_once(synchronous, callers)).collect();
    samples.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (pairs, _) = samples[SAMPLES / 2];
    samples.sort_by(|a, b| a.1.total_cmp(&b.1));
    let (_, ratio) = samples[SAMPLES / 2];
    format!("{pairs:.0} pairs/s, {:.0} %", ratio * 100.0)
}

fn pairs_once(synchronous: Synchronous, callers: u64) -> (f64, f64) {
    let folder = folder();
    let path = folder.path().join("state.db");
    let batches = Arc::new(Mutex::new(Vec::new()));
    let journal = Noting { journal: open(&path, synchronous), batches: Arc::clone(&batches), batch: 0 };
    let (pairs, elapsed) = runtime().block_on(async {
        let (engine, handle) =
            Engine::start(engine_options(), journal, EngineClock::system()).await.expect("a new state");
        let engine = tokio::spawn(engine.run());
        let start = Instant::now();
        let until = start + SAMPLE_TIME;
        let callers: Vec<_> = (0..callers).map(|caller| tokio::spawn(call(handle.clone(), caller, until))).collect();
        drop(handle);
        let mut pairs = 0;
        for caller in callers {
            pairs += caller.await.expect("a caller that ends");
        }
        let elapsed = start.elapsed();
        engine.await.expect("an engine that ends").expect("a journal that works");
        (pairs, elapsed)
    });
    let batches = std::mem::take(&mut *batches.lock().unwrap_or_else(PoisonError::into_inner));
    let alone = sqlite_alone(&path, synchronous, &batches);
    (pairs as f64 / elapsed.as_secs_f64(), alone.as_secs_f64() / elapsed.as_secs_f64())
}

async fn call(engine: EngineHandle, caller: u64, until: Instant) -> u64 {
    let mut pairs = 0;
    while Instant::now() < until {
        let grant = engine.request(request(caller, 1), CancelHandle::default()).await.expect("room");
        engine.release(grant.view.allocation.reservation.allocation).await.expect("a lease");
        pairs += 1;
    }
    pairs
}

/// How long SQLite takes for the rows of a log in batches of these sizes.
fn sqlite_alone(path: &Path, synchronous: Synchronous, batches: &[usize]) -> Duration {
    let log = open_to_read(path).expect("a log");
    let mut rows = EventRows::kept(&log, path, None).expect("its rows");
    let folder = folder();
    let mut database = Connection::open(folder.path().join("alone.db")).expect("a database");
    database.pragma_update(None, "journal_mode", "wal").expect("a write-ahead log");
    let level = if synchronous == Synchronous::Full { "full" } else { "normal" };
    database.pragma_update(None, "synchronous", level).expect("a level");
    database
        .execute_batch(
            "CREATE TABLE events (sequence INTEGER PRIMARY KEY, at INTEGER NOT NULL, job TEXT, event TEXT NOT NULL,
             chain INTEGER NOT NULL) STRICT",
        )
        .expect("a table");
    let mut spent = Duration::ZERO;
    for size in batches {
        let batch: Vec<_> = (0..*size).map(|_| rows.next_row().expect("a log").expect("a row")).collect();
        let start = Instant::now();
        let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate).expect("a transaction");
        {
            let mut insert =
                transaction.prepare_cached("INSERT INTO events VALUES (?1, ?2, ?3, ?4, ?5)").expect("a statement");
            for row in &batch {
                let sequence = i64::try_from(row.sequence).expect("few rows");
                insert.execute(params![sequence, row.at.as_millis(), row.job, row.event, row.chain]).expect("a row");
            }
        }
        transaction.commit().expect("a commit");
        spent += start.elapsed();
    }
    spent
}

/// How large a log is, divided by its events.
fn bytes() -> String {
    let folder = folder();
    let path = folder.path().join("state.db");
    let mut books = Writing::new(&path);
    for job in 0..10_000 {
        let id = books.grant(job, 1);
        books.run(&Command::Release { allocation: id, reason: EndReason::Requested });
    }
    let events = books.finish();
    let size = std::fs::metadata(&path).expect("a file").len();
    format!("{:.0}", size as f64 / events as f64)
}

/// Books that are written to a journal in large batches, without an engine in between.
struct Writing {
    runtime: tokio::runtime::Runtime,
    journal: SqliteJournal,
    books: Cluster,
    entries: Vec<Entry>,
    now: Timestamp,
    events: u64,
}

impl Writing {
    fn new(path: &Path) -> Self {
        let runtime = runtime();
        let mut journal = open(path, Synchronous::Normal);
        let books = runtime.block_on(journal.load()).expect("a new state").books;
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
        let now = Timestamp::from_millis(i64::try_from(since.as_millis()).expect("a moment"));
        let mut writing = Self { runtime, journal, books, entries: Vec::new(), now, events: 0 };
        writing.run(&Command::SetLimits(LIMITS));
        let capacity = engine_options().totals.capacity;
        writing.run(&Command::SetCapacity { node: NodeId::local(), capacity });
        writing
    }

    fn grant(&mut self, job: u64, workers: u64) -> AllocationId {
        let draw = job.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let request = Box::new(request(job, workers));
        match self.run(&Command::Request { request, worker_size: WORKER, draw }) {
            Outcome::Granted { allocation, .. } => allocation,
            other => panic!("not granted: {other:?}"),
        }
    }

    fn run(&mut self, command: &Command) -> Outcome {
        let decision = self.books.decide(self.now, command).expect("a command that is carried out");
        for event in decision.events {
            let recorded = Recorded { at: self.now, event };
            self.books.apply(&recorded);
            self.entries.push(Entry { recorded, job: None });
            self.events += 1;
        }
        if self.entries.len() >= ENTRIES_AT_ONCE {
            self.commit();
        }
        decision.outcome
    }

    fn commit(&mut self) {
        self.journal.append(&mut self.entries);
        self.runtime.block_on(self.journal.commit()).expect("a commit");
    }

    /// Closes the journal without a snapshot and says how many events there are.
    fn finish(mut self) -> u64 {
        self.commit();
        self.runtime.block_on(self.journal.close(self.books, Duration::ZERO));
        self.events
    }
}

/// A state with so many live leases, without a snapshot of all of them.
fn large_state(path: &Path) {
    let mut books = Writing::new(path);
    for job in 0..MANY {
        books.grant(job, 0);
    }
    books.finish();
}

fn large(print: &dyn Fn(&str, &str, String)) {
    let folder = folder();
    let path = folder.path().join("state.db");
    large_state(&path);
    // What was written on the way is left out, so that the events alone have to do.
    remove_snapshots(&path);
    print("recovery of 1,000,000 live leases from 2,000,002 events alone", "none", recovery(&path));

    for synchronous in [Synchronous::Full, Synchronous::Normal] {
        remove_snapshots(&path);
        let (quiet, during) = pauses(&path, synchronous);
        let durability = format!("{synchronous:?}").to_lowercase();
        print(
            &format!("longest call while a snapshot of 1,000,000 live leases is written, {durability}"),
            "≤ 20 ms",
            format!("{} ({} without one)", millis(during), millis(quiet)),
        );
    }
    let (_, newest) = find_snapshots(&path).expect("a folder").pop().expect("a snapshot");
    let megabytes = std::fs::metadata(newest).expect("a file").len() as f64 / 1e6;
    print("recovery of 1,000,000 live leases from a snapshot", "≤ 3 s", recovery(&path));
    let tail = add_tail(&path);
    let what = format!("recovery of 1,000,000 live leases from a snapshot and {tail} events after it");
    print(&what, "≤ 3 s", recovery(&path));
    print("size of a snapshot of 1,000,000 live leases", "none", format!("{megabytes:.0} MB"));
}

/// Adds events behind the newest snapshot, as many as there can be before the next is begun. Says how many there are.
fn add_tail(path: &Path) -> u64 {
    let behind_snapshot = || {
        let (snapshot, _) = find_snapshots(path).expect("a folder").pop().expect("a snapshot");
        let log = open_to_read(path).expect("a log");
        let (_, last) = EventRows::ends(&log, path).expect("a log").expect("events");
        last - snapshot
    };
    let before = behind_snapshot();
    let mut books = Writing::new(path);
    let mut job = MANY;
    while before + books.events < TAIL_EVENTS {
        let id = books.grant(job, 0);
        books.run(&Command::Release { allocation: id, reason: EndReason::Requested });
        job += 1;
    }
    books.finish();
    behind_snapshot()
}

fn remove_snapshots(path: &Path) {
    for (_, snapshot) in find_snapshots(path).expect("a folder") {
        std::fs::remove_file(snapshot).expect("a file");
    }
}

fn recovery(path: &Path) -> String {
    let mut times: Vec<Duration> = (0..SAMPLES)
        .map(|_| {
            let start = Instant::now();
            let mut journal = open(path, Synchronous::Full);
            let recovered = runtime().block_on(journal.load()).expect("a state");
            let time = start.elapsed();
            assert!(recovered.books.count(&Filter::default()) >= MANY, "all leases are there");
            time
        })
        .collect();
    times.sort_unstable();
    format!("{:.2} s", times[SAMPLES / 2].as_secs_f64())
}

/// The longest of many calls without a snapshot being written, and the longest while one is.
fn pauses(path: &Path, synchronous: Synchronous) -> (Duration, Duration) {
    runtime().block_on(async {
        let (engine, handle) =
            Engine::start(engine_options(), open(path, synchronous), EngineClock::system()).await.expect("a state");
        // With all its events behind the newest snapshot, the first batch at the start has one written.
        let engine = tokio::spawn(engine.run());
        let (mut during, mut calls) = (Duration::ZERO, 0_u32);
        let start = Instant::now();
        while find_snapshots(path).expect("a folder").is_empty() {
            assert!(start.elapsed() < SNAPSHOT_WAIT_MAX, "there is no snapshot after {SNAPSHOT_WAIT_MAX:?}");
            during = during.max(timed_pair(&handle).await);
            calls += 1;
        }
        let mut quiet = Duration::ZERO;
        for _ in 0..calls.min(QUIET_CALLS_MAX) {
            quiet = quiet.max(timed_pair(&handle).await);
        }
        drop(handle);
        engine.await.expect("an engine that ends").expect("a journal that works");
        (quiet, during)
    })
}

/// The longer of a grant and a release.
async fn timed_pair(engine: &EngineHandle) -> Duration {
    let start = Instant::now();
    let grant = engine.request(request(0, 1), CancelHandle::default()).await.expect("room");
    let granted = start.elapsed();
    engine.release(grant.view.allocation.reservation.allocation).await.expect("a lease");
    granted.max(start.elapsed() - granted)
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}
