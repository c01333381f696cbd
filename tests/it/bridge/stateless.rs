//! Clients and children of 2026-07-28.

use crate::support::{WAIT_MAX, within};
use serde_json::{Value, json};

use super::child::Child;
use super::http::{Http, Response};
use super::rig::Rig;

fn meta() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "c", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    })
}

async fn send(rig: &Rig, method: &str, mut params: Value, more: &[(&str, &str)]) -> Http {
    if params.get("_meta").is_none() {
        params["_meta"] = meta();
    }
    let body = json!({"jsonrpc": "2.0", "id": "q", "method": method, "params": params}).to_string();
    let mut headers = vec![("mcp-protocol-version", "2026-07-28"), ("mcp-method", method)];
    headers.retain(|(name, _)| !more.iter().any(|(given, _)| given == name));
    headers.extend(more);
    let mut http = Http::connect(rig.port).await;
    http.send("POST", "/mcp", &headers, &body).await;
    http
}

async fn ask(rig: &Rig, method: &str, params: Value, more: &[(&str, &str)]) -> Response {
    send(rig, method, params, more).await.response().await
}

/// Returns a child that supports only 2026-07-28.
async fn modern_child(rig: &Rig) -> Child {
    let (mut child, connecting) = Child::spawn(&rig.endpoint);
    let asked = child.expect("initialize").await;
    child.tell(json!({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -32_601, "message": "initialize"}})).await;
    let asked = child.expect("server/discover").await;
    assert_eq!(asked["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
    let result = json!({
        "resultType": "complete",
        "supportedVersions": ["2026-07-28"],
        "capabilities": {"tools": {"listChanged": true}, "resources": {"subscribe": true}},
        "instructions": "modern",
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "modern", "version": "2"}},
    });
    child.answer(&asked, result).await;
    let listening = child.expect("subscriptions/listen").await;
    assert_eq!(listening["params"]["notifications"], json!({"toolsListChanged": true}));
    child.link = Some(within(connecting).await.expect("no panic").expect("a link"));
    child
}

