//! The cost of a durable state: grants and releases compared with SQLite alone, recovery, snapshots, and bytes per
//! event.
//!
//! `cargo bench --bench journal` prints a markdown table. Words after `--` select the rows whose name contains one of
//! them. For the first rows each sample runs the engine on a new state and records the batch sizes; then SQLite alone
//! writes the same rows in the same batches to the same disk. The two alternate, so that a slow disk affects both.

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
    EventRows, Journal, JournalEntry, JournalError, Recovered, SNAPSHOT_EVENTS_MIN, SqliteJournal, SqliteOptions,
    Synchronous, find_snapshots, open_to_read,
};
use cortex_util::lock::{LOCK_WAIT_MAX, OwnerRecord};
use rusqlite::{Connection, TransactionBehavior, params};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The number of samples of a median.
const SAMPLES: usize = 5;
/// How long one sample of grants and releases lasts.
const SAMPLE_TIME: Duration = Duration::from_millis(700);
/// The live leases of the large state.
const MANY: u64 = 1_000_000;
/// The largest number of events after its snapshot before the next snapshot starts: half the number of records.
const TAIL_EVENTS: u64 = MANY / 2;
/// The largest number of pairs that are timed while no snapshot is written: fewer than start the next snapshot.
const QUIET_CALLS_MAX: u32 = 20_000;
/// The batch size with which the large state is written.
const BATCH_ENTRIES: usize = 20_000;
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
                let figure = if callers == 64 { "≥ 70 % of SQLite alone" } else { "compared with SQLite alone" };
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
    // In the target folder, since the temporary folder of the system may be in memory.
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

/// A journal that records the size of each batch.
struct BatchRecorder {
    journal: SqliteJournal,
    batches: Arc<Mutex<Vec<usize>>>,
    batch: usize,
}

impl Journal for BatchRecorder {
    const IS_DURABLE: bool = true;

    async fn load(&mut self) -> Result<Recovered, JournalError> {
        self.journal.load().await
    }

    fn append(&mut self, entries: &mut Vec<JournalEntry>) {
        self.batch += entries.len();
        self.journal.append(entries);
    }

    async fn commit(&mut self) -> Result<(), JournalError> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::take(&mut self.batch));
        self.journal.commit().await
    }

    async fn close(self, cluster: Cluster, within: Duration) {
        self.journal.close(cluster, within).await;
    }
}

/// Returns the pairs per second, and the ratio to SQLite alone with the same rows.
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
    let journal = BatchRecorder { journal: open(&path, synchronous), batches: Arc::clone(&batches), batch: 0 };
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
        let grant = engine.request(request(caller, 1), CancelHandle::default()).await.expect("enough capacity");
        engine.release(grant.view.allocation.reservation.allocation).await.expect("a lease");
        pairs += 1;
    }
    pairs
}

/// Returns the time that SQLite takes for the rows of a log in batches of these sizes.
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

/// Returns the size of a log divided by the number of its events.
fn bytes() -> String {
    let folder = folder();
    let path = folder.path().join("state.db");
    let mut writer = StateWriter::new(&path);
    for job in 0..10_000 {
        let id = writer.grant(job, 1);
        writer.run(&Command::Release { allocation: id, reason: EndReason::Requested });
    }
    let events = writer.finish();
    let size = std::fs::metadata(&path).expect("a file").len();
    format!("{:.0}", size as f64 / events as f64)
}

/// Writes a state to a journal in large batches, without an engine.
struct StateWriter {
    runtime: tokio::runtime::Runtime,
    journal: SqliteJournal,
    cluster: Cluster,
    entries: Vec<JournalEntry>,
    now: Timestamp,
    events: u64,
}

