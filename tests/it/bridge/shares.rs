//! A lease that takes as much as it can get, next to one that needs little.

use crate::support::{wait_until_async, within};
use cortex_core::ids::AllocationId;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use super::child::Child;
use super::http::Http;
use super::rig::{Client, Rig, options};

const GREEDY: u64 = 1;
const MODEST: u64 = 2;

/// Returns how much of a limit is taken, from the debug output of the endpoint.
fn taken(rig: &Rig, what: &str) -> usize {
    let state = format!("{:?}", rig.endpoint);
    let (_, shares) = state.split_once(&format!("{what}: FairShares {{")).expect("a limit of this name");
    let (_, taken) = shares.split_once("taken: ").expect("a count");
    taken.split(',').next().and_then(|count| count.parse().ok()).expect("a number")
}

async fn none_taken(rig: &Rig, what: &str) {
    wait_until_async(&format!("nothing of {what} to be taken"), async || taken(rig, what) == 0).await;
}

fn end(rig: &Rig, draw: u64) {
    rig.endpoint.end_allocation(AllocationId::from_bits(draw));
}

fn errors(rig: &Rig, draw: u64) -> u64 {
    rig.endpoint.usage(AllocationId::from_bits(draw)).errors
}

async fn start(in_flight_max: usize) -> (Rig, Child) {
    let mut few = options();
    few.calls_in_flight_max = in_flight_max;
    let rig = Rig::with(few, false);
    let child = Child::connect(&rig.endpoint).await;
    (rig, child)
}

fn batch(from: usize, count: usize) -> Value {
    Value::from_iter((from..from + count).map(|id| json!({"jsonrpc": "2.0", "id": id, "method": "greedy"})))
}

/// Checks that a call of a modest client gets its response.
async fn served(client: &Client, child: &mut Child) {
    let mut http = client.call("m", "modest", json!({})).await;
    let asked = child.expect("modest").await;
    child.answer(&asked, json!({"fine": true})).await;
    assert_eq!(http.response().await.json()["result"], json!({"fine": true}));
}

#[tokio::test]
async fn calls_without_an_answer_leave_capacity_for_other_leases() {
    let (rig, mut child) = start(64).await;
    let (greedy, modest) = (rig.client_of(Some(GREEDY)).await, rig.client_of(Some(MODEST)).await);
    let mut http = greedy.send(batch(0, 100)).await;
    let taken_calls = || (taken(&rig, "in_flight_shares"), taken(&rig, "calls"));
    wait_until_async("the calls of both", async || taken_calls() == (51, 49)).await;
    for _ in 0..51 {
        child.expect("greedy").await;
    }
    served(&modest, &mut child).await;
    end(&rig, GREEDY);
    let answers = http.response().await.json();
    assert_eq!(answers.as_array().map(Vec::len), Some(100));
    assert!(answers[99]["error"]["message"].to_string().contains("lease"), "{answers}");
    assert_eq!(["in_flight_shares", "calls", "bytes", "memory_budget"].map(|what| taken(&rig, what)), [0; 4]);
}

#[tokio::test]
async fn a_backlog_delays_its_own_lease_and_no_other() {
    let (rig, mut child) = start(2).await;
    let (greedy, modest) = (rig.client_of(Some(GREEDY)).await, rig.client_of(Some(MODEST)).await);
    let mut backlog = Vec::new();
    for round in 0..9 {
        backlog.push(greedy.send(batch(round * 100, 100)).await);
    }
    wait_until_async("819 calls", async || taken(&rig, "calls") == 819).await;
    let refused = within(greedy.ask(json!({"jsonrpc": "2.0", "id": "over", "method": "greedy"}))).await.json();
    let error = &refused["error"];
    assert!(error["message"].as_str().is_some_and(|why| why.contains("819 calls of this lease")), "{refused}");
    assert_eq!((&error["code"], &error["data"]), (&json!(-32_000), &json!({"retryable": true})));
    assert!(errors(&rig, GREEDY) >= 1);
    let few = json!([1, 2, 3].map(|id| json!({"jsonrpc": "2.0", "id": id, "method": "modest"})));
    let mut http = modest.send(few).await;
    wait_until_async("822 calls", async || taken(&rig, "calls") == 822).await;
    // Two calls of the greedy lease are already at the child; then the leases take turns.
    let mut order = Vec::new();
    while order.iter().filter(|method| **method == "modest").count() < 3 {
        let asked = child.next().await;
        order.push(asked["method"].as_str().expect("a method").to_owned());
        child.answer(&asked, json!({})).await;
    }
    assert_eq!(order, ["greedy", "greedy", "greedy", "modest", "greedy", "modest", "greedy", "modest"]);
    assert_eq!(http.response().await.json().as_array().map(Vec::len), Some(3));
    end(&rig, GREEDY);
    assert_eq!(["in_flight_shares", "calls", "bytes"].map(|what| taken(&rig, what)), [0; 3]);
    drop(backlog);
}