#[tokio::test]
async fn an_older_child_is_made_to_look_like_a_new_one() {
    let (rig, mut child) = Rig::with_child().await;
    let found = ask(&rig, "server/discover", json!({}), &[]).await.json()["result"].clone();
    assert_eq!((&found["resultType"], &found["supportedVersions"][0]), (&json!("complete"), &json!("2026-07-28")));
    assert_eq!((&found["ttlMs"], &found["cacheScope"]), (&json!(0), &json!("private")));
    assert_eq!(found["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "scripted");
    assert_eq!(found["capabilities"]["tools"], json!({"listChanged": true}));

    let mut http = send(&rig, "tools/list", json!({}), &[]).await;
    let asked = child.expect("tools/list").await;
    assert_eq!(asked["params"], json!({"_meta": {}}), "an older server does not receive fields that it does not know");
    child.answer(&asked, json!({"tools": []})).await;
    let expected = json!({"tools": [], "resultType": "complete", "ttlMs": 0, "cacheScope": "private"});
    assert_eq!(http.response().await.json(), json!({"jsonrpc": "2.0", "id": "q", "result": expected}));

    let mut with_token = meta();
    with_token["progressToken"] = json!("mine");
    let params = json!({"name": "é", "_meta": with_token});
    let http = send(&rig, "tools/call", params, &[("mcp-name", "=?base64?w6k=?=")]).await;
    let asked = child.expect("tools/call").await;
    let progress = json!({"progressToken": asked["id"], "progress": 1});
    child.tell(json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": progress})).await;
    child.answer(&asked, json!({"content": []})).await;
    let mut events = http.events().await;
    assert_eq!(events.next().await.expect("progress")["params"]["progressToken"], "mine");
    let answer = events.next().await.expect("an answer");
    assert_eq!(answer["result"], json!({"content": [], "resultType": "complete"}));
}

#[tokio::test]
async fn headers_must_say_what_the_body_does() {
    let (rig, _child) = Rig::with_child().await;
    let call = || json!({"name": "t"});
    for (method, params, headers, status, code) in [
        ("tools/call", call(), &[("mcp-name", "other")][..], 400, -32_020),
        ("tools/call", call(), &[], 400, -32_020),
        ("tools/call", call(), &[("mcp-name", "t"), ("mcp-name", "t")], 400, -32_020),
        ("tools/call", call(), &[("mcp-name", "=?base64?!?=")], 400, -32_020),
        ("tools/list", json!({}), &[("mcp-method", "tools/call")], 400, -32_020),
        ("tools/list", json!({}), &[("mcp-protocol-version", "2025-11-25")], 400, -32_020),
        ("tools/list", json!({"_meta": {}}), &[], 400, -32_602),
        ("tools/list", json!({"_meta": {"io.modelcontextprotocol/protocolVersion": "3000-01-01"}}), &[], 400, -32_022),
        ("tools/list", json!({}), &[("mcp-protocol-version", "3000-01-01")], 400, -32_022),
        ("ping", json!({}), &[], 404, -32_601),
        ("logging/setLevel", json!({"level": "info"}), &[], 404, -32_601),
    ] {
        let refused = ask(&rig, method, params, headers).await;
        let answer = refused.json();
        assert_eq!((refused.head.status, &answer["error"]["code"]), (status, &json!(code)), "{method} {answer}");
        assert_eq!(answer["id"], "q");
        if code == -32_022 {
            assert_eq!(answer["error"]["data"]["supported"][0], "2026-07-28");
        }
    }
}

#[tokio::test]
async fn a_method_that_the_child_does_not_know_is_not_found() {
    let (rig, mut child) = Rig::with_child().await;
    let mut http = send(&rig, "made/up", json!({}), &[]).await;
    let asked = child.expect("made/up").await;
    child.tell(json!({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -32_601, "message": "?"}})).await;
    assert_eq!(http.response().await.head.status, 404);
}

#[tokio::test]
async fn a_client_that_goes_cancels_its_call() {
    let (rig, mut child) = Rig::with_child().await;
    let http = send(&rig, "tools/list", json!({}), &[]).await;
    let asked = child.expect("tools/list").await;
    drop(http);
    assert_eq!(child.expect("notifications/cancelled").await["params"]["requestId"], asked["id"]);
    child.answer(&asked, json!({})).await;
    child.sync().await;
    assert!(child.invalid_output.lock().expect("no panic").is_empty());
}

#[tokio::test]
async fn messages_come_with_the_call_that_requests_them() {
    let (rig, mut child) = Rig::with_child().await;
    let mut wanting = meta();
    wanting["io.modelcontextprotocol/logLevel"] = json!("warning");
    let http = send(&rig, "tools/list", json!({"_meta": wanting}), &[]).await;
    let asked = child.expect("tools/list").await;
    for level in ["info", "error"] {
        let params = json!({"level": level, "data": 1});
        child.tell(json!({"jsonrpc": "2.0", "method": "notifications/message", "params": params})).await;
    }
    child.answer(&asked, json!({})).await;
    let mut events = http.events().await;
    assert_eq!(events.next().await.expect("a message")["params"]["level"], "error");
    assert_eq!(events.next().await.expect("an answer")["id"], "q");
}

#[tokio::test]
async fn listeners_receive_what_they_subscribed_to() {
    let (rig, mut child) = Rig::with_child().await;
    let filter = json!({"toolsListChanged": true, "promptsListChanged": true, "resourceSubscriptions": ["file:///a"]});
    let mut http = send(&rig, "subscriptions/listen", json!({"notifications": filter}), &[]).await;
    let head = http.head().await;
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    assert_eq!(child.expect("resources/subscribe").await["params"]["uri"], "file:///a");
    for (method, params) in [
        ("tools/list_changed", json!({"_meta": {"k": 1}})),
        ("prompts/list_changed", json!({})),
        ("resources/list_changed", json!({})),
        ("resources/updated", json!({"uri": "file:///b"})),
        ("resources/updated", json!({"uri": "file:///a"})),
    ] {
        child.tell(json!({"jsonrpc": "2.0", "method": format!("notifications/{method}"), "params": params})).await;
    }
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let chunk = http.chunk().await.expect("an event");
        let data = chunk.split_once("data: ").expect("data").1;
        seen.push(serde_json::from_str::<Value>(data.trim_end()).expect("JSON"));
    }
    assert_eq!(seen[0]["method"], "notifications/subscriptions/acknowledged");
    let accepted = json!({"toolsListChanged": true, "resourceSubscriptions": ["file:///a"]});
    assert_eq!(seen[0]["params"]["notifications"], accepted, "prompts never change here");
    assert_eq!(seen[1]["params"]["_meta"], json!({"k": 1, "io.modelcontextprotocol/subscriptionId": "q"}));
    assert_eq!(
        (&seen[2]["method"], &seen[2]["params"]["uri"]),
        (&json!("notifications/resources/updated"), &json!("file:///a"))
    );
    drop(http);
    assert_eq!(child.expect("resources/unsubscribe").await["params"]["uri"], "file:///a");
}

#[tokio::test]
async fn a_new_child_serves_older_clients() {
    let rig = Rig::new();
    let mut child = modern_child(&rig).await;
    let client = rig.client().await;
    let params = json!({"name": "t", "_meta": {"progressToken": "p"}});
    let http = client.call(1, "tools/call", params).await;
    let asked = child.expect("tools/call").await;
    let meta = &asked["params"]["_meta"];
    assert_eq!(
        (&meta["progressToken"], &meta["io.modelcontextprotocol/protocolVersion"]),
        (&asked["id"], &json!("2026-07-28"))
    );
    assert_eq!(meta["io.modelcontextprotocol/clientCapabilities"], json!({}));
    child.answer(&asked, json!({"resultType": "complete", "content": []})).await;
    let mut http = http;
    assert_eq!(http.response().await.json()["result"]["content"], json!([]));

    let mut http = client.call(2, "tools/call", json!({})).await;
    let asked = child.expect("tools/call").await;
    child.answer(&asked, json!({"resultType": "input_required", "inputRequests": {}})).await;
    assert_eq!(http.response().await.json()["error"]["code"], -32_000);

    let mut events = client.listen().await;
    let subscribed = client.call(3, "resources/subscribe", json!({"uri": "file:///a"})).await.response().await;
    assert_eq!(subscribed.json()["result"], json!({}));
    let listening = child.expect("subscriptions/listen").await;
    assert_eq!(listening["params"]["notifications"]["resourceSubscriptions"], json!(["file:///a"]));
    child.expect("notifications/cancelled").await;
    let params = json!({"uri": "file:///a", "_meta": {"io.modelcontextprotocol/subscriptionId": listening["id"]}});
    child.tell(json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": params})).await;
    assert_eq!(events.next().await.expect("an update")["params"], json!({"uri": "file:///a", "_meta": {}}));

    let link = child.link.take().expect("a link");
    let (pinged, ()) = tokio::join!(link.ping(WAIT_MAX), async {
        let asked = child.expect("tools/list").await;
        child.answer(&asked, json!({"tools": []})).await;
    });
    pinged.expect("a listing is as good as a ping");
}

#[tokio::test]
async fn a_new_child_and_a_new_client_are_left_alone() {
    let rig = Rig::new();
    let mut child = modern_child(&rig).await;
    let mut mine = meta();
    mine["io.modelcontextprotocol/clientCapabilities"] = json!({"elicitation": {}});
    let mut http = send(&rig, "tools/call", json!({"name": "t", "_meta": mine}), &[("mcp-name", "t")]).await;
    let asked = child.expect("tools/call").await;
    assert_eq!(asked["params"]["_meta"], mine);
    let wants = json!({"resultType": "input_required", "requestState": "s"});
    child.answer(&asked, wants.clone()).await;
    assert_eq!(http.response().await.json()["result"], wants);
}
