//! One run: lives of an engine over one state, and calls to it, several at once.

use crate::durable_simulation::Seen;
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
use cortex_engine::{Engine, EngineError, EngineHandle, EngineOptions, Listing, Place, Record, StartError};
use cortex_journal::{JournalError, SqliteJournal, SqliteOptions, Synchronous, find_snapshots, open_to_read, recover};
use cortex_util::lock::{LOCK_WAIT_MAX, OwnerRecord};
use fastrand::Rng;
use futures_util::future::join_all;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;

/// All workers there are.
const WORKERS: u64 = 10;
/// How long leases are spared after an outage.
const GRACE: Millis = Millis::from_seconds(60);
/// A jump of more than this against the monotonic clock is an outage.
const OUTAGE_MS: i64 = 60_000;
/// What passes from one turn of the engine to the next in more than this may count as a stall, by when it meant to wake.
const STALL_MS: u64 = 1_000;
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 86_400_000;
/// The most calls made at once.
const CALLS_MAX: usize = 12;
/// How many keys requests have; one that comes up again asks for the same again.
const KEYS: u64 = 60;

/// The two clocks in milliseconds: the wall clock, and the monotonic one.
type Clocks = Arc<Mutex<(i64, u64)>>;

struct Life {
    handle: EngineHandle,
    engine: JoinHandle<Result<(), JournalError>>,
}

struct Run {
    rng: Rng,
    options: SqliteOptions,
    clocks: Clocks,
    faults: Faults,
    known: Known,
    seen: Seen,
    /// The engine's time, which never goes back.
    now: Timestamp,
    jobs: u64,
}

/// Runs a seed for so many steps, and looks into what is left.
pub(crate) async fn run(seed: u64, steps: u64) -> Seen {
    let folder = tempfile::tempdir().expect("a folder");
    let mut rng = Rng::with_seed(seed);
    let options = SqliteOptions {
        path: folder.path().join("state.db"),
        synchronous: Synchronous::Normal,
        keep_events: Duration::MAX,
        // So few that snapshots come between all else.
        snapshot_events_min: 500,
    };
    let wall = 1_700_000_000_000 + rng.i64(0..DAY_MS);
    let mut run = Run {
        rng,
        options,
        clocks: Arc::new(Mutex::new((wall, 0))),
        faults: Faults::default(),
        known: Known::default(),
        seen: Seen::new(),
        now: Timestamp::MIN,
        jobs: 0,
    };
    let mut life = run.start().await;
    for _ in 0..steps {
        life = run.step(life).await;
    }
    // In order at last.
    *run.faults.plan() = crate::durable_simulation::faulty::Plan::default();
    let live = run.look(&life.handle).await.expect("nothing fails any more");
    let Life { handle, engine } = life;
    drop(handle);
    engine.await.expect("no panic").expect("nothing fails any more");
    verify(&run.options.path, run.now, &live);
    run.seen("orphan seen after a crash", run.known.orphans_seen);
    run.seen
}

/// Replays everything, from a snapshot and from the beginning, and compares with what was there last.
fn verify(path: &Path, now: Timestamp, live: &[AllocationView]) {
    let recovered = |when: &str| {
        let connection = open_to_read(path).expect(when);
        let recovery = recover(&connection, path, None).expect(when);
        assert!(recovery.faults.is_empty(), "{when}: {:?}", recovery.faults);
        assert_eq!(check::violations(&recovery.books), [""; 0], "{when}");
        recovery
    };
    let quick = recovered("from the snapshot");
    assert!(quick.snapshot.is_some_and(|place| place == quick.anchor.sequence), "a snapshot at the end");
    let snapshots = find_snapshots(path).expect("a folder");
    assert!(snapshots.len() <= 2, "{snapshots:?}");
    for (_, snapshot) in snapshots {
        std::fs::remove_file(snapshot).expect("a file");
    }
    let whole = recovered("from the beginning");
    assert_eq!(whole.anchor, quick.anchor);
    assert!(quick.books.outline() == whole.books.outline(), "the outlines differ");
    assert!(quick.books.allocation_images().eq(whole.books.allocation_images()), "the allocations differ");
    let active = Filter { state: Some(State::Active), job: None };
    let listed = |books: &Cluster| books.list(now, &active, FencingToken::new(0)).collect::<Vec<_>>();
    assert!(listed(&whole.books) == live, "the engine's books were others");
}

