//! Crashes: calls get an error, servers are restarted, and a crash loop is reported.

use super::rig::{Rig, call, entry, lives, pid, try_call};
use crate::support::{WAIT_MAX, misbehaving::misbehaving_server, wait_until_async, within};
use cortex_core::ids::ServerName;
use cortex_managed::{ProcessState, RuntimeError, RuntimeRequest};
use futures_util::future::join_all;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_server_restarts_at_its_port_and_its_callers_get_an_error() {
    let rig = Rig::new(json!({"a": entry(&[], json!({}))})).await;
    let lease = rig.lease("one", &["a"]).await;
    let (client, other) = (lease.client("a").await, lease.client("a").await);
    let first = pid(&client).await;
    let slow = tokio::spawn(async move { try_call(&other, "sleep", json!({"ms": 20_000})).await });
    // The server counts this call too, and `pid` called it once before.
    let mut own = 1;
    while call(&client, "state", json!({})).await["calls"].as_u64() <= Some(own + 1) {
        own += 1;
        assert!(own < 1_000, "the slow call does not come");
    }
    let crashed = try_call(&client, "crash", json!({})).await.expect_err("it crashed");
    let lost = "MCP server a was lost during this request";
    assert!(crashed.contains(lost), "{crashed}");
    let slow = within(slow).await.expect("no panic").expect_err("it was in flight");
    assert!(slow.contains(lost), "{slow}");
    // The session continues with the next process.
    let second = pid(&client).await;
    assert_ne!(first, second);
    let report = rig.report("a").await;
    assert_eq!((report.state, report.restarts), (ProcessState::Running, 1));
    assert_eq!(report.endpoint, Some(format!("http://localhost:{}", lease.port("a"))));
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loop_ends_in_failed_until_the_next_request() {
    let rig = Rig::new(json!({"a": entry(&["--crash-after", "1"], json!({}))})).await;
    let lease = rig.lease("one", &["a"]).await;
    let client = lease.client("a").await;
    for _ in 0..3 {
        let _ = try_call(&client, "add", json!({"a": 1, "b": 2})).await;
        let _ = try_call(&client, "add", json!({"a": 1, "b": 2})).await;
    }
    wait_until_async("it has failed", async || {
        let _ = try_call(&client, "add", json!({"a": 1, "b": 2})).await;
        rig.report("a").await.state == ProcessState::Failed
    })
    .await;
    let reason = rig.report("a").await.reason.expect("a reason");
    assert!(reason.contains("times in a row") && reason.contains("exited with code 7"), "{reason}");
    let refused = try_call(&client, "add", json!({"a": 1, "b": 2})).await.expect_err("it has failed");
    assert!(refused.contains("times in a row"), "{refused}");
    // A new lease starts it again, as a restart request does.
    let other = rig.lease("two", &["a"]).await;
    assert_eq!(rig.report("a").await.state, ProcessState::Running);
    call(&other.client("a").await, "add", json!({"a": 1, "b": 2})).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_more_memory_than_it_may_is_lost_and_comes_back() {
    let servers = json!({"a": entry(&[], json!({"memory_mb": 128})), "b": entry(&[], json!({}))});
    // A server that takes memory may be late to answer a health check, and must not be restarted for that.
    let rig = Rig::with(servers, |options| options.timing.health = WAIT_MAX).await;
    let lease = rig.lease("one", &["a", "b"]).await;
    let (client, other) = (lease.client("a").await, lease.client("b").await);
    let (first, unbounded) = (pid(&client).await, pid(&other).await);
    let limit = rig.report("a").await.memory_limit.expect("a limit");
    assert_eq!(limit.memory.0, 128);
    assert!(["cgroup", "rlimit"].contains(&limit.held_by), "{limit:?}");
    assert_eq!(call(&client, "leak", json!({"mb": 16})).await, json!({"leaked_mb": 16}), "there is room for this");
    let lost = try_call(&client, "leak", json!({"mb": 256})).await.expect_err("there is none for this");
    assert!(lost.contains("MCP server a was lost"), "{lost}");
    assert_ne!(pid(&client).await, first);
    let report = rig.report("a").await;
    assert_eq!((report.state, report.restarts), (ProcessState::Running, 1));
    assert_eq!(call(&other, "leak", json!({"mb": 256})).await, json!({"leaked_mb": 256}), "it has no limit");
    assert_eq!(pid(&other).await, unbounded);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_is_started_again() {
    let rig = Rig::new(json!({"a": entry(&["--hang-on-ping"], json!({}))})).await;
    let lease = rig.lease("one", &["a"]).await;
    let first = pid(&lease.client("a").await).await;
    wait_until_async("it was started again", async || rig.report("a").await.restarts >= 1).await;
    wait_until_async("the first is gone", async || !lives(first)).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_that_is_asked_for_takes_place_at_once() {
    let rig = Rig::new(json!({"a": entry(&[], json!({})), "b": entry(&[], json!({}))})).await;
    let lease = rig.lease("one", &["a"]).await;
    let client = lease.client("a").await;
    let first = pid(&client).await;
    let restart = async |name: &str, of| {
        let name = ServerName::new(name).expect("a name");
        within(rig.managed.request(|reply| RuntimeRequest::RestartServer(name, of, reply))).await.expect("a host")
    };
    assert_eq!(restart("a", Some(lease.allocation)).await, Ok(()));
    assert_eq!(rig.report("a").await.state, ProcessState::Running, "it is answered when it runs again");
    assert_ne!(pid(&client).await, first);
    assert!(!lives(first));
    assert_eq!(rig.report("a").await.restarts, 0, "those that were asked for do not count");
    assert_eq!(restart("b", None).await, Err(RuntimeError::NotRunning { name: "b".to_owned() }));
    assert_eq!(restart("c", None).await, Err(RuntimeError::UnknownServer { name: "c".to_owned() }));
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_restart_says_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("data");
    let script = "test -e \"$1\" || { echo no data >&2; exit 3; }; exec \"$0\"";
    let arguments = json!(["-c", script, misbehaving_server(), file]);
    let rig = Rig::new(json!({"a": {"command": "sh", "args": arguments}})).await;
    std::fs::write(&file, "").expect("a file");
    let lease = rig.lease("one", &["a"]).await;
    let restart = || async {
        let name = ServerName::new("a").expect("a name");
        within(rig.managed.request(|reply| RuntimeRequest::RestartServer(name, Some(lease.allocation), reply)))
            .await
            .expect("a host")
    };
    std::fs::remove_file(&file).expect("a file");
    let error = restart().await.expect_err("it does not start").to_string();
    assert!(error.starts_with("MCP server \"a\" was restarted and cannot be used: it exited with code 3"), "{error}");
    assert!(error.ends_with(": no data"), "{error}");
    // It is restarted automatically until it counts as crash looping.
    rig.until_state("a", ProcessState::Failed).await;
    let error = restart().await.expect_err("it does not start").to_string();
    assert!(error.contains("exited with code 3") && error.ends_with(": no data"), "{error}");
    rig.until_state("a", ProcessState::Failed).await;
    std::fs::write(&file, "").expect("a file");
    assert_eq!(restart().await, Ok(()));
    assert_eq!(rig.report("a").await.state, ProcessState::Running);
    pid(&lease.client("a").await).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_serves_all_earlier_requests_and_outlives_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let starts = folder.path().join("starts");
    // It takes two seconds to end.
    let script = "trap '' TERM; echo >> \"$1\"; \"$0\"; sleep 2";
    let arguments = json!(["-c", script, misbehaving_server(), starts]);
    let rig = Rig::new(json!({"a": {"command": "sh", "args": arguments}})).await;
    let lease = rig.lease("one", &["a"]).await;
    let started = || std::fs::read_to_string(&starts).expect("a file").lines().count();
    let restart = || {
        let managed = rig.managed.clone();
        async move {
            let name = ServerName::new("a").expect("a name");
            within(managed.request(|reply| RuntimeRequest::RestartServer(name, None, reply))).await.expect("a host")
        }
    };
    let restarted = join_all((0..8).map(|_| restart())).await;
    assert!(restarted.iter().all(Result::is_ok), "{restarted:?}");
    assert_eq!(started(), 2, "one restart for all");

    let asked = tokio::spawn(restart());
    rig.until_state("a", ProcessState::Restarting).await;
    asked.abort();
    rig.until_state("a", ProcessState::Running).await;
    assert_eq!(started(), 3);
    pid(&lease.client("a").await).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_output_of_a_server_affects_no_client() {
    let rig = Rig::new(json!({
        "noisy": entry(&["--flood-stderr", "100000", "--garbage-stdout", "--answer-twice", "--foreign-id"], json!({})),
    }))
    .await;
    let lease = rig.lease("one", &["noisy"]).await;
    let client = lease.client("noisy").await;
    for number in 0..50 {
        assert_eq!(call(&client, "add", json!({"a": number, "b": 1})).await["sum"], json!(f64::from(number + 1)));
    }
    let lines = rig.report("noisy").await.last_lines;
    assert!(lines.len() <= 200 && lines.iter().all(|line| line.len() <= 4_200), "{} lines", lines.len());
    rig.end().await;
}
