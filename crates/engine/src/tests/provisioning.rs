//! Tests of leases with provisioning: replies wait until servers and workers have started or stopped.

use super::durable::{Fault, Memory, Wall, start_on};
use super::*;
use cortex_core::ports::Port;
use cortex_core::provisioning::{Provisioning, Sharing};
use futures_util::poll;
use std::pin::pin;
use std::sync::Mutex;

/// Provisioning with a shared server `filesystem`, a private server `memory`, and worker processes.
fn provisioning() -> Provisioning {
    let server = |name, sharing| (ServerName::new(name).expect("a name"), sharing);
    Provisioning {
        catalog: Some([server("filesystem", Sharing::Shared), server("memory", Sharing::PerAllocation)].into()),
        manages_workers: true,
        start_max: Millis::from_seconds(20),
        ..Provisioning::default()
    }
}

async fn start_provisioning() -> (EngineHandle, Memory, Wall) {
    let (memory, wall) = (Memory::default(), Wall::default());
    let (handle, _) = start_on(&memory, &wall).await;
    handle.set_provisioning(provisioning(), Some(Box::new(|_, _| true))).await.expect("an engine");
    (handle, memory, wall)
}

/// The allocations in a state, oldest first.
async fn in_state(engine: &EngineHandle, state: State) -> Vec<AllocationId> {
    let filter = Filter { state: Some(state), job: None };
    let read = move |state: &EngineState<'_>, now| state.records(now, &filter, RecordPosition::default(), 100);
    let page = engine.read(read).await.expect("an engine");
    let id = |record: &Record| match record {
        Record::Allocation(view) => view.allocation.reservation.allocation,
        Record::Refusal(refusal) => refusal.allocation,
    };
    page.entries.iter().map(id).collect()
}

/// The one allocation in a state.
async fn only(engine: &EngineHandle, state: State) -> AllocationId {
    let found = in_state(engine, state).await;
    let [one] = found[..] else { panic!("{found:?} are {state}") };
    one
}

