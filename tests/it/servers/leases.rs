//! Leases: which token may use a server, from when and until when.

use super::rig::{Rig, call, entry, lives, pid, try_call};
use crate::support::{misbehaving::misbehaving_server, wait_until_async, within};
use cortex_core::allocation::State;
use cortex_core::command::Command;
use cortex_managed::ProcessState;
use serde_json::json;

/// The status of an incomplete request with a valid token.
const LET_IN: u16 = 400;

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_admits_its_holders() {
    let rig = Rig::new(json!({"a": entry(&[], json!({})), "b": entry(&[], json!({}))})).await;
    let (one, other) = (rig.lease("one", &["a"]).await, rig.lease("other", &["b"]).await);
    assert_eq!(one.knock_as_holder("a").await.0, LET_IN);
    let check = async |token: Option<&str>, reason: &str| {
        let (status, body) = one.knock("a", token).await;
        assert!(status == 401 && body.contains(reason), "{status} {body}, wanted {reason}");
    };
    check(None, "an access token is needed").await;
    check(Some("made up"), "not the access_token of a live allocation").await;
    check(other.token.as_deref(), "does not hold this MCP server").await;
    let own = one.token.clone().expect("a token");
    let other_digit = if own.ends_with('0') { "1" } else { "0" };
    check(Some(&format!("{}{other_digit}", &own[..own.len() - 1])), "").await;

    let client = one.client("a").await;
    let call_in_flight = tokio::spawn(async move { try_call(&client, "sleep", json!({"ms": 20_000})).await });
    wait_until_async("the call is at the server", async || rig.report("a").await.holders.len() == 1).await;
    rig.release(&one).await;
    check(Some(&own), "has ended").await;
    let ended = within(call_in_flight).await.expect("no panic").expect_err("its lease ended");
    assert!(!ended.is_empty());
    // Servers that others hold keep running.
    assert_eq!(other.knock_as_holder("b").await.0, LET_IN);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_lease_is_rejected_and_a_renewed_one_is_admitted() {
    let rig = Rig::new(json!({"a": entry(&[], json!({}))})).await;
    let grant = within(rig.request("short", &["a"], 1, None)).await.expect("a grant");
    let lease = rig.lease_of(&grant);
    assert_eq!(lease.knock_as_holder("a").await.0, LET_IN);
    let renewed = within(rig.request("long", &["a"], 1, None)).await.expect("a grant");
    let kept = rig.lease_of(&renewed);
    let ttl_seconds = cortex_core::time::TtlSeconds::new(600);
    let renew = Command::Renew { allocation: kept.allocation, ttl_seconds, fencing_token: None };
    within(rig.engine.execute(renew, |_, _, _| ())).await.expect("a live lease");
    wait_until_async("the first has run out", async || lease.knock_as_holder("a").await.0 == 401).await;
    let (status, body) = lease.knock_as_holder("a").await;
    assert!(status == 401 && body.contains("has expired"), "{status} {body}");
    assert_eq!(kept.knock_as_holder("a").await.0, LET_IN);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tokens_every_client_is_admitted() {
    let rig = Rig::with(json!({"a": entry(&[], json!({}))}), |options| options.requires_token = false).await;
    let lease = rig.lease("one", &["a"]).await;
    assert_eq!(lease.token, None);
    assert_eq!(lease.knock("a", None).await.0, LET_IN);
    pid(&lease.client("a").await).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_server_runs_once_and_another_once_for_each_lease() {
    let rig = Rig::new(json!({
        "shared": entry(&[], json!({})),
        "own": entry(&[], json!({"sharing": "per_allocation"})),
    }))
    .await;
    let (one, other) = (rig.lease("one", &["shared", "own"]).await, rig.lease("other", &["own", "shared"]).await);
    assert_eq!(one.port("shared"), other.port("shared"));
    assert_ne!(one.port("own"), other.port("own"));
    let (first, second) = (one.client("shared").await, other.client("shared").await);
    assert_eq!(pid(&first).await, pid(&second).await);
    let (mine, theirs) = (one.client("own").await, other.client("own").await);
    assert_ne!(pid(&mine).await, pid(&theirs).await);
    call(&mine, "count", json!({})).await;
    call(&mine, "count", json!({})).await;
    assert_ne!(call(&mine, "count", json!({})).await, call(&theirs, "count", json!({})).await);
    assert_eq!(other.knock("own", one.token.as_deref()).await.0, 401, "another's own is not mine");
    let owners: Vec<_> = rig.reports("own").await.into_iter().filter_map(|report| report.owner).collect();
    let mut expected = [(one.allocation, "one"), (other.allocation, "other")];
    expected.sort();
    assert_eq!(owners.iter().map(|(allocation, job)| (*allocation, job.as_str())).collect::<Vec<_>>(), expected);
    assert_eq!(rig.report("shared").await.owner, None);

    let (gone, stays) = (pid(&mine).await, pid(&theirs).await);
    rig.release(&one).await;
    assert!(!lives(gone), "a release is answered when nothing of its own is left");
    assert_eq!(pid(&theirs).await, stays);
    pid(&second).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_one_allocation_knows_its_allocation() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = "pwd > \"$1\"; echo \"$CORTEX_ALLOCATION_ID $FILE\" >> \"$1\"; exec \"$0\"";
    let written = folder.path().join("${CORTEX_ALLOCATION_ID}.txt");
    let shared = folder.path().join("shared.txt");
    let rig = Rig::new(json!({
        "own": {
            "command": "sh", "args": ["-c", script, misbehaving_server(), written],
            "env": {"FILE": "memory-${CORTEX_ALLOCATION_ID}.json"},
            "cwd": folder.path().join("${CORTEX_ALLOCATION_ID}"),
            "cortex": {"sharing": "per_allocation"}
        },
        "shared": {"command": "sh", "args": ["-c", script, misbehaving_server(), shared]},
    }))
    .await;
    for job in ["one", "other"] {
        let lease = rig.lease(job, &["own", "shared"]).await;
        pid(&lease.client("own").await).await;
        let id = lease.allocation.to_string();
        let report = std::fs::read_to_string(folder.path().join(format!("{id}.txt"))).expect("a file");
        let own_folder = folder.path().join(&id).canonicalize().expect("a folder");
        assert_eq!(report, format!("{}\n{id} memory-{id}.json\n", own_folder.display()));
    }
    let report = std::fs::read_to_string(shared).expect("a file");
    assert!(report.ends_with("\n \n"), "a shared server belongs to no allocation: {report}");
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unused_server_is_kept_for_a_while() {
    let rig = Rig::new(json!({
        "kept": entry(&[], json!({"idle_seconds": 600})),
        "dropped": entry(&[], json!({"idle_seconds": 0})),
    }))
    .await;
    let lease = rig.lease("one", &["kept", "dropped"]).await;
    let (kept, dropped) = (pid(&lease.client("kept").await).await, pid(&lease.client("dropped").await).await);
    rig.release(&lease).await;
    rig.until_state("dropped", ProcessState::Stopped).await;
    wait_until_async("it is gone", async || !lives(dropped)).await;
    assert_eq!(rig.report("kept").await.state, ProcessState::Running);
    let again = rig.lease("two", &["kept", "dropped"]).await;
    assert_eq!(pid(&again.client("kept").await).await, kept, "it need not be started again");
    assert_ne!(pid(&again.client("dropped").await).await, dropped);
    // The old port of a server must not lead to another server.
    assert!(lease.port("kept") == again.port("kept") || again.knock_as_holder("kept").await.0 == LET_IN);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_waits_for_a_server_that_ignores_term() {
    let rig = Rig::new(json!({
        "stubborn": entry(&["--ignore-term"], json!({"sharing": "per_allocation"})),
    }))
    .await;
    let lease = rig.lease("one", &["stubborn"]).await;
    let stubborn = pid(&lease.client("stubborn").await).await;
    let released = tokio::spawn({
        let (engine, allocation) = (rig.engine.clone(), lease.allocation);
        async move { engine.release(allocation).await }
    });
    rig.until_allocation(lease.allocation, State::Releasing).await;
    assert!(lives(stubborn) && !released.is_finished(), "it has its grace");
    assert_eq!(rig.capacity().await.live_allocations, 1);
    within(released).await.expect("no panic").expect("a lease");
    assert!(!lives(stubborn));
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_counted_for_each_holder() {
    let rig = Rig::new(json!({"a": entry(&[], json!({}))})).await;
    let (one, other) = (rig.lease("one", &["a"]).await, rig.lease("other", &["a"]).await);
    let (first, second) = (one.client("a").await, other.client("a").await);
    for _ in 0..5 {
        call(&first, "add", json!({"a": 1, "b": 1})).await;
    }
    call(&second, "add", json!({"a": 1, "b": 1})).await;
    let report = rig.report("a").await;
    let of = |allocation| report.calls_by_holder.iter().find(|(id, _)| *id == allocation).expect("a holder").1;
    assert!(of(one.allocation).calls >= 5 && of(other.allocation).calls >= 1, "{report:?}");
    assert_eq!(of(one.allocation).calls - of(other.allocation).calls, 4);
    assert!(report.calls.bytes_in > 0 && report.calls.bytes_out > 0);
    rig.end().await;
}
