//! Tests of the engine through its handle.

mod demand;
mod durable;
mod fleet;
mod provisioning;

use super::handle::EXPIRED_NAMED_MAX;
use super::refusals::REFUSALS_MAX;
use super::*;
use cortex_core::allocation::{Metadata, State};
use cortex_core::check;
use cortex_core::command::{DistinctServers, Request};
use cortex_core::ids::{AgentId, JobId, NodeId, RequestId, ServerName};
use cortex_core::policy::PolicyName;
use cortex_core::priority::Priority;
use cortex_core::scaling_state::Scaling;
use cortex_core::time::TtlSeconds;
use cortex_core::units::{CpuMillis, MemoryMb, Resources};
use cortex_core::view::{CapacityView, Filter};
use cortex_journal::NullJournal;
use futures_util::FutureExt;
use message::Grant;
use std::collections::BTreeSet;

/// An engine that does not run yet, without a durable journal.
fn idle(capacity: Resources) -> (Engine<NullJournal>, EngineHandle) {
    let started = Engine::start(EngineOptions::fixed(capacity), NullJournal, EngineClock::system());
    started.now_or_never().expect("nothing to wait for").expect("a state that can be set up")
}

const CAPACITY: Resources =
    Resources { cpu_millis: CpuMillis::from_millis(16_000), memory_mb: MemoryMb(32_768), workers: 10 };

fn to_workers(workers: u64) -> Scaling {
    Scaling {
        policy: PolicyName::Balanced,
        workers_from: CAPACITY.workers,
        workers_to: workers,
        agents_from: 0,
        agents_to: 0,
        reason: Arc::from("a test"),
    }
}

fn start() -> EngineHandle {
    let (engine, handle) = idle(CAPACITY);
    tokio::spawn(engine.run());
    handle
}

/// An engine that does not run yet, on a node without capacity.
fn without_capacity() -> (Engine<NullJournal>, EngineHandle) {
    idle(Resources::default())
}

fn request(job: &str, workers: u64) -> Request {
    Request {
        job: JobId::new(job).expect("a name"),
        servers: DistinctServers::new([ServerName::new("filesystem").expect("a name")]),
        workers,
        priority: Priority::Normal,
        ttl_seconds: TtlSeconds::new(3_600).expect("a time to live"),
        request_id: None,
        metadata: Metadata::empty(),
    }
}

fn keyed(job: &str, workers: u64, key: &str) -> Request {
    Request { request_id: Some(RequestId::new(key).expect("a name")), ..request(job, workers) }
}

fn id(grant: &Grant) -> AllocationId {
    grant.view.allocation.reservation.allocation
}

async fn capacity(engine: &EngineHandle) -> Result<CapacityView, EngineError> {
    engine.read(|state, now| state.cluster.capacity(now)).await
}

/// Runs one turn of the engine.
async fn turn(engine: &EngineHandle) -> Result<(), EngineError> {
    engine.read(|_, _| ()).await
}

async fn record(engine: &EngineHandle, allocation: AllocationId) -> Option<Record> {
    engine.read(move |state, now| state.record(now, allocation)).await.expect("a running engine")
}

async fn renew(engine: &EngineHandle, allocation: AllocationId) -> Result<(), EngineError> {
    let renew = Command::Renew { allocation, ttl_seconds: None, fencing_token: None };
    engine.execute(renew, |_, _, _| ()).await
}

async fn scale(engine: &EngineHandle, scaling: Scaling) -> Result<(), EngineError> {
    engine.execute(Command::Scale(scaling), |_, _, _| ()).await
}

async fn set_token_budget(engine: &EngineHandle, tokens: u64) {
    let budget = FleetCommand::SetTokenBudget { job: None, tokens: Some(tokens), window: None };
    engine.execute(Command::Fleet(budget), |_, _, _| ()).await.expect("a budget");
}

async fn unregister(engine: &EngineHandle, agent: AgentId) -> Result<(), EngineError> {
    engine.execute(Command::Fleet(FleetCommand::Unregister { agent }), |_, _, _| ()).await
}

async fn leased(engine: &EngineHandle) -> u64 {
    capacity(engine).await.expect("a running engine").leased.workers
}

async fn refused(engine: &EngineHandle, request: Request) -> Refusal {
    match engine.request(request, CancelHandle::default()).await {
        Err(EngineError::Refused(refusal)) => *refusal,
        other => panic!("not refused: {other:?}"),
    }
}

/// The job and state of each record, page by page.
async fn listed(engine: &EngineHandle, filter: Filter, limit: usize) -> Vec<Vec<(String, State)>> {
    let mut pages = Vec::new();
    let mut after = RecordPosition::default();
    loop {
        let filter = filter.clone();
        let read = move |state: &EngineState<'_>, now| state.records(now, &filter, after, limit);
        let page = engine.read(read).await.expect("a running engine");
        let entry = |record: &Record| match record {
            Record::Allocation(view) => (view.allocation.reservation.job.to_string(), view.allocation.state()),
            Record::Refusal(refusal) => (refusal.job.to_string(), State::Failed),
        };
        pages.push(page.entries.iter().map(entry).collect());
        match page.next {
            Some(next) => after = next,
            None => {
                let entries: usize = pages.iter().map(Vec::len).sum();
                assert_eq!(page.total, entries as u64, "the total is not what the pages hold");
                return pages;
            }
        }
    }
}