impl Run {
    fn seen(&mut self, what: &'static str, times: u64) {
        *self.seen.entry(what).or_default() += times;
    }

    /// Turns the clocks. The engine's time goes on as the rules say.
    fn pass(&mut self, wall_ms: i64, monotonic_ms: u64) {
        let mut clocks = self.clocks.lock().expect("nobody panics with the clocks in hand");
        clocks.0 += wall_ms;
        clocks.1 += monotonic_ms;
    }

    /// Starts a life on what the last one left. A start that fails is tried again.
    async fn start(&mut self) -> Life {
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
                let (wall, monotonic) = *clocks.lock().expect("nobody panics with the clocks in hand");
                (Timestamp::from_millis(wall), Duration::from_millis(monotonic))
            });
            let started = Engine::start(Self::engine_options(), journal, clock).await;
            let (engine, handle) = match started {
                Ok(started) => started,
                Err(StartError::Journal(error)) if error.may_pass() => {
                    self.seen("load failed", 1);
                    continue;
                }
                Err(other) => panic!("no start: {other}"),
            };
            let wall = Timestamp::from_millis(self.clocks.lock().expect("nobody panics with the clocks in hand").0);
            self.now = last_at.flatten().map_or(wall, |last| last.max(wall));
            if let Some(last) = last_at.flatten() {
                self.known.spared(last, self.now, GRACE);
            }
            let life = Life { handle, engine: tokio::spawn(engine.run()) };
            let live = self.look(&life.handle).await.expect("no fault was planned");
            let live: Vec<&AllocationView> = live.iter().collect();
            self.known.check(self.now, &live);
            return life;
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

    /// All live leases; they never hold more than there is.
    async fn look(&mut self, handle: &EngineHandle) -> Result<Vec<AllocationView>, EngineError> {
        let filter = Filter { state: Some(State::Active), job: None };
        let listing = Listing { filter, after: Place::default(), limit: 10_000 };
        let (page, capacity) = tokio::join!(handle.list(listing), handle.capacity());
        let (page, capacity) = (page?, capacity?);
        assert_eq!(page.at, self.now, "the engine's time");
        let views = page.entries.into_iter().filter_map(|record| match record {
            Record::Allocation(view) => Some(*view),
            Record::Refusal(_) => None,
        });
        let views: Vec<_> = views.collect();
        let held: u64 = views.iter().map(|view| view.allocation.reservation.workers.count()).sum();
        assert_eq!(capacity.value.leased.workers, held, "what is leased is not what the leases hold");
        assert!(held <= WORKERS, "{held} of {WORKERS} workers are leased");
        Ok(views)
    }

    /// Time goes on, some fault is planned, and some calls are made at once.
    async fn step(&mut self, life: Life) -> Life {
        match self.rng.u8(0..100) {
            0..4 => return self.restart(life).await,
            4..24 => {
                let faults = [Fault::FailBefore, Fault::FailAfter, Fault::CrashBefore, Fault::CrashAfter];
                let fault = self.rng.choice(faults);
                self.faults.plan().commit = fault;
            }
            _ => {}
        }
        let (passed, outage_since) = self.turn_clock();
        let calls: Vec<Call> = (0..self.rng.usize(1..=CALLS_MAX)).map(|_| self.draw()).collect();
        let planned = self.faults.plan().commit;
        let fails = matches!(planned, Some(Fault::FailBefore | Fault::FailAfter));
        let loads = if fails { self.rng.u32(0..3) } else { 0 };
        self.faults.plan().loads = loads;
        let abort = life.engine.abort_handle();
        let (faults, handle) = (self.faults.clone(), life.handle.clone());
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
            self.seen(name_of(fault), 1);
            self.seen("load failed", u64::from(loads));
        }
        // A fault that no commit met is none.
        *self.faults.plan() = crate::durable_simulation::faulty::Plan::default();
        // What a crash swallowed may be the note of the outage; without one it is made until it is committed.
        match outage_since {
            // Of a batch whose outcome is unknown, the note may have been made, and is not made again later then.
            Some(_) if has_crashed || was_met => self.known.perhaps_spared(self.now, GRACE),
            Some(since) => self.known.spared(since, self.now, GRACE),
            // It is spared for no longer than the engine stood still.
            None if passed > STALL_MS => self.known.perhaps_spared(self.now, Millis(passed)),
            None => {}
        }
        for answer in answers {
            self.take(answer, has_crashed);
        }
        if has_crashed {
            drop(life.engine.await);
            self.turn_clock_between_lives();
            return self.start().await;
        }
        // Whoever asks while the books are loaded again is told to ask again.
        let live = loop {
            match self.look(&life.handle).await {
                Err(EngineError::NotCommitted) => tokio::task::yield_now().await,
                live => break live.expect("no fault is left"),
            }
        };
        let live: Vec<&AllocationView> = live.iter().collect();
        self.known.check(self.now, &live);
        life
    }

    /// Ends a life between two batches, in order or not.
    async fn restart(&mut self, Life { handle, engine }: Life) -> Life {
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
        self.turn_clock_between_lives();
        self.faults.plan().loads = if self.rng.u8(0..4) == 0 { self.rng.u32(1..3) } else { 0 };
        self.start().await
    }

    fn turn_clock_between_lives(&mut self) {
        let away = self.rng.choice([0, 5_000, 30_000, 200_000, -HOUR_MS, DAY_MS]).unwrap_or(0);
        let passed = self.rng.u64(0..1_000);
        self.pass(away, passed);
    }

    /// Within a life: some seconds, or the clock is set. Gives how many milliseconds passed, and the last moment before the
    /// outage, if that was one.
    fn turn_clock(&mut self) -> (u64, Option<Timestamp>) {
        let passed = if self.rng.bool() { 0 } else { self.rng.u64(0..20_000) };
        let set = match self.rng.u8(0..60) {
            0 => -HOUR_MS,
            1 => DAY_MS,
            _ => 0,
        };
        self.pass(passed.cast_signed() + set, passed);
        let wall = self.clocks.lock().expect("nobody panics with the clocks in hand").0;
        let expected = self.now.after(Millis(passed));
        let before = self.now;
        self.now = if wall < before.as_millis() { expected } else { Timestamp::from_millis(wall) };
        (passed, (self.now.as_millis() - expected.as_millis() > OUTAGE_MS).then_some(before))
    }

    fn draw(&mut self) -> Call {
        let held = self.rng.choice(self.known.held());
        match (self.rng.u8(0..20), held) {
            (0..9, _) | (_, None) => Call::Request(Box::new(self.request())),
            (9..14, Some(held)) => Call::Release(held),
            (14..17, Some(held)) => Call::Renew(held),
            (17, _) => Call::Sweep,
            _ => Call::Look,
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
        // What is asked for follows from the key.
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

    /// Holds an answer against what is known.
    fn take(&mut self, answer: Answer, has_crashed: bool) {
        let is_lost = |error: &EngineError| matches!(error, EngineError::NotCommitted | EngineError::Stopped);
        let error = match &answer {
            Answer::Request(_, answer) => answer.as_ref().err(),
            Answer::Release(_, answer) => answer.as_ref().err(),
            Answer::Renew(_, answer) => answer.as_ref().err(),
            Answer::Sweep(answer) => answer.as_ref().err(),
            Answer::Look(answer) => answer.as_ref().err(),
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
            Answer::Look(Ok(leased)) => assert!(leased <= WORKERS, "{leased} of {WORKERS} workers are leased"),
            Answer::Sweep(Err(error)) | Answer::Look(Err(error)) => assert!(is_lost(&error), "{error}"),
        }
    }
}

const fn name_of(fault: Fault) -> &'static str {
    match fault {
        Fault::FailBefore => "commit failed",
        Fault::FailAfter => "commit answered with an error, done",
        Fault::CrashBefore => "crash before a commit",
        Fault::CrashAfter => "crash after a commit",
    }
}
