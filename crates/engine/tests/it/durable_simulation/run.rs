//! One run: engines that start one after the other on one state, and concurrent calls to them.

use crate::durable_simulation::calls::{Answer, Call, make};
use crate::durable_simulation::faulty::{Fault, Faults, Faulty};
use crate::durable_simulation::known::Known;
use cortex_core::allocation::{Metadata, State};
use cortex_core::command::{DistinctServers, Request};
use cortex_core::ids::{FencingToken, JobId, RequestId, ServerName};
use cortex_core::priority::Priority;
use cortex_core::time::{Millis, Timestamp, TtlSeconds};
use cortex_core::units::{CpuMillis, MemoryMb, Resources};
use cortex_core::view::{AllocationView, Filter};
use cortex_core::{Cluster, check};
use cortex_engine::clock::EngineClock;
use cortex_engine::{Engine, EngineError, EngineHandle, EngineOptions, StartError};
use cortex_journal::{JournalError, SqliteJournal, SqliteOptions, Synchronous, find_snapshots, open_to_read, recover};
use cortex_test_support::seeded_simulation::SituationCounts;
use cortex_util::lock::{LOCK_WAIT_MAX, OwnerRecord};
use fastrand::Rng;
use futures_util::future::join_all;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// The worker slots of the node.
const WORKERS: u64 = 10;
/// How long deadlines are extended after an outage.
const GRACE: Millis = Millis::from_seconds(60);
/// A jump of more than this against the monotonic clock is an outage.
const OUTAGE_MS: i64 = 60_000;
/// A longer time between two turns of the engine may count as a stall, depending on when it was due to wake.
const STALL_MS: u64 = 1_000;
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 86_400_000;
/// The largest number of concurrent calls.
const CALLS_MAX: usize = 12;
/// The number of request ids in use. A request id that is used again has the same request.
const KEYS: u64 = 60;

/// The two clocks in milliseconds: the wall clock, and the monotonic one.
type Clocks = Arc<Mutex<(i64, u64)>>;

/// An engine that runs on the state.
pub(crate) struct RunningEngine {
    handle: EngineHandle,
    engine: JoinHandle<Result<(), JournalError>>,
}

pub(crate) struct Run {
    rng: Rng,
    /// Deleted at the end of the run.
    _folder: TempDir,
    options: SqliteOptions,
    clocks: Clocks,
    faults: Faults,
    known: Known,
    seen: SituationCounts,
    /// The expected time of the engine, which never goes back.
    now: Timestamp,
    jobs: u64,
}

/// Recovers the state from the snapshot and from all events, and compares both with the last live leases.
fn verify(path: &Path, now: Timestamp, live: &[AllocationView]) {
    let recovered = |when: &str| {
        let connection = open_to_read(path).expect(when);
        let recovery = recover(&connection, path, None).expect(when);
        assert!(recovery.faults.is_empty(), "{when}: {:?}", recovery.faults);
        assert_eq!(check::violations(&recovery.cluster), [""; 0], "{when}");
        recovery
    };
    let quick = recovered("from the snapshot");
    assert!(quick.snapshot.is_some_and(|sequence| sequence == quick.anchor.sequence), "a snapshot at the end");
    let snapshots = find_snapshots(path).expect("a folder");
    assert!(snapshots.len() <= 2, "{snapshots:?}");
    for (_, snapshot) in snapshots {
        std::fs::remove_file(snapshot).expect("a file");
    }
    let whole = recovered("from the beginning");
    assert_eq!(whole.anchor, quick.anchor);
    assert!(quick.cluster.outline() == whole.cluster.outline(), "the outlines differ");
    assert!(quick.cluster.allocation_images().eq(whole.cluster.allocation_images()), "the allocations differ");
    let active = Filter { state: Some(State::Active), job: None };
    let listed = |cluster: &Cluster| cluster.list(now, &active, FencingToken::new(0)).collect::<Vec<_>>();
    assert!(listed(&whole.cluster) == live, "the engine had another state");
}

impl Run {
    pub(crate) fn new(seed: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut rng = Rng::with_seed(seed);
        let options = SqliteOptions {
            path: folder.path().join("state.db"),
            synchronous: Synchronous::Normal,
            keep_events: Duration::MAX,
            // Few, so that snapshots are written during the run.
            snapshot_events_min: 500,
        };
        let wall = 1_700_000_000_000 + rng.i64(0..DAY_MS);
        Self {
            rng,
            _folder: folder,
            options,
            clocks: Arc::new(Mutex::new((wall, 0))),
            faults: Faults::default(),
            known: Known::default(),
            seen: SituationCounts::default(),
            now: Timestamp::MIN,
            jobs: 0,
        }
    }