#[tokio::test]
async fn sessions_of_one_lease_end_its_own_and_no_others() {
    let (rig, mut child) = start(64).await;
    let modest = rig.client_of(Some(MODEST)).await;
    let first = rig.client_of(Some(GREEDY)).await;
    for _ in 0..110 {
        rig.client_of(Some(GREEDY)).await;
    }
    assert_eq!(first.ask(json!({"jsonrpc": "2.0", "id": 1, "method": "ping"})).await.head.status, 404, "its own");
    served(&modest, &mut child).await;
    rig.client_of(Some(3)).await;
    // If all sessions of a lease are in use, none can be ended for a new one.
    end(&rig, GREEDY);
    let mut streams = Vec::new();
    for _ in 0..100 {
        let client = rig.client_of(Some(4)).await;
        streams.push(client.listen().await);
    }
    let mut http = Http::connect(rig.port).await;
    let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}).to_string();
    let refused = http.ask("POST", "/mcp", &[("authorization", "Bearer token-4")], &initialize).await;
    assert_eq!((refused.head.status, refused.head.header("retry-after")), (503, Some("5")));
    let why = refused.json()["error"].to_string();
    assert!(why.contains("this lease has 100 sessions, and all leases together at most 128: end one"), "{why}");
    assert_eq!(errors(&rig, 4), 1);
    rig.client_of(Some(5)).await;
    served(&modest, &mut child).await;
    end(&rig, 4);
    for events in &mut streams {
        assert_eq!(events.next().await, None);
    }
    assert_eq!(format!("{:?}", rig.endpoint).matches("Session {").count(), 3);
}

#[tokio::test]
async fn listeners_of_one_lease_leave_capacity_for_other_leases() {
    let (rig, _child) = start(64).await;
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let params = json!({"_meta": meta, "notifications": {"toolsListChanged": true}});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params}).to_string();
    let listen = async |token: &str| {
        let headers =
            [("authorization", token), ("mcp-protocol-version", "2026-07-28"), ("mcp-method", "subscriptions/listen")];
        let mut http = Http::connect(rig.port).await;
        http.send("POST", "/mcp", &headers, &body).await;
        (http.head().await.status, http)
    };
    let mut listening = Vec::new();
    loop {
        match listen("Bearer token-1").await {
            (200, http) => listening.push(http),
            (status, _) => break assert_eq!(status, 503),
        }
    }
    assert_eq!(listening.len(), 102);
    let (status, _other) = listen("Bearer token-2").await;
    assert_eq!(status, 200);
    end(&rig, GREEDY);
    assert_eq!(format!("{:?}", rig.endpoint).matches("Listener {").count(), 1);
}

#[tokio::test]
async fn connections_of_one_lease_leave_capacity_for_other_leases() {
    let (rig, mut child) = start(64).await;
    let (greedy, modest) = (rig.client_of(Some(GREEDY)).await, rig.client_of(Some(MODEST)).await);
    none_taken(&rig, "connections").await;
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}).to_string();
    let mut held = Vec::new();
    let refused = loop {
        let mut http = Http::connect(rig.port).await;
        let response = http.ask("POST", "/mcp", &greedy.headers(), &ping).await;
        if response.head.status != 200 {
            break (http, response);
        }
        held.push(http);
    };
    let (mut closed, response) = refused;
    assert_eq!((held.len(), response.head.status, response.head.header("connection")), (204, 503, Some("close")));
    let why = response.json()["error"].to_string();
    assert!(why.contains("this lease has 204 connections, and all leases together at most 256: close some"), "{why}");
    assert_eq!(within(closed.socket.read(&mut [0])).await.expect("an end"), 0);
    assert_eq!(errors(&rig, GREEDY), 1);
    served(&modest, &mut child).await;
    // Connections without a token do not keep out other clients.
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(Http::connect(rig.port).await);
        served(&modest, &mut child).await;
    }
    drop(silent);
    end(&rig, GREEDY);
    none_taken(&rig, "connections").await;
    assert_eq!(within(held[0].socket.read(&mut [0])).await.expect("an end"), 0);
}

