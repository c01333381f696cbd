//! Tests of the engine over a durable journal that can fail.

use super::*;
use crate::batch::RELOADS_MAX;
use crate::start::StartError;
use cortex_core::time::Timestamp;
use cortex_journal::Recovered;
use std::sync::{Mutex, MutexGuard};

/// How a commit fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing was written.
    Before,
    /// All was written, and the commit returned an error.
    After,
}

/// A journal in memory that outlives its engines. Each commit uses the first of the faults.
#[derive(Clone, Default)]
pub(super) struct Memory(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    log: Vec<Recorded>,
    /// Appended and not committed.
    appended: Vec<Recorded>,
    faults: VecDeque<Option<Fault>>,
    failing_loads: u32,
    /// The state that the last close received.
    closed_with: Option<Cluster>,
}

impl Memory {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().expect("no panic while the log is locked")
    }

    pub(super) fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.kept().faults = faults.into_iter().map(Some).collect();
    }

    pub(super) fn cluster(&self) -> Cluster {
        let mut cluster = Cluster::default();
        self.kept().log.iter().for_each(|recorded| cluster.apply(recorded));
        assert_eq!(check::violations(&cluster), [""; 0]);
        cluster
    }

    /// How many events were committed.
    pub(super) fn events(&self) -> usize {
        self.kept().log.len()
    }

    pub(super) fn outages(&self) -> Vec<(Timestamp, Timestamp)> {
        let kept = self.kept();
        let outage = |recorded: &Recorded| match recorded.event {
            Event::OutageNoted { since, .. } => Some((since, recorded.at)),
            _ => None,
        };
        kept.log.iter().filter_map(outage).collect()
    }
}

fn injected() -> JournalError {
    JournalError::System { path: "injected".into(), action: "written", source: std::io::Error::other("injected") }
}

impl Journal for Memory {
    const IS_DURABLE: bool = true;

    async fn load(&mut self) -> Result<Recovered, JournalError> {
        if self.kept().failing_loads > 0 {
            self.kept().failing_loads -= 1;
            return Err(injected());
        }
        self.kept().appended.clear();
        let last_at = self.kept().log.last().map(|recorded| recorded.at);
        Ok(Recovered { cluster: self.cluster(), last_at })
    }

    fn append(&mut self, entries: &mut Vec<JournalEntry>) {
        self.kept().appended.extend(entries.drain(..).map(|entry| entry.recorded));
    }

    async fn commit(&mut self) -> Result<(), JournalError> {
        let mut kept = self.kept();
        let fault = kept.faults.pop_front().flatten();
        let events = std::mem::take(&mut kept.appended);
        if fault != Some(Fault::Before) {
            kept.log.extend(events);
        }
        if fault.is_some() { Err(injected()) } else { Ok(()) }
    }

    async fn close(self, cluster: Cluster, _within: Duration) {
        self.kept().closed_with = Some(cluster);
    }
}

/// A wall clock in seconds that only `set` moves.
#[derive(Clone, Default)]
pub(super) struct Wall(Arc<Mutex<i64>>);

impl Wall {
    pub(super) fn set(&self, seconds: i64) {
        *self.0.lock().expect("no panic while the clock is locked") = seconds;
    }

    fn clock(&self) -> EngineClock {
        let seconds = Arc::clone(&self.0);
        EngineClock::from_source(move || {
            let seconds = *seconds.lock().expect("no panic while the clock is locked");
            (at(seconds), Duration::ZERO)
        })
    }
}

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1_000)
}

pub(super) type Run = tokio::task::JoinHandle<Result<(), JournalError>>;

async fn start_with(memory: &Memory, wall: &Wall, totals: Totals) -> Result<(EngineHandle, Run), StartError> {
    let options = EngineOptions { totals, ..EngineOptions::fixed(CAPACITY) };
    let (engine, handle) = Engine::start(options, memory.clone(), wall.clock()).await?;
    Ok((handle, tokio::spawn(engine.run())))
}