    fn seen(&mut self, what: &'static str, times: u64) {
        self.seen.add(what, times);
    }

    /// Ends without faults, and verifies the state that is left.
    pub(crate) async fn finish(mut self, RunningEngine { handle, engine }: RunningEngine) -> SituationCounts {
        *self.faults.plan() = crate::durable_simulation::faulty::Plan::default();
        let live = self.read_live(&handle).await.expect("nothing fails any more");
        drop(handle);
        engine.await.expect("no panic").expect("nothing fails any more");
        verify(&self.options.path, self.now, &live);
        self.seen("undelivered grant seen after a crash", self.known.undelivered_seen);
        self.seen
    }

    /// Advances the clocks.
    fn advance_by(&mut self, wall_ms: i64, monotonic_ms: u64) {
        let mut clocks = self.clocks.lock().expect("no panic while the clocks is locked");
        clocks.0 += wall_ms;
        clocks.1 += monotonic_ms;
    }

    /// Starts an engine on the state. Retries a start that fails.
    pub(crate) async fn start(&mut self) -> RunningEngine {
        let last_at = self.options.path.exists().then(|| {
            let connection = open_to_read(&self.options.path).expect("a state");
            recover(&connection, &self.options.path, None).expect("a good state").last_at()
        });
        loop {
            let inner = SqliteJournal::open(self.options.clone(), &OwnerRecord::of_this_process(), LOCK_WAIT_MAX)
                .expect("a free state");
            let journal = Faulty { inner, faults: self.faults.clone() };
            let clocks = Arc::clone(&self.clocks);
            let clock = EngineClock::from_source(move || {
                let (wall, monotonic) = *clocks.lock().expect("no panic while the clocks is locked");
                (Timestamp::from_millis(wall), Duration::from_millis(monotonic))
            });
            let started = Engine::start(Self::engine_options(), journal, clock).await;
            let (engine, handle) = match started {
                Ok(started) => started,
                Err(StartError::Journal(error)) if error.is_transient() => {
                    self.seen("load failed", 1);
                    continue;
                }
                Err(other) => panic!("no start: {other}"),
            };
            let wall = Timestamp::from_millis(self.clocks.lock().expect("no panic while the clocks is locked").0);
            self.now = last_at.flatten().map_or(wall, |last| last.max(wall));
            if let Some(last) = last_at.flatten() {
                self.known.extended(last, self.now, GRACE);
            }
            let running = RunningEngine { handle, engine: tokio::spawn(engine.run()) };
            let live = self.read_live(&running.handle).await.expect("no fault was planned");
            let live: Vec<&AllocationView> = live.iter().collect();
            self.known.check(self.now, &live);
            return running;
        }
    }

    fn engine_options() -> EngineOptions {
        let capacity =
            Resources { cpu_millis: CpuMillis::from_millis(16_000), memory_mb: MemoryMb(32_768), workers: WORKERS };
        EngineOptions {
            history_age: Millis(u64::MAX),
            outage_grace: GRACE,
            close_within: Duration::from_secs(30),
            ..EngineOptions::fixed(capacity)
        }
    }

    /// Reads all live leases and checks that they do not exceed the capacity.
    async fn read_live(&mut self, handle: &EngineHandle) -> Result<Vec<AllocationView>, EngineError> {
        let read = handle.read(|state, now| {
            let filter = Filter { state: Some(State::Active), job: None };
            let views: Vec<_> = state.cluster.list(now, &filter, FencingToken::new(0)).collect();
            (now, views, state.cluster.capacity(now))
        });
        let (now, views, capacity) = read.await?;
        assert_eq!(now, self.now, "the engine's time");
        let held: u64 = views.iter().map(|view| view.allocation.reservation.workers.count()).sum();
        assert_eq!(capacity.leased.workers, held, "the leased workers are not the sum over the leases");
        assert!(held <= WORKERS, "{held} of {WORKERS} workers are leased");
        Ok(views)
    }

