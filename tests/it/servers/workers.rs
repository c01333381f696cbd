//! Workers as processes: each is ready before its grant is answered, and has ended before its release is.

use super::rig::{Rig, entry, lives};
use crate::support::{http, misbehaving::misbehaving_server, wait_until_async, within};
use cortex_core::allocation::Metadata;
use cortex_core::allocation::State;
use cortex_core::command::{DistinctServers, Request};
use cortex_core::ids::{JobId, ServerName};
use cortex_core::priority::Priority;
use cortex_core::time::TtlSeconds;
use cortex_engine::{CancelHandle, EngineError, Grant};
use cortex_managed::{ProcessState, RuntimeError, RuntimeRequest, WorkerReport};
use cortex_runtime::{Ready, WorkerCommand};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::task::spawn_blocking;

pub(crate) fn worker(arguments: &[&str], ready: Ready) -> WorkerCommand {
    let worker = ["--worker"].iter().chain(arguments);
    WorkerCommand {
        command: misbehaving_server().to_string_lossy().into_owned(),
        arguments: worker.map(|argument| (*argument).to_owned()).collect(),
        environment: [("CORTEX_COLOUR".to_owned(), "blue".to_owned()), ("CORTEX_PORT".to_owned(), "1".to_owned())]
            .into(),
        ready,
        grace: Duration::from_secs(1),
    }
}

async fn rig(worker: WorkerCommand) -> Rig {
    Rig::with(json!({"a": entry(&[], json!({}))}), |options| options.worker = Some(worker)).await
}

async fn request(rig: &Rig, job: &str, workers: u64, servers: &[&str]) -> Result<Grant, EngineError> {
    let request = Request {
        job: JobId::new(job).expect("a name"),
        servers: DistinctServers::new(servers.iter().map(|name| ServerName::new(name).expect("a name"))),
        workers,
        priority: Priority::Normal,
        ttl_seconds: TtlSeconds::new(60).expect("a time to live"),
        request_id: None,
        metadata: Metadata::empty(),
    };
    within(rig.engine.request(request, CancelHandle::default())).await
}

/// Returns the response of the worker on a port; none if there is none.
pub(crate) async fn get(port: u16, path: &str) -> Option<Value> {
    let url = format!("http://127.0.0.1:{port}{path}");
    let (_, body) = spawn_blocking(move || http::get(&url)).await.expect("no panic")?;
    serde_json::from_str(&body).ok()
}

async fn report(rig: &Rig, id: &str) -> WorkerReport {
    let id = id.to_owned();
    within(rig.managed.request(|reply| RuntimeRequest::Worker(id, reply))).await.expect("a host").expect("a worker")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_knows_its_id_and_runs_when_the_grant_is_answered() {
    for ready in [Ready::Tcp, Ready::Http("/health".to_owned())] {
        let rig = rig(worker(&["--start-delay-ms", "200"], ready)).await;
        let grant = request(&rig, "job", 2, &["a"]).await.expect("a grant");
        let reservation = &grant.view.allocation.reservation;
        let lease = rig.lease_of(&grant);
        let mut pids = Vec::new();
        for (number, port) in reservation.workers.iter() {
            let variables = get(port.0, "/health").await.expect("it is ready");
            assert_eq!(variables["CORTEX_WORKER_ID"], number.worker_id(&reservation.job));
            assert_eq!(variables["CORTEX_JOB_ID"], "job");
            assert_eq!(variables["CORTEX_ALLOCATION_ID"], reservation.allocation.to_string());
            assert_eq!(variables["CORTEX_PORT"], port.to_string(), "who it is cannot be overridden");
            assert_eq!(variables["CORTEX_COLOUR"], "blue");
            let servers: Value =
                serde_json::from_str(variables["CORTEX_SERVERS"].as_str().expect("a text")).expect("JSON");
            let endpoint = format!("http://localhost:{}", lease.port("a"));
            assert_eq!(servers["mcp_servers"], json!([{"name": "a", "endpoint": endpoint}]));
            assert_eq!(servers["access_token"].as_str(), lease.token.as_deref());
            let report = report(&rig, &number.worker_id(&reservation.job)).await;
            assert_eq!((report.state, report.allocation), (ProcessState::Running, Some(lease.allocation)));
            pids.push(variables["pid"].as_u64().expect("a number"));
        }
        rig.release(&lease).await;
        assert!(pids.iter().all(|pid| !lives(*pid)), "a release is answered when they are gone");
        assert_eq!(within(rig.managed.request(RuntimeRequest::Workers)).await.expect("a host"), []);
        rig.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_is_started_again_while_its_lease_lives() {
    let rig = rig(worker(&[], Ready::Tcp)).await;
    let grant = request(&rig, "job", 1, &[]).await.expect("a grant");
    let port = grant.view.allocation.reservation.workers.ports[0].0;
    let first = get(port, "/health").await.expect("it is ready")["pid"].clone();
    let _ = get(port, "/crash").await;
    wait_until_async("another is there", async || {
        get(port, "/health").await.is_some_and(|variables| variables["pid"] != first)
    })
    .await;
    wait_until_async("it counts as running", async || {
        let report = report(&rig, "worker-job-000").await;
        (report.state, report.restarts) == (ProcessState::Running, 1)
    })
    .await;
    let drain =
        within(rig.managed.request(|reply| RuntimeRequest::DrainWorker("worker-job-000".to_owned(), reply))).await;
    assert!(matches!(drain, Ok(Err(RuntimeError::Leased { .. }))), "{drain:?}");
    rig.release(&rig.lease_of(&grant)).await;
    assert_eq!(get(port, "/health").await, None);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_do_not_get_ready_fail_their_grant_whole() {
    let rig = rig(worker(&["--crash-at-start"], Ready::Tcp)).await;
    let refused = request(&rig, "job", 3, &["a"]).await;
    let Err(EngineError::NotStarted { error, .. }) = refused else { panic!("{refused:?}") };
    assert!(error.starts_with("worker worker-job-00") && error.contains("before it was ready"), "{error}");
    let text = "exited with code 3 before it was ready; the last lines of its standard error: ";
    assert!(error.contains(text), "{error}");
    let capacity = rig.capacity().await;
    assert_eq!((capacity.leased.workers, capacity.live_allocations), (0, 0));
    assert_eq!(within(rig.managed.request(RuntimeRequest::Workers)).await.expect("a host"), []);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_ignores_term_is_killed_before_its_capacity_is_granted() {
    let rig = rig(worker(&["--ignore-term"], Ready::Tcp)).await;
    let grant = request(&rig, "first", 10, &[]).await.expect("a grant");
    let lease = rig.lease_of(&grant);
    let engine = rig.engine.clone();
    let released = tokio::spawn(async move { engine.release(lease.allocation).await });
    rig.until_allocation(lease.allocation, State::Releasing).await;
    // Their capacity is free after they have ended, and a request that needs it waits for that.
    let second = request(&rig, "second", 1, &[]).await.expect("a grant");
    assert!(released.is_finished(), "nothing was granted before");
    released.await.expect("no panic").expect("a lease");
    rig.release(&rig.lease_of(&second)).await;
    rig.end().await;
}
