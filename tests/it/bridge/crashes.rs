//! Tests what happens when a child ends and another one replaces it.

use crate::support::within;
use std::time::{Duration, Instant};

use cortex_runtime::bridge::{ChildState, HandshakeError, LinkError};
use serde_json::json;

use super::child::Child;
use super::rig::{Rig, options};

#[tokio::test]
async fn every_call_in_flight_gets_an_error_that_says_why() {
    let (rig, mut child) = Rig::with_child().await;
    let clients = [rig.client().await, rig.client().await];
    let mut calls = Vec::new();
    for id in 0..40 {
        calls.push((id, clients[id % 2].call(id, "tools/call", json!({})).await));
        child.expect("tools/call").await;
    }
    let link = child.link.take().expect("a link");
    drop(child);
    assert!(matches!(within(link.closed()).await, LinkError::OutputEnded));
    for (id, mut http) in calls {
        let answer = http.response().await.json();
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(id), &json!(-32_000)));
        let why = answer["error"]["message"].as_str().expect("text");
        assert!(why.contains("scripted") && why.contains("its standard output ended"), "{why}");
        assert_eq!(answer["error"]["data"], json!({"retryable": true}));
    }
    let usage = rig.endpoint.total_usage();
    assert_eq!((usage.calls, usage.errors), (40, 40));
}

#[tokio::test]
async fn a_link_that_is_dropped_ends_its_calls() {
    let (rig, mut child) = Rig::with_child().await;
    let client = rig.client().await;
    let mut http = client.call(1, "tools/call", json!({})).await;
    child.expect("tools/call").await;
    drop(child.link.take());
    let why = http.response().await.json()["error"]["message"].to_string();
    assert!(why.contains("it was stopped"), "{why}");
}

#[tokio::test]
async fn what_sessions_asked_for_outlives_the_child() {
    let mut few = options();
    few.calls_in_flight_max = 1;
    let rig = Rig::with(few, true);
    let mut child = Child::connect(&rig.endpoint).await;
    let client = rig.client().await;
    let mut events = client.listen().await;
    let mut subscribing = client.call(1, "resources/subscribe", json!({"uri": "file:///a"})).await;
    let asked = child.expect("resources/subscribe").await;
    child.answer(&asked, json!({})).await;
    subscribing.response().await;
    client.call(2, "logging/setLevel", json!({"level": "warning"})).await.response().await;
    child.expect("logging/setLevel").await;
    let mut at_work = client.call(3, "at/work", json!({})).await;
    child.expect("at/work").await;
    let mut waiting = client.call(4, "wait/ing", json!({})).await;
    rig.until_calls(2).await;
    drop(child);
    assert_eq!(at_work.response().await.json()["error"]["code"], -32_000);
    let (mut child, connecting) = Child::spawn(&rig.endpoint);
    let asked = child.expect("initialize").await;
    let mut early = client.call(5, "ear/ly", json!({})).await;
    child.answer(&asked, super::child::everything()).await;
    child.expect("notifications/initialized").await;
    assert_eq!(child.expect("logging/setLevel").await["params"]["level"], "warning");
    assert_eq!(child.expect("resources/subscribe").await["params"]["uri"], "file:///a");
    let link = within(connecting).await.expect("no panic").expect("a link");
    // Calls that had not reached the first child go to the second.
    for _ in 0..2 {
        let asked = child.next().await;
        child.answer(&asked, json!({"done": asked["method"]})).await;
    }
    assert_eq!(waiting.response().await.json()["result"], json!({"done": "wait/ing"}));
    assert_eq!(early.response().await.json()["result"], json!({"done": "ear/ly"}));
    let update = json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": "file:///a"}});
    child.tell(update.clone()).await;
    assert_eq!(events.next().await, Some(update));
    drop(link);
}

#[tokio::test]
async fn calls_that_waited_when_the_child_was_lost_keep_their_order() {
    let mut few = options();
    few.calls_in_flight_max = 1;
    let rig = Rig::with(few, true);
    let mut child = Child::connect(&rig.endpoint).await;
    let client = rig.client().await;
    let mut at_work = client.call(1, "at/work", json!({})).await;
    child.expect("at/work").await;
    let mut waiting = Vec::new();
    for number in 0..20 {
        waiting.push(client.call(10 + number, &format!("wait/{number}"), json!({})).await);
        let calls = 2 + usize::try_from(number).expect("few");
        rig.until_calls(calls).await;
    }
    drop(child);
    assert_eq!(at_work.response().await.json()["error"]["code"], -32_000);
    // A child that ends before its handshake changes nothing.
    let (child, connecting) = Child::spawn(&rig.endpoint);
    drop(child);
    within(connecting).await.expect("no panic").expect_err("it said nothing");
    let mut child = Child::connect(&rig.endpoint).await;
    for (number, waiting) in waiting.iter_mut().enumerate() {
        let asked = child.expect(&format!("wait/{number}")).await;
        child.answer(&asked, json!({"done": number})).await;
        assert_eq!(waiting.response().await.json()["result"], json!({"done": number}));
    }
}