    /// Advances the clocks, plans a fault now and then, and makes concurrent calls.
    pub(crate) async fn step(&mut self, running: RunningEngine) -> RunningEngine {
        match self.rng.u8(0..100) {
            0..4 => return self.restart(running).await,
            4..24 => {
                let faults = [Fault::FailBefore, Fault::FailAfter, Fault::CrashBefore, Fault::CrashAfter];
                let fault = self.rng.choice(faults);
                self.faults.plan().commit = fault;
            }
            _ => {}
        }
        let (passed, outage_since) = self.advance_clocks();
        let calls: Vec<Call> = (0..self.rng.usize(1..=CALLS_MAX)).map(|_| self.random_call()).collect();
        let planned = self.faults.plan().commit;
        let fails = matches!(planned, Some(Fault::FailBefore | Fault::FailAfter));
        let loads = if fails { self.rng.u32(0..3) } else { 0 };
        self.faults.plan().loads = loads;
        let abort = running.engine.abort_handle();
        let (faults, handle) = (self.faults.clone(), running.handle.clone());
        let watch = tokio::spawn(async move {
            faults.crash().await;
            abort.abort();
        });
        let answers = join_all(calls.into_iter().map(|call| make(&handle, call))).await;
        let has_crashed = watch.is_finished() || {
            watch.abort();
            watch.await.is_ok()
        };
        let was_met = planned.is_some() && self.faults.plan().commit.is_none();
        if let Some(fault) = planned.filter(|_| was_met) {
            self.seen(situation_of(fault), 1);
            self.seen("load failed", u64::from(loads));
        }
        // Without a commit the planned fault did not happen.
        *self.faults.plan() = crate::durable_simulation::faulty::Plan::default();
        // A crash may lose the record of the outage. Without a crash the engine retries until it is committed.
        match outage_since {
            // The outage may have been recorded in a batch whose outcome is unknown; then it is not recorded again.
            Some(_) if has_crashed || was_met => self.known.perhaps_extended(self.now, GRACE),
            Some(since) => self.known.extended(since, self.now, GRACE),
            // The extension is not longer than the stall.
            None if passed > STALL_MS => self.known.perhaps_extended(self.now, Millis(passed)),
            None => {}
        }
        for answer in answers {
            self.check_answer(answer, has_crashed);
        }
        if has_crashed {
            drop(running.engine.await);
            self.advance_clocks_between_engines();
            return self.start().await;
        }
        // During a reload each call returns `NotCommitted`.
        let live = loop {
            match self.read_live(&running.handle).await {
                Err(EngineError::NotCommitted) => tokio::task::yield_now().await,
                live => break live.expect("no fault is left"),
            }
        };
        let live: Vec<&AllocationView> = live.iter().collect();
        self.known.check(self.now, &live);
        running
    }

    /// Ends an engine between two batches, in order or by a crash.
    async fn restart(&mut self, RunningEngine { handle, engine }: RunningEngine) -> RunningEngine {
        match self.rng.u8(0..3) {
            0 => {
                self.seen("crash between batches", 1);
                engine.abort();
                drop(engine.await);
            }
            end => {
                let crashes = end == 1;
                self.seen(if crashes { "crash at the end" } else { "end in order" }, 1);
                self.faults.plan().crashes_at_end = crashes;
                drop(handle);
                engine.await.expect("no panic").expect("nothing fails at the end");
            }
        }
        *self.faults.plan() = crate::durable_simulation::faulty::Plan::default();
        self.advance_clocks_between_engines();
        self.faults.plan().loads = if self.rng.u8(0..4) == 0 { self.rng.u32(1..3) } else { 0 };
        self.start().await
    }

    fn advance_clocks_between_engines(&mut self) {
        let away = self.rng.choice([0, 5_000, 30_000, 200_000, -HOUR_MS, DAY_MS]).unwrap_or(0);
        let passed = self.rng.u64(0..1_000);
        self.advance_by(away, passed);
    }

    /// Advances the clocks of a running engine by some seconds, or sets the wall clock. Returns the milliseconds that
    /// passed and, for an outage, the last time before it.
    fn advance_clocks(&mut self) -> (u64, Option<Timestamp>) {
        let passed = if self.rng.bool() { 0 } else { self.rng.u64(0..20_000) };
        let set = match self.rng.u8(0..60) {
            0 => -HOUR_MS,
            1 => DAY_MS,
            _ => 0,
        };
        self.advance_by(passed.cast_signed() + set, passed);
        let wall = self.clocks.lock().expect("no panic while the clocks is locked").0;
        let expected = self.now.after(Millis(passed));
        let before = self.now;
        self.now = if wall < before.as_millis() { expected } else { Timestamp::from_millis(wall) };
        (passed, (self.now.as_millis() - expected.as_millis() > OUTAGE_MS).then_some(before))
    }