pub(super) async fn start_on(memory: &Memory, wall: &Wall) -> (EngineHandle, Run) {
    start_with(memory, wall, Totals::fixed(CAPACITY)).await.expect("a good start")
}

fn ask(handle: &EngineHandle, request: Request) -> impl Future<Output = Result<Grant, EngineError>> {
    let handle = handle.clone();
    async move { handle.request(request, CancelHandle::default()).await }
}

#[tokio::test]
async fn a_failed_batch_is_reported_to_all_its_callers() {
    for (fault, is_there) in [(Fault::Before, false), (Fault::After, true)] {
        let (memory, wall) = (Memory::default(), Wall::default());
        let (handle, _run) = start_on(&memory, &wall).await;
        let held = ask(&handle, request("held", 1)).await.expect("enough capacity");
        memory.fail([fault]);
        let (granted, renewed, full, read) = tokio::join!(
            ask(&handle, keyed("lost", 2, "key")),
            renew(&handle, id(&held)),
            ask(&handle, request("full", 11)),
            capacity(&handle),
        );
        assert_eq!(granted, Err(EngineError::NotCommitted), "{fault:?}");
        assert_eq!(renewed.map(drop), Err(EngineError::NotCommitted), "{fault:?}");
        assert_eq!(full, Err(EngineError::NotCommitted), "{fault:?}");
        assert_eq!(read.map(drop), Err(EngineError::NotCommitted), "{fault:?}");
        // Later reads see what the journal has.
        assert_eq!(leased(&handle).await, if is_there { 3 } else { 1 }, "{fault:?}");
        let again = ask(&handle, keyed("lost", 2, "key")).await.expect("enough capacity");
        assert_eq!(again.is_new, !is_there, "{fault:?}");
        assert_eq!(leased(&handle).await, 3, "{fault:?}");
        // A refusal whose reply was lost is in no list.
        let failed = Filter { state: Some(State::Failed), job: None };
        assert_eq!(listed(&handle, failed, 10).await, [[]], "{fault:?}");
    }
}

#[tokio::test]
async fn refusals_after_a_failed_batch_are_listed_in_order() {
    let (memory, wall) = (Memory::default(), Wall::default());
    let (handle, _run) = start_on(&memory, &wall).await;
    refused(&handle, request("first", 11)).await;
    memory.fail([Fault::Before]);
    let lost = tokio::join!(ask(&handle, request("lost", 2)), ask(&handle, request("untold", 11)));
    assert_eq!(lost, (Err(EngineError::NotCommitted), Err(EngineError::NotCommitted)));
    refused(&handle, request("second", 11)).await;
    ask(&handle, request("granted", 1)).await.expect("enough capacity");
    refused(&handle, request("third", 11)).await;
    let jobs = |pages: Vec<Vec<(String, State)>>| pages.concat().into_iter().map(|(job, _)| job).collect::<Vec<_>>();
    for limit in 1..=5 {
        let listed = jobs(listed(&handle, Filter::default(), limit).await);
        assert_eq!(listed, ["first", "second", "granted", "third"], "in pages of {limit}");
    }
}

#[tokio::test]
async fn a_grant_that_cannot_be_requested_again_is_revoked() {
    for faults in [vec![Fault::After], vec![Fault::After, Fault::Before], vec![Fault::After, Fault::After]] {
        let (memory, wall) = (Memory::default(), Wall::default());
        let (handle, _run) = start_on(&memory, &wall).await;
        memory.fail(faults.clone());
        assert_eq!(ask(&handle, request("lost", 4)).await, Err(EngineError::NotCommitted), "{faults:?}");
        for _ in 1..faults.len() {
            assert_eq!(turn(&handle).await, Err(EngineError::NotCommitted), "{faults:?}");
        }
        assert_eq!(leased(&handle).await, 0, "{faults:?}");
        assert_eq!(memory.cluster().capacity(at(0)).live_allocations, 0, "{faults:?}");
    }
}