#[tokio::test]
async fn messages_sent_together_take_effect_in_order() {
    let engine = start();
    let grant = engine.request(request("a", 10), CancelHandle::default()).await.expect("enough capacity");
    // Polled together, so that they form one batch: the second request gets what the release freed.
    let (full, released, granted, read) = tokio::join!(
        engine.request(request("b", 1), CancelHandle::default()),
        engine.release(id(&grant)),
        engine.request(request("c", 10), CancelHandle::default()),
        capacity(&engine),
    );
    assert!(matches!(full, Err(EngineError::Refused(_))), "{full:?}");
    assert!(matches!(released, Ok(Released::Now(_))), "{released:?}");
    assert!(granted.is_ok_and(|grant| grant.is_new));
    assert_eq!(read.expect("a running engine").leased.workers, 10);
}

/// Why an allocation ended, if it did.
async fn end_of(engine: &EngineHandle, id: AllocationId) -> Option<EndReason> {
    let Some(Record::Allocation(view)) = record(engine, id).await else { panic!("not an allocation") };
    match view.allocation.phase {
        cortex_core::allocation::Phase::Released { reason, .. } => Some(reason),
        _ => None,
    }
}

#[tokio::test]
async fn cancelling_revokes_the_grant_and_nothing_else() {
    let engine = start();
    let cancel_handle = CancelHandle::default();
    let kept = engine.request(request("a", 2), CancelHandle::default()).await.expect("enough capacity");
    let undone = engine.request(request("b", 3), cancel_handle.clone()).await.expect("enough capacity");
    engine.cancel(cancel_handle.clone());
    engine.cancel(cancel_handle);
    assert_eq!(leased(&engine).await, 2);
    assert_eq!(end_of(&engine, id(&undone)).await, Some(EndReason::Cancelled));
    assert_eq!(end_of(&engine, id(&kept)).await, None);
}

#[tokio::test]
async fn a_request_cancelled_before_its_decision_is_not_granted() {
    let engine = start();
    let cancel_handle = CancelHandle::default();
    engine.cancel(cancel_handle.clone());
    assert_eq!(engine.request(request("a", 2), cancel_handle).await, Err(EngineError::Cancelled));
    assert_eq!(leased(&engine).await, 0);
}

#[tokio::test]
async fn what_is_sent_after_a_cancellation_finds_the_capacity() {
    let engine = start();
    let cancel_handle = CancelHandle::default();
    // All in one batch: the grant is decided before it is cancelled.
    let (granted, (), full) = tokio::join!(
        engine.request(request("a", 10), cancel_handle.clone()),
        async { engine.cancel(cancel_handle.clone()) },
        engine.request(request("b", 10), CancelHandle::default()),
    );
    assert!(full.is_ok(), "{full:?}");
    assert!(matches!(granted, Err(EngineError::Cancelled)) || granted.is_ok_and(|grant| grant.is_new));
    assert_eq!(leased(&engine).await, 10);
}

#[tokio::test]
async fn cancelling_a_repeat_leaves_the_first_grant() {
    let engine = start();
    let first = engine.request(keyed("a", 2, "key"), CancelHandle::default()).await.expect("enough capacity");
    let cancel_handle = CancelHandle::default();
    engine.request(keyed("a", 2, "key"), cancel_handle.clone()).await.expect("the same grant");
    engine.cancel(cancel_handle);
    assert_eq!(leased(&engine).await, 2);
    assert_eq!(end_of(&engine, id(&first)).await, None);
}

#[tokio::test]
async fn a_repeated_request_is_recognized() {
    let engine = start();
    let first = engine.request(keyed("a", 2, "key"), CancelHandle::default()).await.expect("enough capacity");
    let again = engine.request(keyed("a", 2, "key"), CancelHandle::default()).await.expect("the same grant");
    assert!(first.is_new && !again.is_new);
    assert_eq!(id(&first), id(&again));
    let other = engine.request(keyed("a", 3, "key"), CancelHandle::default()).await;
    assert!(matches!(other, Err(EngineError::Denied(Denied::RequestIdReused { .. }))), "{other:?}");
    assert_eq!(leased(&engine).await, 2);
    let demand = engine.sample_demand().await.expect("a running engine").1;
    assert_eq!((demand.granted, demand.refused), (1, 0), "a repeat is no demand");
}