    fn random_call(&mut self) -> Call {
        let held = self.rng.choice(self.known.held());
        match (self.rng.u8(0..20), held) {
            (0..9, _) | (_, None) => Call::Request(Box::new(self.request())),
            (9..14, Some(held)) => Call::Release(held),
            (14..17, Some(held)) => Call::Renew(held),
            (17, _) => Call::Sweep,
            _ => Call::ReadCapacity,
        }
    }

    fn request(&mut self) -> Request {
        let unanswered = self.rng.choice(self.known.unanswered.iter().cloned().collect::<Vec<_>>());
        let key = match self.rng.u8(0..4) {
            0 => None,
            1 => unanswered,
            _ => Some(RequestId::new(&format!("{}-{}", self.jobs / KEYS, self.rng.u64(0..KEYS))).expect("a name")),
        };
        self.jobs += 1;
        let job = key.as_ref().map_or_else(|| format!("job-{}", self.jobs), |key| format!("of-{key}"));
        // The request is derived from the request id.
        let mut body = match &key {
            Some(key) => Rng::with_seed(key.as_str().bytes().fold(7, |sum, byte| sum * 31 + u64::from(byte))),
            None => self.rng.fork(),
        };
        let servers =
            (0..body.u8(0..3)).map(|_| ServerName::new(&format!("server-{}", body.u8(0..5))).expect("a name"));
        let servers = DistinctServers::new(servers.collect::<Vec<_>>());
        Request {
            job: JobId::new(&job).expect("a name"),
            servers,
            workers: body.u64(0..4),
            priority: Priority::Normal,
            ttl_seconds: TtlSeconds::new(body.choice([30, 100, 2_000]).unwrap_or(30)).expect("a time to live"),
            request_id: key,
            metadata: Metadata::empty(),
        }
    }

    /// Compares a reply with what is known.
    fn check_answer(&mut self, answer: Answer, has_crashed: bool) {
        let is_lost = |error: &EngineError| matches!(error, EngineError::NotCommitted | EngineError::Stopped);
        let error = match &answer {
            Answer::Request(_, answer) => answer.as_ref().err(),
            Answer::Release(_, answer) => answer.as_ref().err(),
            Answer::Renew(_, answer) => answer.as_ref().err(),
            Answer::Sweep(answer) => answer.as_ref().err(),
            Answer::ReadCapacity(answer) => answer.as_ref().err(),
        };
        if error.is_some_and(is_lost) {
            self.seen("not committed", 1);
        }
        let now = self.now;
        match answer {
            Answer::Request(request, Ok(grant)) => {
                let was_lost = self.known.granted(request.request_id.as_ref(), &grant);
                let what = match (grant.is_new, was_lost) {
                    (true, _) => "granted",
                    (false, true) => "retried and granted before",
                    (false, false) => "repeated",
                };
                self.seen(what, 1);
            }
            Answer::Request(request, Err(error)) if is_lost(&error) => {
                self.known.lost(&request.job, request.request_id.as_ref(), has_crashed);
            }
            Answer::Request(_, Err(EngineError::Refused(_))) => self.seen("refused", 1),
            Answer::Request(request, Err(error)) => panic!("{request:?}: {error}"),
            Answer::Release(id, answer) => {
                self.seen("released", u64::from(answer.is_ok()));
                self.known.released(now, id, &answer);
            }
            Answer::Renew(id, answer) => {
                self.seen("renewed", u64::from(answer.is_ok()));
                self.known.renewed(now, id, &answer);
            }
            Answer::Sweep(Ok(expired)) => {
                self.seen("expired", expired.count);
                self.known.swept(now, &expired);
            }
            Answer::ReadCapacity(Ok(leased)) => assert!(leased <= WORKERS, "{leased} of {WORKERS} workers are leased"),
            Answer::Sweep(Err(error)) | Answer::ReadCapacity(Err(error)) => assert!(is_lost(&error), "{error}"),
        }
    }
}

const fn situation_of(fault: Fault) -> &'static str {
    match fault {
        Fault::FailBefore => "commit failed",
        Fault::FailAfter => "commit answered with an error, done",
        Fault::CrashBefore => "crash before a commit",
        Fault::CrashAfter => "crash after a commit",
    }
}