fn not_started(answer: Result<Grant, EngineError>) -> String {
    match answer {
        Err(EngineError::NotStarted { error, .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_grant_is_answered_when_it_is_ready_and_so_is_each_repeat() {
    let (engine, ..) = start_provisioning().await;
    let mut first = pin!(engine.request(keyed("a", 1, "k"), CancelHandle::default()));
    let mut again = pin!(engine.request(keyed("a", 1, "k"), CancelHandle::default()));
    assert!(poll!(&mut first).is_pending() && poll!(&mut again).is_pending());
    let allocation = only(&engine, State::Pending).await;
    assert!(poll!(&mut first).is_pending() && poll!(&mut again).is_pending(), "it is decided and not active");
    engine.activate(allocation).await.expect("a reservation");
    let (first, again) = (first.await.expect("a grant"), again.await.expect("a grant"));
    assert_eq!((id(&first), first.is_new, id(&again), again.is_new), (allocation, true, allocation, false));
    assert_eq!(first.view.allocation.state(), State::Active);
    let late = engine.activate(allocation).await.expect_err("it is active");
    assert_eq!(late, EngineError::Denied(Denied::NotPending { allocation, state: State::Active }));
}

#[tokio::test]
async fn what_cannot_be_started_fails_its_grant_whole() {
    let (engine, ..) = start_provisioning().await;
    let mut first = pin!(engine.request(keyed("a", 4, "k"), CancelHandle::default()));
    assert!(poll!(&mut first).is_pending());
    let allocation = only(&engine, State::Pending).await;
    engine
        .fail_activation(allocation, Arc::from("it ended"), Arc::from("it printed nothing"))
        .await
        .expect("a reservation");
    assert_eq!(not_started(first.await), "it printed nothing");
    assert_eq!(capacity(&engine).await.expect("an engine").leased, Resources::default());
    // A repeat of a failed request is a new request.
    let mut second = pin!(engine.request(keyed("a", 4, "k"), CancelHandle::default()));
    assert!(poll!(&mut second).is_pending());
    let anew = only(&engine, State::Pending).await;
    assert_ne!(anew, allocation);
    engine.activate(anew).await.expect("a reservation");
    assert!(second.await.expect("a grant").is_new);
}

#[tokio::test]
async fn a_release_is_answered_when_nothing_is_left() {
    let (engine, ..) = start_provisioning().await;
    let mut grant = pin!(engine.request(request("a", 6), CancelHandle::default()));
    assert!(poll!(&mut grant).is_pending());
    let allocation = only(&engine, State::Pending).await;
    engine.activate(allocation).await.expect("a reservation");
    grant.await.expect("a grant");
    let (mut one, mut other) = (pin!(engine.release(allocation)), pin!(engine.release(allocation)));
    assert!(poll!(&mut one).is_pending() && poll!(&mut other).is_pending());
    assert_eq!(only(&engine, State::Releasing).await, allocation);
    assert_eq!(capacity(&engine).await.expect("an engine").leased.workers, 6, "it is held until it is gone");
    assert!(poll!(&mut one).is_pending());
    engine.finish_release(allocation).await.expect("a release");
    for released in [one.await, other.await] {
        let Ok(Released::Now(release)) = released else { panic!("{released:?}") };
        assert_eq!((release.allocation, release.freed.workers), (allocation, 6));
    }
    assert!(matches!(engine.release(allocation).await, Ok(Released::Before { .. })));
    assert!(engine.finish_release(allocation).await.is_err());
}

#[tokio::test]
async fn a_request_waits_for_a_release_in_progress_and_not_forever() {
    let (engine, _, wall) = start_provisioning().await;
    let mut grant = pin!(engine.request(request("a", 6), CancelHandle::default()));
    assert!(poll!(&mut grant).is_pending());
    let first = only(&engine, State::Pending).await;
    engine.activate(first).await.expect("a reservation");
    grant.await.expect("a grant");
    let mut release = pin!(engine.release(first));
    assert!(poll!(&mut release).is_pending());
    let mut second = pin!(engine.request(request("b", 5), CancelHandle::default()));
    let mut third = pin!(engine.request(request("c", 8), CancelHandle::default()));
    assert!(poll!(&mut second).is_pending() && poll!(&mut third).is_pending());
    assert!(in_state(&engine, State::Pending).await.is_empty(), "nothing is reserved for them");
    engine.finish_release(first).await.expect("a release");
    release.await.expect("a release");
    let allocation = only(&engine, State::Pending).await;
    engine.activate(allocation).await.expect("a reservation");
    assert_eq!(second.await.expect("a grant").view.allocation.reservation.job.as_str(), "b");
    // There is no capacity for the other one, and no release that it could wait for.
    let Err(EngineError::Refused(refusal)) = third.await else { panic!("there is not enough capacity") };
    assert_eq!(refusal.error, "Insufficient workers: requested 8, available 5");

    let mut release = pin!(engine.release(allocation));
    assert!(poll!(&mut release).is_pending());
    let mut fourth = pin!(engine.request(request("d", 10), CancelHandle::default()));
    assert!(poll!(&mut fourth).is_pending());
    turn(&engine).await.expect("a running engine");
    wall.set(19);
    assert!(in_state(&engine, State::Pending).await.is_empty());
    assert!(poll!(&mut fourth).is_pending());
    wall.set(20);
    turn(&engine).await.expect("a running engine");
    let Err(EngineError::Refused(refusal)) = fourth.await else { panic!("it has waited long enough") };
    assert_eq!(refusal.error, "Insufficient workers: requested 10, available 5");
}

#[tokio::test]
async fn what_is_cancelled_while_it_waits_is_revoked() {
    let (engine, ..) = start_provisioning().await;
    let cancel_handle = CancelHandle::default();
    let mut starting = pin!(engine.request(request("a", 6), cancel_handle.clone()));
    assert!(poll!(&mut starting).is_pending());
    let allocation = only(&engine, State::Pending).await;
    engine.cancel(cancel_handle);
    assert_eq!(only(&engine, State::Releasing).await, allocation);
    assert!(starting.await.is_err());
    assert!(engine.activate(allocation).await.is_err(), "the provisioner must stop it");

    let cancel_handle = CancelHandle::default();
    let mut waiting = pin!(engine.request(request("b", 10), cancel_handle.clone()));
    assert!(poll!(&mut waiting).is_pending());
    engine.cancel(cancel_handle);
    engine.finish_release(allocation).await.expect("a release");
    assert!(waiting.await.is_err());
    assert!(in_state(&engine, State::Pending).await.is_empty());
}

#[tokio::test]
async fn pending_and_releasing_allocations_are_ended_at_the_next_start() {
    let (engine, memory, wall) = start_provisioning().await;
    let mut leaving = pin!(engine.request(request("a", 3), CancelHandle::default()));
    assert!(poll!(&mut leaving).is_pending());
    let left = only(&engine, State::Pending).await;
    engine.activate(left).await.expect("a reservation");
    leaving.await.expect("a grant");
    let mut release = pin!(engine.release(left));
    assert!(poll!(&mut release).is_pending());
    let mut starting = pin!(engine.request(keyed("b", 3, "k"), CancelHandle::default()));
    assert!(poll!(&mut starting).is_pending());
    let pending = only(&engine, State::Pending).await;

    // Another engine starts with the same log.
    let (next, _) = start_on(&memory, &wall).await;
    assert_eq!(only(&next, State::Released).await, left);
    assert_eq!(only(&next, State::Failed).await, pending);
    assert_eq!(capacity(&next).await.expect("an engine").leased, Resources::default());
    assert!(next.request(keyed("b", 3, "k"), CancelHandle::default()).await.expect("a grant").is_new);
}

#[tokio::test]
async fn waiting_callers_of_a_failed_batch_have_to_retry() {
    let (engine, memory, _) = start_provisioning().await;
    let mut keyed_one = pin!(engine.request(keyed("a", 1, "k"), CancelHandle::default()));
    let mut other = pin!(engine.request(request("b", 1), CancelHandle::default()));
    assert!(poll!(&mut keyed_one).is_pending() && poll!(&mut other).is_pending());
    let pending = in_state(&engine, State::Pending).await;
    let [first, second] = pending[..] else { panic!("{pending:?}") };
    memory.fail([Fault::Before]);
    assert_eq!(engine.activate(first).await, Err(EngineError::NotCommitted));
    assert_eq!(keyed_one.await, Err(EngineError::NotCommitted));
    assert_eq!(other.await, Err(EngineError::NotCommitted));
    // The second is revoked; the first can be requested again.
    assert_eq!(only(&engine, State::Releasing).await, second);
    let mut again = pin!(engine.request(keyed("a", 1, "k"), CancelHandle::default()));
    assert!(poll!(&mut again).is_pending());
    engine.activate(first).await.expect("still a reservation");
    assert_eq!(id(&again.await.expect("a grant")), first);
}

#[tokio::test]
async fn ports_in_use_are_skipped_for_a_minute() {
    let (memory, wall) = (Memory::default(), Wall::default());
    let (engine, _) = start_on(&memory, &wall).await;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let claim = move |port: Port, name: Option<&ServerName>| {
        seen.lock().expect("no panic").push((port.0, name.map(ToString::to_string)));
        ![8000, 9000, 9002].contains(&port.0)
    };
    engine.set_provisioning(provisioning(), Some(Box::new(claim))).await.expect("an engine");
    let ask = async |job: &str| {
        let mut grant = pin!(engine.request(request(job, 1), CancelHandle::default()));
        assert!(poll!(&mut grant).is_pending());
        let allocation = in_state(&engine, State::Pending).await[0];
        engine.activate(allocation).await.expect("a reservation");
        let reservation = grant.await.expect("a grant").view.allocation.reservation;
        (reservation.workers.ports[0].0, reservation.servers[0].port.0, allocation)
    };
    let (worker, server, allocation) = ask("a").await;
    assert_eq!((worker, server), (8001, 9001));
    assert!(asked.lock().expect("no panic").contains(&(9001, Some("filesystem".to_owned()))));
    let mut release = pin!(engine.release(allocation));
    assert!(poll!(&mut release).is_pending());
    engine.finish_release(allocation).await.expect("a release");
    let tried = |port| asked.lock().expect("no panic").iter().filter(|(asked, _)| *asked == port).count();
    assert_eq!((tried(9000), tried(9002)), (1, 0));
    // Setting the provisioning again keeps what is known about ports.
    engine.set_provisioning(provisioning(), None).await.expect("an engine");
    ask("b").await;
    assert_eq!((tried(9000), tried(9002)), (1, 1));
    wall.set(61);
    engine
        .set_provisioning(Provisioning { start_max: Millis::from_seconds(5), ..provisioning() }, None)
        .await
        .expect("an engine");
    let (worker, ..) = ask("c").await;
    assert_eq!(worker, 8003);
}

#[tokio::test]
async fn a_later_request_does_not_overtake_one_that_waits_for_capacity() {
    let (engine, ..) = start_provisioning().await;
    let mut holders = Vec::new();
    for job in ["a", "b"] {
        let mut grant = pin!(engine.request(request(job, 5), CancelHandle::default()));
        assert!(poll!(&mut grant).is_pending());
        let allocation = only(&engine, State::Pending).await;
        engine.activate(allocation).await.expect("a reservation");
        grant.await.expect("a grant");
        holders.push(allocation);
    }
    let mut releases: Vec<_> = holders.iter().map(|holder| Box::pin(engine.release(*holder))).collect();
    for release in &mut releases {
        assert!(poll!(release).is_pending());
    }
    let mut first = pin!(engine.request(request("first", 10), CancelHandle::default()));
    assert!(poll!(&mut first).is_pending());
    engine.finish_release(holders[0]).await.expect("a release");
    let mut later = pin!(engine.request(request("later", 1), CancelHandle::default()));
    assert!(poll!(&mut later).is_pending());
    assert!(in_state(&engine, State::Pending).await.is_empty(), "freed capacity goes to the oldest request");
    // A request without workers is not held up.
    let mut other = pin!(engine.request(request("other", 0), CancelHandle::default()));
    assert!(poll!(&mut other).is_pending());
    let passed = only(&engine, State::Pending).await;
    engine.activate(passed).await.expect("a reservation");
    other.await.expect("a grant");
    engine.finish_release(holders[1]).await.expect("a release");
    let allocation = only(&engine, State::Pending).await;
    engine.activate(allocation).await.expect("a reservation");
    assert_eq!(first.await.expect("a grant").view.allocation.reservation.job.as_str(), "first");
    let Err(EngineError::Refused(refusal)) = later.await else { panic!("there is not enough capacity") };
    assert_eq!(refusal.error, "Insufficient workers: requested 1, available 0");
}