#[tokio::test]
async fn refusals_are_remembered_up_to_a_bound() {
    let engine = start();
    let first = refused(&engine, request("first", 11)).await;
    assert_eq!(record(&engine, first.allocation).await, Some(Record::Refusal(Box::new(first.clone()))));
    let held = engine.release(first.allocation).await;
    assert_eq!(held, Err(EngineError::NothingHeld(first.allocation)));

    for _ in 1..REFUSALS_MAX {
        refused(&engine, request("more", 11)).await;
    }
    assert!(record(&engine, first.allocation).await.is_some());
    refused(&engine, request("last", 11)).await;
    assert_eq!(record(&engine, first.allocation).await, None);
    let failed = Filter { state: Some(State::Failed), job: None };
    assert_eq!(listed(&engine, failed, 2_000).await[0].len(), REFUSALS_MAX);
}

#[tokio::test]
async fn lists_have_grants_and_refusals_in_order() {
    let engine = start();
    refused(&engine, request("r1", 11)).await;
    let a = engine.request(request("a", 1), CancelHandle::default()).await.expect("enough capacity");
    refused(&engine, request("r2", 11)).await;
    refused(&engine, request("a", 11)).await;
    engine.request(request("b", 1), CancelHandle::default()).await.expect("enough capacity");
    engine.release(id(&a)).await.expect("a lease");
    refused(&engine, request("r3", 11)).await;

    let all = [
        ("r1", State::Failed),
        ("a", State::Released),
        ("r2", State::Failed),
        ("a", State::Failed),
        ("b", State::Active),
        ("r3", State::Failed),
    ]
    .map(|(job, state)| (job.to_owned(), state));
    for limit in 1..=7 {
        let pages = listed(&engine, Filter::default(), limit).await;
        assert!(pages.iter().all(|page| page.len() <= limit));
        assert_eq!(pages.concat(), all, "in pages of {limit}");
    }
    let of_job = Filter { state: None, job: Some(JobId::new("a").expect("a name")) };
    assert_eq!(listed(&engine, of_job, 1).await.concat(), [all[1].clone(), all[3].clone()]);
    let released = Filter { state: Some(State::Released), job: None };
    assert_eq!(listed(&engine, released, 1).await.concat(), [all[1].clone()]);
}

#[tokio::test]
async fn changes_name_what_they_touched() {
    let engine = start();
    let mut changes = engine.changes();
    let grant = engine.request(request("a", 1), CancelHandle::default()).await.expect("enough capacity");
    let granted = changes.recv().await.expect("a change");
    assert_eq!(*granted, Change { capacity: true, allocations: BTreeSet::from([id(&grant)]) });
    renew(&engine, id(&grant)).await.expect("a live lease");
    let renewed = changes.recv().await.expect("a change");
    assert_eq!(*renewed, Change { capacity: false, allocations: BTreeSet::from([id(&grant)]) });
    scale(&engine, to_workers(12)).await.expect("enough capacity");
    let grown = changes.recv().await.expect("a change");
    assert_eq!(*grown, Change { capacity: true, allocations: BTreeSet::new() });
}

#[tokio::test]
async fn capacity_is_never_set_below_what_is_leased() {
    let engine = start();
    engine.request(request("a", 6), CancelHandle::default()).await.expect("enough capacity");
    let denied = scale(&engine, to_workers(5)).await;
    assert!(matches!(denied, Err(EngineError::Denied(Denied::BelowLeased { .. }))), "{denied:?}");
    scale(&engine, to_workers(6)).await.expect("as many as are leased");
    let refusal = refused(&engine, request("b", 1)).await;
    assert_eq!(refusal.error, "Insufficient workers: requested 1, available 0");
}

#[tokio::test]
async fn a_sweep_names_a_bounded_number_and_counts_all() {
    let (mut engine, handle) = without_capacity();
    // Leases of one second that were granted an hour ago.
    let long_ago = engine.now().before(Millis::from_seconds(3_600));
    engine.cluster = Cluster::default();
    let setup = Command::SetCapacity { node: NodeId::local(), capacity: Resources::default() };
    engine.execute(long_ago, &setup).expect("a capacity");
    let leases = EXPIRED_NAMED_MAX + 5;
    for draw in 0..leases as u64 {
        let request = Request { ttl_seconds: TtlSeconds::new(1).expect("a time to live"), ..request("a", 0) };
        let command = Command::Request { request: Box::new(request), worker_size: engine.worker_size, random: draw };
        engine.execute(long_ago, &command).expect("enough capacity");
    }
    engine.commit().await.expect("nothing that could fail");
    tokio::spawn(engine.run());
    let expired = handle.sweep().await.expect("a running engine");
    assert_eq!((expired.named.len(), expired.count), (EXPIRED_NAMED_MAX, leases as u64));
    assert_eq!(handle.sweep().await.expect("a running engine"), Expired::default());
}

#[tokio::test]
async fn without_its_engine_a_handle_returns_stopped() {
    let (engine, handle) = without_capacity();
    drop(engine);
    assert_eq!(turn(&handle).await, Err(EngineError::Stopped));
    handle.cancel(CancelHandle::default());
}
