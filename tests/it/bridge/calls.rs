//! Tests that each request gets its own response.

use std::time::Duration;

use serde_json::{Value, json};

use super::child::{Child, everything};
use super::http::Http;
use super::rig::{Rig, options};

#[tokio::test]
async fn a_client_is_greeted_with_what_the_child_says() {
    let (rig, _child) = Rig::with_child().await;
    for (asked, answered) in [("2024-11-05", "2024-11-05"), ("2025-11-25", "2025-11-25"), ("1999-01-01", "2025-11-25")]
    {
        let mut http = Http::connect(rig.port).await;
        let params = json!({"protocolVersion": asked, "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}});
        let message = json!({"jsonrpc": "2.0", "id": "i", "method": "initialize", "params": params});
        let greeted = http.ask("POST", "/", &[], &message.to_string()).await.json();
        let mut expected = everything();
        expected["protocolVersion"] = json!(answered);
        // A task list would show the tasks of all clients.
        expected["capabilities"].as_object_mut().expect("an object").remove("tasks");
        assert_eq!(greeted, json!({"jsonrpc": "2.0", "id": "i", "result": expected}));
    }
}

#[tokio::test]
async fn the_same_id_of_two_sessions_is_two_calls() {
    let (rig, mut child) = Rig::with_child().await;
    let (one, two) = (rig.client().await, rig.client().await);
    for id in [json!(1), json!("1"), json!(-7), json!("ü \"quoted\"")] {
        let mut first = one.call(id.clone(), "tools/call", json!({"name": "a"})).await;
        let asked_first = child.expect("tools/call").await;
        let mut second = two.call(id.clone(), "tools/call", json!({"name": "b"})).await;
        let asked_second = child.expect("tools/call").await;
        assert!(asked_first["id"].is_u64() && asked_first["id"] != asked_second["id"]);
        child.answer(&asked_second, json!({"to": "b"})).await;
        child.answer(&asked_first, json!({"to": "a"})).await;
        assert_eq!(first.response().await.json(), json!({"jsonrpc": "2.0", "id": id, "result": {"to": "a"}}));
        assert_eq!(second.response().await.json(), json!({"jsonrpc": "2.0", "id": id, "result": {"to": "b"}}));
    }
}

#[tokio::test]
async fn messages_are_forwarded_verbatim() {
    let (rig, mut child) = Rig::with_child().await;
    let client = rig.client().await;
    let mut http = Http::connect(rig.port).await;
    let body = "{\n  \"jsonrpc\": \"2.0\",\r\n  \"future\": [1.50, 1e400], \"id\": 5, \
        \"method\": \"made/up\", \"params\": [1]\n}";
    http.send("POST", "/mcp", &client.headers(), body).await;
    let mut line = String::new();
    tokio::io::AsyncBufReadExt::read_line(&mut child.input, &mut line).await.expect("a line");
    let number = line.split("\"id\": ").nth(1).and_then(|rest| rest.split(',').next()).expect("an id").to_owned();
    let expected = body.replace(['\n', '\r'], " ").replace("\"id\": 5", &format!("\"id\": {number}"));
    assert_eq!(line.trim_end_matches('\n'), expected);
    child.say(&format!("{{\"id\":{number}.0 , \"error\":{{\"code\":1.50}},\"more\":1e400}}\r")).await;
    assert_eq!(http.response().await.text, "{\"id\":5 , \"error\":{\"code\":1.50},\"more\":1e400}");
    let kept = http.ask("POST", "/mcp", &client.headers(), r#"{"id":1,"method":"ping"}"#).await;
    assert_eq!(kept.json(), json!({"jsonrpc": "2.0", "id": 1, "result": {}}), "on the same connection");
}

#[tokio::test]
async fn progress_goes_to_the_caller_that_requested_it() {
    let (rig, mut child) = Rig::with_child().await;
    let (one, two) = (rig.client().await, rig.client().await);
    let params = |token: Value| json!({"name": "t", "_meta": {"progressToken": token}});
    let first = one.call(1, "tools/call", params(json!("p"))).await;
    let asked_first = child.expect("tools/call").await;
    let second = two.call(1, "tools/call", params(json!("p"))).await;
    let asked_second = child.expect("tools/call").await;
    let tokens = [&asked_first, &asked_second].map(|asked| asked["params"]["_meta"]["progressToken"].clone());
    assert_eq!(tokens, [asked_first["id"].clone(), asked_second["id"].clone()]);
    for (token, progress) in [(&tokens[0], 1), (&tokens[1], 2), (&json!(999_999), 3), (&json!("p"), 4)] {
        let params = json!({"progressToken": token, "progress": progress, "message": "m"});
        child.tell(json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})).await;
    }
    child.answer(&asked_second, json!({})).await;
    child.answer(&asked_first, json!({})).await;
    for (http, progress) in [(first, 1), (second, 2)] {
        let mut events = http.events().await;
        assert_eq!(events.head.header("content-type"), Some("text/event-stream"));
        let notice = events.next().await.expect("progress");
        assert_eq!(notice["params"], json!({"progressToken": "p", "progress": progress, "message": "m"}));
        assert_eq!(events.next().await.expect("the answer"), json!({"jsonrpc": "2.0", "id": 1, "result": {}}));
        assert_eq!(events.next().await, None);
    }
}

#[tokio::test]
async fn a_client_that_takes_only_one_kind_gets_that() {
    let (rig, mut child) = Rig::with_child().await;
    let mut client = rig.client().await;
    let params = json!({"_meta": {"progressToken": 1}});
    client.headers.push(("accept".to_owned(), "application/json".to_owned()));
    let mut http = client.call(1, "tools/call", params.clone()).await;
    let asked = child.expect("tools/call").await;
    let progress = json!({"progressToken": asked["id"], "progress": 1});
    child.tell(json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": progress})).await;
    child.answer(&asked, json!({})).await;
    assert_eq!(http.response().await.json(), json!({"jsonrpc": "2.0", "id": 1, "result": {}}));
    client.headers.last_mut().expect("a header").1 = "text/event-stream".to_owned();
    let http = client.call(2, "tools/call", params).await;
    let asked = child.expect("tools/call").await;
    child.answer(&asked, json!({})).await;
    assert_eq!(http.events().await.next().await.expect("an answer")["id"], 2);
    let ping = client.call(3, "ping", json!({})).await;
    assert_eq!(ping.events().await.next().await.expect("an answer")["id"], 3);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_takes_long_gets_a_stream_that_is_kept_alive() {
    let (rig, mut child) = Rig::with_child().await;
    let client = rig.client().await;
    let mut http = client.call(1, "tools/call", json!({})).await;
    let asked = child.expect("tools/call").await;
    assert_eq!(http.head().await.header("content-type"), Some("text/event-stream"));
    assert_eq!(http.chunk().await.as_deref(), Some(": keep-alive\n\n"));
    assert_eq!(http.chunk().await.as_deref(), Some(": keep-alive\n\n"));
    child.answer(&asked, json!({})).await;
    let expected = format!("event: message\ndata: {}\n\n", r#"{"id":1,"jsonrpc":"2.0","result":{}}"#);
    assert_eq!(http.chunk().await, Some(expected));
    assert_eq!(http.chunk().await, None);
}

#[tokio::test]
async fn a_cancelled_call_is_cancelled_at_the_child_and_of_its_own_session_alone() {
    let (rig, mut child) = Rig::with_child().await;
    let (one, two) = (rig.client().await, rig.client().await);
    let mut first = one.call("x", "tools/call", json!({})).await;
    let asked_first = child.expect("tools/call").await;
    let mut second = two.call("x", "tools/call", json!({})).await;
    let asked_second = child.expect("tools/call").await;
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "x"}});
    assert_eq!(one.ask(cancel.clone()).await.head.status, 202);
    let cancelled = child.expect("notifications/cancelled").await;
    assert_eq!(cancelled["params"]["requestId"], asked_first["id"]);
    let silence = first.response().await;
    assert_eq!((silence.head.status, silence.text.as_str()), (202, ""));
    // A late response is expected; it is dropped without a report.
    child.answer(&asked_first, json!({"late": true})).await;
    child.answer(&asked_second, json!({"mine": true})).await;
    assert_eq!(second.response().await.json()["result"], json!({"mine": true}));
    assert!(child.invalid_output.lock().expect("no panic").is_empty());
    assert_eq!(one.ask(cancel).await.head.status, 202, "of nothing");
    child.sync().await;
}

#[tokio::test]
async fn a_client_that_goes_leaves_its_call_running() {
    let (rig, mut child) = Rig::with_child().await;
    let client = rig.client().await;
    let gone = client.call(1, "tools/call", json!({})).await;
    let asked = child.expect("tools/call").await;
    drop(gone);
    let mut other = client.call(2, "tools/call", json!({})).await;
    let next = child.expect("tools/call").await;
    child.answer(&asked, json!({"for": "nobody"})).await;
    child.answer(&next, json!({})).await;
    assert_eq!(other.response().await.json(), json!({"jsonrpc": "2.0", "id": 2, "result": {}}));
    assert_eq!(rig.endpoint.total_usage().calls, 2);
}

#[tokio::test]
async fn calls_wait_in_order_for_their_turn_and_too_many_are_refused() {
    let mut few = options();
    few.calls_in_flight_max = 2;
    let rig = Rig::with(few, true);
    let mut child = Child::connect(&rig.endpoint).await;
    let client = rig.client().await;
    // Each connection sends a batch. The first two calls are at the child; the others wait in their order.
    let batch = |from: usize, count: usize| {
        Value::from_iter((from..from + count).map(|id| json!({"jsonrpc": "2.0", "id": id, "method": "m"})))
    };
    let mut waiting = Vec::new();
    for round in 0..10 {
        waiting.push(client.send(batch(round * 100, 100)).await);
        // The next batch is sent when all calls of this one have been submitted.
        let waits = (round + 1) * 100;
        rig.until_calls(waits).await;
    }
    waiting.push(client.send(batch(1_000, 26)).await);
    rig.until_calls(1_026).await;
    let refused = client.ask(json!({"jsonrpc": "2.0", "id": "over", "method": "m"})).await.json();
    assert_eq!(refused["error"]["code"], -32_000);
    assert!(refused["error"]["message"].as_str().expect("text").contains("1024 calls"), "{refused}");
    assert_eq!(refused["error"]["data"], json!({"retryable": true}));
    let mut last = 0;
    for _ in 0..1_026 {
        let asked = child.expect("m").await;
        let number = asked["id"].as_u64().expect("a number");
        assert!(number > last, "in order");
        last = number;
        child.answer(&asked, json!({})).await;
    }
    for http in &mut waiting {
        let answers = http.response().await.json();
        assert!(answers.as_array().expect("answers").iter().all(|answer| answer["result"] == json!({})));
    }
}

#[tokio::test]
async fn a_batch_is_answered_as_one() {
    let (rig, mut child) = Rig::with_child().await;
    let client = rig.client().await;
    let mut http = client
        .send(json!([
            {"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
            {"jsonrpc": "2.0", "method": "notifications/initialized"},
            {"jsonrpc": "2.0", "id": "p", "method": "ping"},
            {"jsonrpc": "2.0", "id": 2, "method": "initialize"},
            {"nonsense": true},
            {"jsonrpc": "2.0", "id": 3, "method": "tools/call"},
        ]))
        .await;
    let first = child.expect("tools/list").await;
    let second = child.expect("tools/call").await;
    child.answer(&second, json!({"n": 3})).await;
    child.answer(&first, json!({"n": 1})).await;
    let answers = http.response().await.json();
    let by_id = |id: Value| {
        let found = answers.as_array().expect("an array").iter().find(|answer| answer["id"] == id);
        found.unwrap_or_else(|| panic!("{id} in {answers}")).clone()
    };
    assert_eq!(answers.as_array().expect("an array").len(), 5);
    assert_eq!((&by_id(json!(1))["result"]["n"], &by_id(json!(3))["result"]["n"]), (&json!(1), &json!(3)));
    assert_eq!(by_id(json!("p"))["result"], json!({}));
    assert_eq!(by_id(json!(2))["error"]["code"], -32_600);
    assert_eq!(by_id(Value::Null)["error"]["code"], -32_600);
    let answer = client.ask(json!([{"jsonrpc": "2.0", "method": "notifications/initialized"}])).await;
    assert_eq!(answer.head.status, 202);
    for wrong in [json!([]), Value::from_iter((0..101).map(|id| json!({"id": id, "method": "ping"})))] {
        let refused = client.ask(wrong).await;
        assert_eq!((refused.head.status, &refused.json()["error"]["code"]), (400, &json!(-32_600)));
    }
}

#[tokio::test]
async fn a_ping_of_the_link_is_asked_of_the_child() {
    let (_rig, mut child) = Rig::with_child().await;
    let link = child.link.take().expect("a link");
    let (pinged, ()) = tokio::join!(link.ping(Duration::from_secs(5)), async {
        let asked = child.expect("ping").await;
        child.tell(json!({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -32_601, "message": "no"}})).await;
    });
    pinged.expect("any answer will do");
    let why = link.ping(Duration::from_millis(20)).await.expect_err("no answer");
    assert_eq!(why.to_string(), "it did not respond to a ping within 0.02 s");
    let late = child.expect("ping").await;
    child.answer(&late, json!({})).await;
    child.sync().await;
    assert!(child.invalid_output.lock().expect("no panic").is_empty(), "late, not foreign");
}

#[tokio::test]
async fn tasks_of_other_clients_are_not_shown() {
    let (rig, mut child) = Rig::with_child().await;
    let client = rig.client().await;
    for method in ["tasks/list", "tasks/get", "tasks/cancel"] {
        let refused = client.ask(json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {}})).await.json();
        assert_eq!(refused["error"]["code"], -32601, "{refused}");
    }
    // The child received none of them.
    let mut call = client.call(2, "tools/list", json!({})).await;
    let asked = child.expect("tools/list").await;
    child.answer(&asked, json!({"tools": []})).await;
    assert_eq!(call.response().await.json()["result"], json!({"tools": []}));
}
