//! Calls that wait: their progress, and their end with the connection.

use cortex_core::allocation::State;
use cortex_managed::RuntimeError;
use serde_json::{Value, json};

use super::rig::Rig;
use super::stub::running;

const REQUEST: &str = "request_resources";

fn request() -> Value {
    json!({"job_id": "job", "mcp_servers": ["filesystem", "memory"], "workers": 2})
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_reports_progress() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    let id = client.begin(REQUEST, request()).await;
    let allocation = rig.only(State::Pending).await;
    let first = client.next().await.expect("a notice");
    assert_eq!(first["method"], "notifications/progress", "{first}");
    assert_eq!(first["params"]["progressToken"], "of request_resources");
    assert_eq!(first["params"]["message"], "starting filesystem, memory, 2 workers");
    assert_eq!(first["params"].get("total"), None);
    let second = client.next().await.expect("a notice");
    assert!(second["params"]["progress"].as_f64() > first["params"]["progress"].as_f64(), "{second}");
    rig.engine.activate(allocation).await.expect("a reservation");
    client.answer(REQUEST, id).await;

    let release = client.begin("release_resources", json!({"allocation_id": allocation.to_string()})).await;
    let notice = client.next().await.expect("a notice");
    assert_eq!(notice["params"]["message"], "ending the processes of the lease", "{notice}");
    rig.engine.finish_release(allocation).await.expect("a release");
    assert_eq!(client.answer("release_resources", release).await["status"], "released");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_a_restart_reports_progress() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    rig.reports().restarts_waiting = Some(Vec::new());
    rig.reports().servers = vec![running("memory", &[])];
    let id = client.begin("restart_mcp_server", json!({"name": "memory"})).await;
    let notice = client.next().await.expect("a notice");
    assert_eq!(notice["params"]["message"], "restarting memory", "{notice}");
    let reply = rig.reports().restarts_waiting.replace(Vec::new()).into_iter().flatten().next();
    reply.expect("the restart was requested").send(Ok(())).expect("the call waits");
    let answer = client.answer("restart_mcp_server", id).await;
    assert_eq!((&answer["status"], &answer["runs"][0]["state"]), (&json!("restarted"), &json!("running")));

    let id = client.begin("restart_mcp_server", json!({"name": "memory"})).await;
    client.next().await.expect("a notice");
    let reply = rig.reports().restarts_waiting.replace(Vec::new()).into_iter().flatten().next();
    let why = RuntimeError::NotRestarted { server: "\"memory\"".to_owned(), why: "it exited with code 3".to_owned() };
    reply.expect("the restart was requested").send(Err(why)).expect("the call waits");
    let error = client.error_of(id).await;
    assert_eq!(error["error"], "MCP server \"memory\" was restarted and cannot be used: it exited with code 3");

    let id = client.begin("restart_mcp_server", json!({"name": "memory"})).await;
    let replies = client.finish().await;
    let text = replies[&id]["result"]["content"][0]["text"].as_str().expect("a text");
    assert!(text.contains("the restart goes on"), "{text}");
    assert_eq!(rig.reports().restarted.len(), 3, "and was requested");
}

#[tokio::test]
async fn a_cancelled_request_leaves_nothing() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    let id = client.begin(REQUEST, request()).await;
    let allocation = rig.only(State::Pending).await;
    client.cancel(id).await;
    assert_eq!(rig.only(State::Releasing).await, allocation);
    rig.engine.finish_release(allocation).await.expect("a release");
    assert_eq!(rig.only(State::Released).await, allocation);
    client.call("get_capacity", json!({})).await;
}

#[tokio::test]
async fn a_request_ends_with_its_connection() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    let id = client.begin(REQUEST, request()).await;
    let allocation = rig.only(State::Pending).await;
    let replies = client.finish().await;
    let text = replies[&id]["result"]["content"][0]["text"].as_str().expect("a text");
    let body: Value = serde_json::from_str(text).expect("JSON");
    assert!(body["error"].as_str().is_some_and(|error| error.contains("nothing was granted")), "{body}");
    assert_eq!(rig.only(State::Releasing).await, allocation);
}

#[tokio::test]
async fn what_is_answered_without_waiting_is_answered_at_the_end_too() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    let full = client.begin(REQUEST, json!({"job_id": "job", "mcp_servers": [], "workers": 11})).await;
    let capacity = client.begin("get_capacity", json!({})).await;
    let late = client.begin(REQUEST, request()).await;
    let replies = client.finish().await;
    assert_eq!(replies[&full]["result"]["structuredContent"]["status"], "failed");
    assert_eq!(replies[&capacity]["result"]["isError"], false);
    assert_eq!(replies[&late]["result"]["isError"], true);
    assert_eq!(rig.all(State::Active).await, []);
}

#[tokio::test]
async fn a_release_continues_after_its_caller_has_gone() {
    for cancels in [false, true] {
        let rig = Rig::new().await;
        let mut client = rig.client().await;
        let id = client.begin(REQUEST, request()).await;
        let allocation = rig.only(State::Pending).await;
        rig.engine.activate(allocation).await.expect("a reservation");
        client.answer(REQUEST, id).await;
        let release = client.begin("release_resources", json!({"allocation_id": allocation.to_string()})).await;
        if cancels {
            assert_eq!(rig.only(State::Releasing).await, allocation);
            client.cancel(release).await;
            client.call("get_capacity", json!({})).await;
        } else {
            let replies = client.finish().await;
            let text = replies[&release]["result"]["content"][0]["text"].as_str().expect("a text");
            assert!(text.contains("the release goes on"), "{text}");
        }
        assert_eq!(rig.only(State::Releasing).await, allocation);
        rig.engine.finish_release(allocation).await.expect("a release");
        assert_eq!(rig.only(State::Released).await, allocation);
    }
}

#[tokio::test]
async fn calls_take_effect_in_the_order_sent_though_some_wait() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    for round in 0..20 {
        let keyed = json!({"job_id": "job", "mcp_servers": ["filesystem"], "request_id": format!("key {round}")});
        let id = client.begin(REQUEST, keyed).await;
        let listed = client.call("list_allocations", json!({"state": "pending"})).await;
        assert_eq!(listed["count"], 1, "round {round}: {listed}");
        let allocation = rig.only(State::Pending).await;
        rig.engine.activate(allocation).await.expect("a reservation");
        client.answer(REQUEST, id).await;
        let by_id = json!({"allocation_id": allocation.to_string()});
        let release = client.begin("release_resources", by_id).await;
        let listed = client.call("list_allocations", json!({"state": "active"})).await;
        assert_eq!(listed["count"], 0, "round {round}: {listed}");
        rig.engine.finish_release(allocation).await.expect("a release");
        client.answer("release_resources", release).await;
    }
}