#[tokio::test]
async fn what_was_cancelled_in_a_failed_batch_is_revoked() {
    for faults in [vec![Fault::Before], vec![Fault::After], vec![Fault::Before, Fault::Before]] {
        let (memory, wall) = (Memory::default(), Wall::default());
        let (handle, _run) = start_on(&memory, &wall).await;
        let cancel_handle = CancelHandle::default();
        handle.request(keyed("unwanted", 4, "key"), cancel_handle.clone()).await.expect("enough capacity");
        memory.fail(faults.clone());
        handle.cancel(cancel_handle);
        for _ in 0..faults.len() {
            // The batch that revokes it.
            assert_eq!(turn(&handle).await, Err(EngineError::NotCommitted), "{faults:?}");
        }
        assert_eq!(leased(&handle).await, 0, "{faults:?}");
        assert_eq!(memory.cluster().capacity(at(0)).live_allocations, 0, "{faults:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_cancelled_during_a_reload_is_revoked() {
    let (memory, wall) = (Memory::default(), Wall::default());
    let (handle, _run) = start_on(&memory, &wall).await;
    let (unwanted, repeated) = (CancelHandle::default(), CancelHandle::default());
    handle.request(request("unwanted", 4), unwanted.clone()).await.expect("enough capacity");
    handle.request(keyed("wanted", 2, "key"), repeated.clone()).await.expect("enough capacity");
    ask(&handle, keyed("wanted", 2, "key")).await.expect("the same grant");
    memory.fail([Fault::Before]);
    memory.kept().failing_loads = 2;
    assert_eq!(ask(&handle, request("lost", 1)).await, Err(EngineError::NotCommitted));
    handle.cancel(unwanted);
    handle.cancel(repeated);
    // It is rejected after them.
    assert_eq!(turn(&handle).await, Err(EngineError::NotCommitted));
    while turn(&handle).await == Err(EngineError::NotCommitted) {}
    assert_eq!(leased(&handle).await, 2, "only what was cancelled");
}

#[tokio::test]
async fn undelivered_grants_are_revoked_before_the_end() {
    let (memory, wall) = (Memory::default(), Wall::default());
    let (handle, run) = start_on(&memory, &wall).await;
    memory.fail([Fault::After]);
    assert_eq!(ask(&handle, request("lost", 4)).await, Err(EngineError::NotCommitted));
    drop(handle);
    run.await.expect("no panic").expect("a good end");
    let cluster = memory.cluster();
    assert_eq!(cluster.capacity(at(0)).live_allocations, 0);
    let closed_with = memory.kept().closed_with.take().expect("a close");
    assert_eq!(closed_with.outline(), cluster.outline());
    assert!(closed_with.allocation_images().eq(cluster.allocation_images()), "closed with another state");
}

#[tokio::test(start_paused = true)]
async fn a_reload_is_tried_a_bounded_number_of_times() {
    for (loads, recovers) in [(RELOADS_MAX - 1, true), (RELOADS_MAX, false)] {
        let (memory, wall) = (Memory::default(), Wall::default());
        let (handle, run) = start_on(&memory, &wall).await;
        memory.fail([Fault::Before]);
        memory.kept().failing_loads = loads;
        assert!(ask(&handle, request("lost", 4)).await.is_err());
        if recovers {
            // During the reload each call returns `NotCommitted`.
            while turn(&handle).await == Err(EngineError::NotCommitted) {}
            assert_eq!(leased(&handle).await, 0);
        } else {
            assert!(matches!(run.await.expect("no panic"), Err(JournalError::System { .. })));
            assert_eq!(turn(&handle).await, Err(EngineError::Stopped));
        }
    }
}

#[tokio::test]
async fn subscribers_receive_what_may_have_happened() {
    let (memory, wall) = (Memory::default(), Wall::default());
    let (handle, _run) = start_on(&memory, &wall).await;
    let mut changes = handle.changes();
    memory.fail([Fault::After]);
    assert_eq!(ask(&handle, keyed("lost", 4, "key")).await, Err(EngineError::NotCommitted));
    assert!(changes.recv().await.expect("a change").capacity);
    assert_eq!(leased(&handle).await, 4);
}

#[tokio::test]
async fn other_totals_are_refused_or_written() {
    const CPU: Resources = Resources { cpu_millis: CpuMillis::from_millis(20_000), ..CAPACITY };
    const MEMORY: Resources = Resources { memory_mb: MemoryMb(65_536), ..CAPACITY };
    const WORKERS: Resources = Resources { workers: 12, ..CAPACITY };
    let totals = |capacity, explicit: [bool; 3], resize| Totals {
        is_cpu_explicit: explicit[0],
        is_memory_explicit: explicit[1],
        are_workers_explicit: explicit[2],
        resize,
        ..Totals::fixed(capacity)
    };
    let check = async |totals: Totals, expected: Result<Resources, &str>| {
        let (memory, wall) = (Memory::default(), Wall::default());
        drop(start_on(&memory, &wall).await);
        let before = memory.kept().log.len();
        match (start_with(&memory, &wall, totals.clone()).await, expected) {
            (Ok((handle, _)), Ok(expected)) => {
                assert_eq!(capacity(&handle).await.expect("a running engine").total, expected, "{totals:?}");
                let written = memory.kept().log.len() - before;
                assert_eq!(written, usize::from(expected != CAPACITY), "{totals:?}");
            }
            (Err(error), Err(text)) => {
                assert!(error.to_string().starts_with(text), "{totals:?}: {error}");
                assert!(error.to_string().contains("--resize yes"), "{totals:?}: {error}");
                assert_eq!(memory.kept().log.len(), before, "{totals:?}: something was written");
            }
            (other, expected) => panic!("{totals:?}: {:?} instead of {expected:?}", other.map(drop)),
        }
    };
    let all = [true; 3];
    check(totals(CPU, all, false), Err("total_cpu is 20.0, and the state has 16.0")).await;
    check(totals(MEMORY, all, false), Err("total_memory is 65536, and the state has 32768")).await;
    check(totals(WORKERS, all, false), Err("total_workers is 12, and the state has 10")).await;
    for other in [CPU, MEMORY, WORKERS] {
        check(totals(other, all, true), Ok(other)).await;
        check(totals(other, [false; 3], false), Ok(CAPACITY)).await;
        check(totals(other, [false; 3], true), Ok(CAPACITY)).await;
    }
    check(totals(CAPACITY, all, false), Ok(CAPACITY)).await;
    // A number of workers within the planner's range is accepted.
    let scalable = |range| Totals { workers_scalable: range, ..totals(WORKERS, all, false) };
    check(scalable(5..=12), Ok(CAPACITY)).await;
    check(scalable(11..=12), Err("total_workers is 12, and the state has 10")).await;
}

#[tokio::test]
async fn totals_below_what_is_leased_are_refused() {
    let (memory, wall) = (Memory::default(), Wall::default());
    let (handle, run) = start_on(&memory, &wall).await;
    ask(&handle, request("a", 6)).await.expect("enough capacity");
    drop(handle);
    run.await.expect("no panic").expect("a good end");
    let fewer = Totals::fixed(Resources { workers: 5, ..CAPACITY });
    let refused = start_with(&memory, &wall, fewer).await.map(drop);
    assert!(
        matches!(refused, Err(StartError::Settings(EngineError::Denied(Denied::BelowLeased { .. })))),
        "{refused:?}"
    );
}

/// When a lease expires, in seconds.
async fn ends_at(handle: &EngineHandle, grant: &Grant) -> i64 {
    let Some(Record::Allocation(view)) = record(handle, id(grant)).await else { panic!("not an allocation") };
    view.expires_at.expect("a live lease").as_millis() / 1_000
}

#[tokio::test]
async fn a_restart_extends_and_spreads_deadlines_that_passed() {
    let (memory, wall) = (Memory::default(), Wall::default());
    wall.set(1_000);
    let (handle, run) = start_on(&memory, &wall).await;
    let lasting = |seconds| Request { ttl_seconds: TtlSeconds::new(seconds).expect("at least 1"), ..request("a", 1) };
    let gone = ask(&handle, lasting(5)).await.expect("enough capacity");
    // Second by second, since a jump would be an outage.
    for second in 1_001..=1_010 {
        wall.set(second);
        turn(&handle).await.expect("a running engine");
    }
    let mut grants = Vec::new();
    for seconds in [10, 20, 30, 10_000] {
        grants.push(ask(&handle, lasting(seconds)).await.expect("enough capacity"));
    }
    drop(handle);
    run.await.expect("no panic").expect("a good end");

    wall.set(2_000);
    let (handle, _run) = start_on(&memory, &wall).await;
    assert_eq!(memory.outages(), [(at(1_010), at(2_000))]);
    let mut ends = Vec::new();
    for grant in &grants {
        ends.push(ends_at(&handle, grant).await);
    }
    assert!(ends[..3].iter().all(|end| (2_060..=2_120).contains(end)), "{ends:?}");
    assert!(ends.is_sorted(), "not in the order of their deadlines: {ends:?}");
    assert_eq!(ends[3], 11_010, "a distant deadline stays");
    // A lease that expired before the outage stays expired; the others can be renewed.
    let late = renew(&handle, id(&gone)).await;
    assert!(matches!(late, Err(EngineError::Denied(Denied::Expired { .. }))), "{late:?}");
    for grant in &grants {
        renew(&handle, id(grant)).await.expect("a lease that is extended");
    }
}

#[tokio::test]
async fn without_a_lease_a_restart_notes_no_outage() {
    let (memory, wall) = (Memory::default(), Wall::default());
    drop(start_on(&memory, &wall).await);
    wall.set(100_000);
    drop(start_on(&memory, &wall).await);
    assert_eq!(memory.outages(), []);
}

#[tokio::test]
async fn an_outage_is_noted_until_that_is_committed() {
    for fault in [Fault::Before, Fault::After] {
        let (memory, wall) = (Memory::default(), Wall::default());
        let (handle, _run) = start_on(&memory, &wall).await;
        let grant = ask(&handle, request("a", 1)).await.expect("enough capacity");
        // Far after the deadline: without the recorded outage the lease would have expired.
        wall.set(100_000);
        memory.fail([fault]);
        assert_eq!(turn(&handle).await, Err(EngineError::NotCommitted), "{fault:?}");
        renew(&handle, id(&grant)).await.expect("a lease that is extended");
        assert_eq!(memory.outages().last(), Some(&(at(0), at(100_000))), "{fault:?}");
    }
}

#[tokio::test]
async fn time_does_not_go_back_before_the_journal() {
    let (memory, wall) = (Memory::default(), Wall::default());
    wall.set(10_000);
    let (handle, run) = start_on(&memory, &wall).await;
    ask(&handle, request("a", 1)).await.expect("enough capacity");
    drop(handle);
    run.await.expect("no panic").expect("a good end");
    wall.set(6_400);
    let (handle, _run) = start_on(&memory, &wall).await;
    assert_eq!(handle.read(|_, now| now).await.expect("a running engine"), at(10_000));
    ask(&handle, request("b", 1)).await.expect("enough capacity");
    wall.set(10_005);
    assert_eq!(handle.read(|_, now| now).await.expect("a running engine"), at(10_005));
    assert!(memory.kept().log.is_sorted_by_key(|recorded| recorded.at));
}