#[tokio::test]
async fn calls_that_waited_when_the_child_was_lost_wait_for_a_limited_time() {
    for (fails, start_wait) in [(false, Duration::from_millis(50)), (true, Duration::from_secs(3_600))] {
        let mut few = options();
        (few.calls_in_flight_max, few.start_wait) = (1, start_wait);
        let rig = Rig::with(few, true);
        let mut child = Child::connect(&rig.endpoint).await;
        let client = rig.client().await;
        let mut at_work = client.call(1, "at/work", json!({})).await;
        child.expect("at/work").await;
        let mut waiting = client.call(2, "wait/ing", json!({})).await;
        rig.until_calls(2).await;
        drop(child);
        at_work.response().await;
        if fails {
            rig.endpoint.set_state(ChildState::Failed { why: "no such command".to_owned() });
        }
        let error = waiting.response().await.json()["error"].clone();
        let why = if fails { "no such command" } else { "was lost" };
        assert!(error["message"].as_str().expect("text").contains(why), "{error}");
        assert_eq!(error["data"], json!({"retryable": !fails}));
    }
}

#[tokio::test]
async fn the_wait_for_a_child_is_limited() {
    let mut hasty = options();
    hasty.start_wait = Duration::from_millis(50);
    let rig = Rig::with(hasty, true);
    let child = Child::connect(&rig.endpoint).await;
    let client = rig.client().await;
    drop(child);
    let error = client.call(1, "tools/call", json!({})).await.response().await.json()["error"].clone();
    assert_eq!((&error["code"], &error["data"]), (&json!(-32_000), &json!({"retryable": true})), "{error}");
    rig.endpoint.set_state(ChildState::Restarting { why: "it crashed".to_owned(), since: Instant::now() });
    let error = client.call(1, "tools/call", json!({})).await.response().await.json()["error"].clone();
    assert!(error["message"].as_str().expect("text").contains("it crashed"), "{error}");
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}});
    let error = client.call(1, "initialize", params).await.response().await.json()["error"].clone();
    assert!(error["message"].as_str().expect("text").contains("it crashed"), "{error}");
}

#[tokio::test]
async fn a_child_that_failed_is_not_waited_for() {
    let mut patient = options();
    patient.start_wait = Duration::from_secs(3_600);
    let rig = Rig::with(patient, true);
    let child = Child::connect(&rig.endpoint).await;
    let client = rig.client().await;
    drop(child);
    let mut waits = client.call(1, "tools/call", json!({})).await;
    rig.endpoint.set_state(ChildState::Failed { why: "no such command".to_owned() });
    for http in [&mut waits, &mut client.call(2, "tools/list", json!({})).await] {
        let error = http.response().await.json()["error"].clone();
        assert!(error["message"].as_str().expect("text").contains("no such command"), "{error}");
        assert_eq!(error["data"], json!({"retryable": false}));
    }
    rig.endpoint.set_state(ChildState::Starting);
    let mut again = client.call(3, "tools/list", json!({})).await;
    let mut child = Child::connect(&rig.endpoint).await;
    let asked = child.expect("tools/list").await;
    child.answer(&asked, json!({})).await;
    assert_eq!(again.response().await.json()["result"], json!({}));
    // The failure of the previous child does not apply to the next.
    rig.endpoint.set_state(ChildState::Failed { why: "no such command".to_owned() });
    drop(child);
    let child = Child::connect(&rig.endpoint).await;
    drop(child);
    let mut waits = client.call(4, "tools/list", json!({})).await;
    let mut child = Child::connect(&rig.endpoint).await;
    let asked = child.expect("tools/list").await;
    child.answer(&asked, json!({})).await;
    assert_eq!(waits.response().await.json()["result"], json!({}));
}

#[tokio::test]
async fn a_child_that_cannot_be_spoken_to_says_why() {
    let rig = Rig::new();
    for (answer, expected) in [
        (json!({"result": {"protocolVersion": "1999-01-01"}}), "1999-01-01"),
        (json!({"result": 7}), "not an object"),
        (json!({"error": {"code": -1, "message": "not today"}}), "not today"),
    ] {
        let (mut child, connecting) = Child::spawn(&rig.endpoint);
        let asked = child.expect("initialize").await;
        let mut answer = answer;
        answer["id"] = asked["id"].clone();
        child.tell(answer).await;
        if expected == "not today" {
            let asked = child.expect("server/discover").await;
            child.tell(json!({"id": asked["id"], "error": {"code": -32_601, "message": "?"}})).await;
        }
        let why = within(connecting).await.expect("no panic").expect_err("no link");
        assert!(why.to_string().contains(expected), "{why}");
    }
    let (child, connecting) = Child::spawn(&rig.endpoint);
    drop(child);
    let why = within(connecting).await.expect("no panic").expect_err("no link");
    let is_closed = matches!(why, HandshakeError::Link(LinkError::OutputEnded | LinkError::InputFailed(_)));
    assert!(is_closed, "{why}");
}

#[tokio::test]
async fn a_child_that_was_replaced_changes_nothing_any_more() {
    let (rig, mut old) = Rig::with_child().await;
    let client = rig.client().await;
    let mut lost = client.call(1, "tools/call", json!({})).await;
    let asked_old = old.expect("tools/call").await;
    let mut new = Child::connect(&rig.endpoint).await;
    assert_eq!(lost.response().await.json()["error"]["code"], -32_000);
    let mut http = client.call(2, "tools/call", json!({})).await;
    let asked = new.expect("tools/call").await;
    for number in [&asked_old["id"], &asked["id"]] {
        let _ = tokio::io::AsyncWriteExt::write_all(
            &mut old.output,
            format!("{{\"id\":{number},\"result\":{{\"from\":\"old\"}}}}\n").as_bytes(),
        )
        .await;
    }
    assert!(matches!(within(old.link.take().expect("a link").closed()).await, LinkError::Replaced));
    new.answer(&asked, json!({"from": "new"})).await;
    assert_eq!(http.response().await.json()["result"], json!({"from": "new"}));
}
