//! Starts: a grant is answered when every server answers, and fails as a whole if one does not.

use super::rig::{Rig, call, entry, lives, pid, try_call};
use crate::support::{wait_until_async, within};
use cortex_core::allocation::{Phase, State};
use cortex_engine::EngineError;
use cortex_managed::ProcessState;
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::net::TcpListener;
use std::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_answered_when_its_servers_are() {
    let rig = Rig::new(json!({
        "slow": entry(&["--start-delay-ms", "600"], json!({})),
        "slower": entry(&["--start-delay-ms", "900"], json!({})),
    }))
    .await;
    let began = Instant::now();
    let lease = rig.lease("job", &["slow", "slower"]).await;
    let took = began.elapsed().as_millis();
    assert!(took >= 900, "{took} ms");
    for server in ["slow", "slower"] {
        let client = lease.client(server).await;
        assert_eq!(call(&client, "add", json!({"a": 2, "b": 3})).await, json!({"sum": 5.0}));
        let report = rig.report(server).await;
        assert_eq!((report.state, report.holders), (ProcessState::Running, vec![lease.allocation]));
        assert!(report.processes >= Some(1) && report.memory.is_some(), "{:?} {:?}", report.processes, report.memory);
    }
    // Servers start concurrently.
    let both = Rig::new(json!({
        "a": entry(&["--start-delay-ms", "1500"], json!({})),
        "b": entry(&["--start-delay-ms", "1500"], json!({})),
        "c": entry(&["--start-delay-ms", "1500"], json!({})),
    }))
    .await;
    let began = Instant::now();
    both.lease("job", &["a", "b", "c"]).await;
    assert!(began.elapsed().as_millis() < 4_000, "{:?}", began.elapsed());
    both.end().await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_start_fails_the_grant_and_says_why() {
    let rig = Rig::new(json!({
        "good": entry(&[], json!({})),
        "own": entry(&[], json!({"sharing": "per_allocation"})),
        "broken": entry(&["--crash-at-start"], json!({})),
        "mute": entry(&["--never-ready"], json!({"start_timeout_seconds": 1})),
        "absent": json!({"command": "no-such-program-of-this-name"}),
    }))
    .await;
    for (name, complaints) in [
        ("broken", ["exited with code 3", "the last lines of its standard error"]),
        ("mute", ["did not answer within 1 s", ""]),
        ("absent", ["could not be started", "no-such-program-of-this-name"]),
    ] {
        let refused = within(rig.request("job", &["good", "own", name], 60, Some(name))).await;
        let Err(EngineError::NotStarted { allocation, error }) = refused else { panic!("{refused:?}") };
        let expected = format!("MCP server {name:?} cannot be used: ");
        assert!(error.starts_with(&expected), "{error}");
        assert!(complaints.iter().all(|complaint| error.contains(complaint)), "{error}");
        assert!(!rig.in_state(State::Failed).await.is_empty(), "{allocation} is on record");
        assert_eq!(rig.capacity().await.live_allocations, 0);
        assert_eq!(rig.report("own").await.state, ProcessState::Stopped, "nothing of its own is left");
        assert!(rig.report("good").await.holders.is_empty(), "a shared server has no holder");
    }
    // A repeated request is tried again, and starts the failed server again.
    let refused = within(rig.request("job", &["broken"], 60, Some("again"))).await;
    assert!(matches!(refused, Err(EngineError::NotStarted { .. })), "{refused:?}");
    let refused = within(rig.request("job", &["nobody's"], 60, None)).await.expect_err("it is not in the catalog");
    let text = refused.to_string();
    assert!(text.contains(r#""nobody's""#) && text.contains(r#""absent", "broken", "good", "mute", "own""#), "{text}");
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_error_says_what_failed_why_and_what_to_do() {
    let shell = |script: &str, cortex: Value| json!({"command": "sh", "args": ["-c", script], "cortex": cortex});
    let brief = || json!({"start_timeout_seconds": 1});
    let own = |cwd: &str| json!({"command": "true", "cwd": cwd, "cortex": {"sharing": "per_allocation"}});
    let rig = Rig::new(json!({
        "absent": {"command": "no-such-program"},
        "no program": {"command": "/etc/passwd"},
        "no folder": {"command": "true", "cwd": "/no/such/folder"},
        "no own folder": own("/no/such/${CORTEX_ALLOCATION_ID}"),
        "fails": shell("echo the database cannot be reached >&2; exit 3", json!({})),
        "ends": shell("exit 0", json!({})),
        "killed": shell("kill -9 $$", json!({})),
        "cannot bind": shell("echo 'bind: Address already in use' >&2; exit 1", json!({})),
        "mute": shell("cat >/dev/null", brief()),
        "chatty": shell("echo hello; cat >/dev/null", brief()),
        "elsewhere": {"url": "http://127.0.0.1:1/mcp"},
    }))
    .await;
    let nothing = "and wrote nothing: run its command in a terminal to see why";
    for (name, why) in [
        (
            "absent",
            "it could not be started: no-such-program cannot be started (No such file or directory (os error 2)): it \
             is not in a folder of PATH: install it, or give its full path"
                .to_owned(),
        ),
        (
            "no program",
            "it could not be started: /etc/passwd cannot be started (Permission denied (os error 13)): make it \
             executable for this user"
                .to_owned(),
        ),
        (
            "no folder",
            "it could not be started: the folder /no/such/folder cannot be used (No such file or directory (os error \
             2)): create it"
                .to_owned(),
        ),
        (
            "fails",
            "it exited with code 3 before it answered; the last lines of its standard error: \
             the database cannot be reached"
                .to_owned(),
        ),
        ("ends", format!("it exited with code 0 before it answered, {nothing}")),
        ("killed", format!("it was ended by signal 9 (KILL) before it answered, {nothing}")),
        (
            "cannot bind",
            "it exited with code 1 before it answered; the last lines of its standard error: \
             bind: Address already in use"
                .to_owned(),
        ),
        (
            "mute",
            "it did not answer within 1 s: if it needs more time, such as for a download, set a larger \
             start_timeout_seconds in its entry"
                .to_owned(),
        ),
        (
            "chatty",
            "it did not answer within 1 s: its standard output is not MCP: start it as a server with the stdio \
             transport; the last lines of its standard error: (on its standard output) hello"
                .to_owned(),
        ),
        ("elsewhere", "it is not reachable, since the connection was refused: start it, or correct its url".to_owned()),
    ] {
        let refused = within(rig.request("job", &[name], 60, None)).await;
        let Err(EngineError::NotStarted { error, .. }) = refused else { panic!("{refused:?}") };
        assert_eq!(*error, format!("MCP server {name:?} cannot be used: {why}"));
    }
    let refused = within(rig.request("job", &["no own folder"], 60, None)).await;
    let Err(EngineError::NotStarted { allocation, error }) = refused else { panic!("{refused:?}") };
    let why = format!(
        "its folder /no/such/{allocation} cannot be created (No such file or directory (os error 2)): create its \
         parent folder"
    );
    assert_eq!(*error, format!("MCP server \"no own folder\" cannot be used: {why}"));
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_error_goes_to_the_caller_and_not_to_the_state() {
    let shell = |script: &str| json!({"command": "sh", "args": ["-c", script]});
    let rig = Rig::new(json!({
        "fails": shell("echo hunter2 >&2; exit 3"),
        // A shell exits with this code if it does not find its command.
        "not found": shell("echo hunter2 >&2; exit 127"),
    }))
    .await;
    for (name, reason) in
        [("fails", "it exited with code 3 before it answered"), ("not found", "it could not be started")]
    {
        let refused = within(rig.request("job", &[name], 60, None)).await;
        let Err(EngineError::NotStarted { allocation, error }) = refused else { panic!("{refused:?}") };
        assert!(error.ends_with("hunter2"), "{error}");
        let failed = rig.in_state(State::Failed).await;
        let view = failed.iter().find(|view| view.allocation.reservation.allocation == allocation);
        let view = view.expect("a failed allocation");
        let Phase::Failed { error, .. } = &view.allocation.phase else { panic!("{view:?}") };
        assert_eq!(**error, format!("MCP server {name:?} cannot be used: {reason}"));
    }
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unused_failed_server_is_ended_and_releases_its_port() {
    let rig = Rig::new(json!({
        "broken": entry(&["--crash-at-start"], json!({"idle_seconds": 86400})),
        "fragile": entry(&["--crash-after", "1"], json!({"idle_seconds": 86400})),
    }))
    .await;
    let is_free = |port: u16| async move { TcpListener::bind(("127.0.0.1", port)).is_ok() };
    let refused = within(rig.request("job", &["broken"], 60, None)).await;
    assert!(matches!(refused, Err(EngineError::NotStarted { .. })), "{refused:?}");
    let port = rig.in_state(State::Failed).await[0].allocation.reservation.servers[0].port.0;
    assert_eq!(rig.report("broken").await.state, ProcessState::Stopped);
    wait_until_async("its port is free", || is_free(port)).await;

    let (one, other) = (rig.lease("one", &["fragile"]).await, rig.lease("other", &["fragile"]).await);
    let (client, port) = (one.client("fragile").await, one.port("fragile"));
    wait_until_async("it has failed", async || {
        let _ = try_call(&client, "add", json!({"a": 1, "b": 2})).await;
        rig.report("fragile").await.state == ProcessState::Failed
    })
    .await;
    rig.release(&one).await;
    let report = rig.report("fragile").await;
    assert_eq!((report.state, report.holders), (ProcessState::Failed, vec![other.allocation]), "it still has a holder");
    assert!(!is_free(port).await);
    rig.release(&other).await;
    assert_eq!(rig.report("fragile").await.state, ProcessState::Stopped);
    wait_until_async("its port is free", || is_free(port)).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_requests_starts_a_server_once() {
    let rig = Rig::new(json!({"one": entry(&["--start-delay-ms", "300"], json!({}))})).await;
    let grants = join_all((0..30).map(|job| {
        let rig = &rig;
        async move { rig.lease(&format!("job-{job}"), &["one"]).await }
    }))
    .await;
    let mut pids = join_all(grants.iter().map(|lease| async { pid(&lease.client("one").await).await })).await;
    pids.dedup();
    assert_eq!(pids.len(), 1, "{pids:?}");
    assert_eq!(rig.report("one").await.holders.len(), 30);
    rig.end().await;
    assert!(!lives(pids[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_released_while_it_starts_is_ended() {
    let rig = Rig::new(json!({
        "own": entry(&["--start-delay-ms", "20000"], json!({"sharing": "per_allocation"})),
    }))
    .await;
    tokio::select! {
        answer = rig.request("job", &["own"], 60, None) => panic!("it cannot have started yet: {answer:?}"),
        _ = rig.until_state("own", ProcessState::Starting) => {}
    }
    // Its caller has gone. Any other client can find and release the lease.
    let allocation = rig.in_state(State::Pending).await[0].allocation.reservation.allocation;
    within(rig.engine.release(allocation)).await.expect("a reservation");
    assert_eq!(rig.report("own").await.state, ProcessState::Stopped);
    assert_eq!(rig.capacity().await.live_allocations, 0);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_that_something_else_holds_are_passed_over() {
    let foreign_listeners: Vec<TcpListener> =
        (9_000..=9_099).step_by(2).filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok()).collect();
    let rig = Rig::new(json!({"a": entry(&[], json!({})), "b": entry(&[], json!({}))})).await;
    let lease = rig.lease("job", &["a", "b"]).await;
    for server in ["a", "b"] {
        assert!(
            foreign_listeners.iter().all(|listener| listener.local_addr().expect("bound").port() != lease.port(server))
        );
        pid(&lease.client(server).await).await;
    }
    drop(foreign_listeners);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_when_the_host_ends() {
    let rig = Rig::new(json!({
        "plain": entry(&[], json!({})),
        "family": entry(&["--grandchild-setsid", "--ignore-term"], json!({"sharing": "per_allocation"})),
    }))
    .await;
    let lease = rig.lease("job", &["plain", "family"]).await;
    let pids = [pid(&lease.client("plain").await).await, pid(&lease.client("family").await).await];
    let lines = rig.report("family").await.last_lines.join("\n");
    let grandchild = lines.split("grandchild ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let grandchild: u64 = grandchild.and_then(|pid| pid.parse().ok()).unwrap_or_else(|| panic!("{lines}"));
    assert!(lives(grandchild));
    let port = lease.port("plain");
    rig.end().await;
    wait_until_async("all are gone", async || !lives(pids[0]) && !lives(pids[1]) && !lives(grandchild)).await;
    wait_until_async("the port is free", async || TcpListener::bind(("127.0.0.1", port)).is_ok()).await;
}