impl StateWriter {
    fn new(path: &Path) -> Self {
        let runtime = runtime();
        let mut journal = open(path, Synchronous::Normal);
        let cluster = runtime.block_on(journal.load()).expect("a new state").cluster;
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
        let now = Timestamp::from_millis(i64::try_from(since.as_millis()).expect("a moment"));
        let mut writer = Self { runtime, journal, cluster, entries: Vec::new(), now, events: 0 };
        writer.run(&Command::SetLimits(LIMITS));
        let capacity = engine_options().totals.capacity;
        writer.run(&Command::SetCapacity { node: NodeId::local(), capacity });
        writer
    }

    fn grant(&mut self, job: u64, workers: u64) -> AllocationId {
        let draw = job.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let request = Box::new(request(job, workers));
        match self.run(&Command::Request { request, worker_size: WORKER, random: draw }) {
            Outcome::Granted { allocation, .. } => allocation,
            other => panic!("not granted: {other:?}"),
        }
    }

    fn run(&mut self, command: &Command) -> Outcome {
        let decision = self.cluster.decide(self.now, command).expect("a command that is carried out");
        for event in decision.events {
            let recorded = Recorded { at: self.now, event };
            self.cluster.apply(&recorded);
            self.entries.push(JournalEntry { recorded, job: None });
            self.events += 1;
        }
        if self.entries.len() >= BATCH_ENTRIES {
            self.commit();
        }
        decision.outcome
    }

    fn commit(&mut self) {
        self.journal.append(&mut self.entries);
        self.runtime.block_on(self.journal.commit()).expect("a commit");
    }

    /// Closes the journal without a snapshot and returns the number of events.
    fn finish(mut self) -> u64 {
        self.commit();
        self.runtime.block_on(self.journal.close(self.cluster, Duration::ZERO));
        self.events
    }
}

/// Writes a state with many live leases, without a snapshot of all of them.
fn large_state(path: &Path) {
    let mut writer = StateWriter::new(path);
    for job in 0..MANY {
        writer.grant(job, 0);
    }
    writer.finish();
}

fn large(print: &dyn Fn(&str, &str, String)) {
    let folder = folder();
    let path = folder.path().join("state.db");
    large_state(&path);
    // Without the snapshots that were written in between, so that recovery reads all events.
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

/// Adds events after the newest snapshot until the next snapshot is due. Returns their number.
fn add_tail(path: &Path) -> u64 {
    let events_after_snapshot = || {
        let (snapshot, _) = find_snapshots(path).expect("a folder").pop().expect("a snapshot");
        let log = open_to_read(path).expect("a log");
        let (_, last) = EventRows::ends(&log, path).expect("a log").expect("events");
        last - snapshot
    };
    let before = events_after_snapshot();
    let mut writer = StateWriter::new(path);
    let mut job = MANY;
    while before + writer.events < TAIL_EVENTS {
        let id = writer.grant(job, 0);
        writer.run(&Command::Release { allocation: id, reason: EndReason::Requested });
        job += 1;
    }
    writer.finish();
    events_after_snapshot()
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
            assert!(recovered.cluster.count(&Filter::default()) >= MANY, "all leases are there");
            time
        })
        .collect();
    times.sort_unstable();
    format!("{:.2} s", times[SAMPLES / 2].as_secs_f64())
}

/// Returns the longest of many calls while no snapshot is written, and the longest while one is.
fn pauses(path: &Path, synchronous: Synchronous) -> (Duration, Duration) {
    runtime().block_on(async {
        let (engine, handle) =
            Engine::start(engine_options(), open(path, synchronous), EngineClock::system()).await.expect("a state");
        // Without a snapshot, the first batch starts one.
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

/// Returns the longer time of a grant and a release.
async fn timed_pair(engine: &EngineHandle) -> Duration {
    let start = Instant::now();
    let grant = engine.request(request(0, 1), CancelHandle::default()).await.expect("enough capacity");
    let granted = start.elapsed();
    engine.release(grant.view.allocation.reservation.allocation).await.expect("a lease");
    granted.max(start.elapsed() - granted)
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}
