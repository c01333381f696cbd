//! Tests which clients receive which notifications.

use crate::support::within;
use serde_json::{Value, json};

use super::child::Child;
use super::rig::{Client, Rig};

fn notice(method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "method": format!("notifications/{method}"), "params": params})
}

/// Sends a request that the bridge forwards, and has the child respond.
async fn passed_on(client: &Client, child: &mut Child, method: &str, params: Value) {
    let mut http = client.call(method, method, params).await;
    let asked = child.expect(method).await;
    child.answer(&asked, json!({})).await;
    assert_eq!(http.response().await.json()["result"], json!({}));
}

/// Sends a request that the bridge answers itself.
async fn answered(client: &Client, method: &str, params: Value) {
    let answer = client.call(method, method, params).await.response().await.json();
    assert_eq!(answer["result"], json!({}), "{answer}");
}

#[tokio::test]
async fn updates_go_to_those_who_subscribed() {
    let (rig, mut child) = Rig::with_child().await;
    let (one, two) = (rig.client().await, rig.client().await);
    let (mut first, mut second) = (one.listen().await, two.listen().await);
    passed_on(&one, &mut child, "resources/subscribe", json!({"uri": "file:///a"})).await;
    passed_on(&two, &mut child, "resources/subscribe", json!({"uri": "file:///b"})).await;
    for uri in ["file:///c", "file:///b", "file:///a/part", "file:///ab"] {
        child.tell(notice("resources/updated", json!({"uri": uri}))).await;
    }
    child.tell(notice("tools/list_changed", json!({}))).await;
    assert_eq!(first.next().await.expect("an update")["params"]["uri"], "file:///a/part");
    assert_eq!(second.next().await.expect("an update")["params"]["uri"], "file:///b");
    for events in [&mut first, &mut second] {
        assert_eq!(events.next().await.expect("a notice")["method"], "notifications/tools/list_changed");
    }
}

#[tokio::test]
async fn the_child_is_unsubscribed_with_the_last_subscriber() {
    let (rig, mut child) = Rig::with_child().await;
    let (one, two) = (rig.client().await, rig.client().await);
    let uri = json!({"uri": "file:///a"});
    passed_on(&one, &mut child, "resources/subscribe", uri.clone()).await;
    passed_on(&two, &mut child, "resources/subscribe", uri.clone()).await;
    answered(&one, "resources/unsubscribe", uri.clone()).await;
    passed_on(&two, &mut child, "resources/unsubscribe", uri.clone()).await;
    passed_on(&two, &mut child, "resources/subscribe", uri.clone()).await;
    let ended = super::http::Http::connect(rig.port).await.ask("DELETE", "/mcp", &two.headers(), "").await;
    assert_eq!(ended.head.status, 204);
    assert_eq!(child.expect("resources/unsubscribe").await["params"], uri);
    assert_eq!(two.call(1, "ping", json!({})).await.response().await.head.status, 404);
}

#[tokio::test]
async fn a_subscription_that_the_child_refuses_is_none() {
    let (rig, mut child) = Rig::with_child().await;
    let client = rig.client().await;
    let mut events = client.listen().await;
    let mut http = client.call(1, "resources/subscribe", json!({"uri": "file:///a"})).await;
    let asked = child.expect("resources/subscribe").await;
    let error = json!({"code": -32_602, "message": "no such thing"});
    child.tell(json!({"jsonrpc": "2.0", "id": asked["id"], "error": error})).await;
    assert_eq!(http.response().await.json()["error"], error);
    child.tell(notice("resources/updated", json!({"uri": "file:///a"}))).await;
    child.tell(notice("made/up", json!({"x": [1]}))).await;
    assert_eq!(events.next().await.expect("a notice"), notice("made/up", json!({"x": [1]})));
}

#[tokio::test]
async fn each_session_receives_messages_of_its_level() {
    let (rig, mut child) = Rig::with_child().await;
    let (one, two, three) = (rig.client().await, rig.client().await, rig.client().await);
    let (mut first, mut second, mut third) = (one.listen().await, two.listen().await, three.listen().await);
    answered(&one, "logging/setLevel", json!({"level": "error"})).await;
    assert_eq!(child.expect("logging/setLevel").await["params"]["level"], "error");
    answered(&two, "logging/setLevel", json!({"level": "debug"})).await;
    assert_eq!(child.expect("logging/setLevel").await["params"]["level"], "debug");
    for level in ["debug", "info", "critical"] {
        child.tell(notice("message", json!({"level": level, "data": "x"}))).await;
    }
    for (events, levels) in [
        (&mut first, &["critical"][..]),
        (&mut second, &["debug", "info", "critical"]),
        (&mut third, &["info", "critical"]),
    ] {
        for level in levels {
            assert_eq!(events.next().await.expect("a message")["params"]["level"], *level);
        }
    }
    let wrong = two.call(1, "logging/setLevel", json!({"level": "loud"})).await.response().await.json();
    assert_eq!(wrong["error"]["code"], -32_602);
    super::http::Http::connect(rig.port).await.ask("DELETE", "/mcp", &two.headers(), "").await;
    assert_eq!(child.expect("logging/setLevel").await["params"]["level"], "error");
}