/// Returns a response whose result has this many bytes.
fn long_answer(asked: &Value, bytes: usize) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{},"result":"{}"}}"#, asked["id"], "x".repeat(bytes))
}

#[tokio::test]
async fn unread_answers_are_bounded_and_affect_no_other_lease() {
    // More than the socket buffers hold.
    const BYTES: usize = 12 << 20;
    let (rig, mut child) = start(64).await;
    let (greedy, modest) = (rig.client_of(Some(GREEDY)).await, rig.client_of(Some(MODEST)).await);
    let mut unread = Vec::new();
    for id in 0..10 {
        unread.push(greedy.call(id, "greedy", json!({})).await);
        let asked = child.expect("greedy").await;
        child.say(&long_answer(&asked, BYTES)).await;
        child.sync().await;
        assert!(taken(&rig, "memory_budget") <= 64 << 20);
    }
    let held = taken(&rig, "memory_budget");
    assert!((4 * BYTES..=52 << 20).contains(&held), "{held}");
    assert_eq!(errors(&rig, GREEDY), 6);
    let error = unread.pop().expect("the last").response().await.json()["error"].clone();
    assert!(error["message"].as_str().is_some_and(|why| why.contains("unread answers")), "{error}");
    assert_eq!((&error["code"], &error["data"]), (&json!(-32_000), &json!({"retryable": true})));
    let mut http = Http::connect(rig.port).await;
    let mut headers = greedy.headers();
    headers.push(("content-length", "4000000"));
    http.send("POST", "/mcp", &headers, "").await;
    assert_eq!(http.head().await.status, 503, "a body that would have to be held");

    served(&modest, &mut child).await;
    let mut http = modest.call(1, "modest", json!({"filler": "x".repeat(3 << 20)})).await;
    let asked = child.expect("modest").await;
    let ((), answer) = tokio::join!(async { child.say(&long_answer(&asked, 8 << 20)).await }, http.response());
    assert_eq!(answer.json()["result"].as_str().map(str::len), Some(8 << 20));
    end(&rig, GREEDY);
    none_taken(&rig, "memory_budget").await;
    drop(unread);
}

#[tokio::test]
async fn notices_that_are_not_read_count_too() {
    let (rig, mut child) = start(64).await;
    let (greedy, modest) = (rig.client_of(Some(GREEDY)).await, rig.client_of(Some(MODEST)).await);
    let mut streams = Vec::new();
    for _ in 0..24 {
        streams.push(rig.client_of(Some(GREEDY)).await.listen().await);
    }
    let mut read = modest.listen().await;
    // A mailbox holds at most 4 MiB; 24 of them would exceed the budget of one lease.
    let filler = "x".repeat(1 << 20);
    let mut most = 0;
    for round in 0..9 {
        child.tell(json!({"jsonrpc": "2.0", "method": "made/up", "params": {"round": round, "filler": filler}})).await;
        assert_eq!(read.next().await.expect("a notice")["params"]["round"], round);
        most = most.max(taken(&rig, "memory_budget"));
    }
    assert!((32 << 20..=52 << 20).contains(&most), "{most}");
    drop((streams, read, greedy));
    none_taken(&rig, "memory_budget").await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_is_closed_after_a_time() {
    let (rig, mut child) = start(64).await;
    let (greedy, modest) = (rig.client_of(Some(GREEDY)).await, rig.client_of(Some(MODEST)).await);
    let mut events = modest.listen().await;
    let mut unread = greedy.call(1, "greedy", json!({})).await;
    let asked = child.expect("greedy").await;
    child.say(&long_answer(&asked, 12 << 20)).await;
    wait_until_async("the answer to be held", async || taken(&rig, "memory_budget") > 0).await;
    let began = tokio::time::Instant::now();
    none_taken(&rig, "memory_budget").await;
    assert!(began.elapsed().as_secs() >= 29, "{:?}", began.elapsed());
    let mut part = Vec::new();
    let _ = within(unread.socket.read_to_end(&mut part)).await;
    assert!(part.len() < 12 << 20, "only what the system had taken");
    // A connection without anything to write stays open.
    child.tell(json!({"jsonrpc": "2.0", "method": "made/up"})).await;
    assert_eq!(events.next().await.expect("a notice")["method"], "made/up");
}