#[tokio::test]
async fn a_session_without_a_stream_receives_messages_with_its_call() {
    let (rig, mut child) = Rig::with_child().await;
    let client = rig.client().await;
    let http = client.call(1, "tools/call", json!({})).await;
    let asked = child.expect("tools/call").await;
    child.tell(notice("message", json!({"level": "info", "data": "x"}))).await;
    child.answer(&asked, json!({})).await;
    let mut events = http.events().await;
    assert_eq!(events.next().await.expect("a message")["params"]["data"], "x");
    assert_eq!(events.next().await.expect("the answer")["result"], json!({}));
}

#[tokio::test]
async fn a_session_has_one_stream() {
    let (rig, _child) = Rig::with_child().await;
    let client = rig.client().await;
    let events = client.listen().await;
    let mut second = super::http::Http::connect(rig.port).await;
    assert_eq!(second.ask("GET", "/", &client.headers(), "").await.head.status, 409);
    drop(events);
    // The end of a connection takes a moment to be detected; then the session may have another stream.
    within(async {
        while second.ask("POST", "/", &client.headers(), r#"{"id":1,"method":"ping"}"#).await.head.status == 200 {
            second.send("GET", "/", &client.headers(), "").await;
            let head = second.head().await;
            if head.status == 200 {
                return;
            }
            assert_eq!(head.status, 409);
            let mut body = vec![0; head.header("content-length").expect("a length").parse().expect("a length")];
            tokio::io::AsyncReadExt::read_exact(&mut second.socket, &mut body).await.expect("a body");
        }
    })
    .await;
}

#[tokio::test]
async fn a_slow_reader_loses_its_stream_and_no_other_client_does() {
    let (rig, mut child) = Rig::with_child().await;
    let (slow, quick) = (rig.client().await, rig.client().await);
    let mut stuck = slow.listen().await;
    let mut read = quick.listen().await;
    // More than the socket buffers hold.
    let filler = "x".repeat(100_000);
    for round in 0..400 {
        child.tell(notice("made/up", json!({"round": round, "filler": filler}))).await;
        assert_eq!(read.next().await.expect("a notice")["params"]["round"], round);
    }
    let mut seen = 0;
    while stuck.next().await.is_some() {
        seen += 1;
    }
    assert!(seen < 400, "all of it was kept");
    // The session continues, and may open another stream.
    let mut again = slow.listen().await;
    child.tell(notice("made/up", json!({"round": 400}))).await;
    assert_eq!(again.next().await.expect("a notice")["params"]["round"], 400);
}

#[tokio::test]
async fn notices_of_clients_reach_the_child_unless_they_concern_the_bridge() {
    let (rig, mut child) = Rig::with_child().await;
    let client = rig.client().await;
    for method in ["initialized", "roots/list_changed", "progress", "made/up"] {
        assert_eq!(client.ask(notice(method, json!({"k": 1.0}))).await.head.status, 202);
    }
    assert_eq!(child.next().await, notice("made/up", json!({"k": 1.0})));
    assert_eq!(client.ask(json!({"jsonrpc": "2.0", "id": 5, "result": {}})).await.head.status, 202);
    child.sync().await;
}

#[tokio::test]
async fn what_the_child_asks_is_answered_by_the_bridge() {
    let mut with_roots = super::rig::options();
    with_roots.roots = vec!["file:///work".to_owned()];
    for (options, has_roots) in [(super::rig::options(), false), (with_roots, true)] {
        let rig = Rig::with(options, true);
        let (mut child, connecting) = Child::spawn(&rig.endpoint);
        let asked = child.expect("initialize").await;
        assert_eq!(asked["params"]["capabilities"], if has_roots { json!({"roots": {}}) } else { json!({}) });
        child.tell(json!({"jsonrpc": "2.0", "id": "r", "method": "roots/list"})).await;
        let answer = child.next().await;
        if has_roots {
            assert_eq!(answer, json!({"jsonrpc": "2.0", "id": "r", "result": {"roots": [{"uri": "file:///work"}]}}));
        } else {
            assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!("r"), &json!(-32_601)));
        }
        for method in ["sampling/createMessage", "elicitation/create", "made/up"] {
            child.tell(json!({"jsonrpc": "2.0", "id": [1], "method": method})).await;
            child.tell(json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": {}})).await;
            let answer = child.next().await;
            assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(7), &json!(-32_601)));
            let why = answer["error"]["message"].as_str().expect("text");
            assert!(
                why.starts_with("this server is shared by several clients through cortex-resource-manager"),
                "{why}"
            );
        }
        child.noted("[1]").await;
        child.answer(&asked, super::child::everything()).await;
        child.expect("notifications/initialized").await;
        within(connecting).await.expect("no panic").expect("a link");
    }
}
