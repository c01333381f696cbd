//! Requests that are rejected.

use crate::support::{WAIT_MAX, wait_until_async, within};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};

use super::http::{Http, Response};
use super::rig::{Client, Rig, options};

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

async fn ask(rig: &Rig, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
    Http::connect(rig.port).await.ask(method, path, headers, body).await
}

#[tokio::test]
async fn foreign_hosts_and_origins_are_forbidden() {
    let (rig, _child) = Rig::with_child().await;
    let client = rig.client().await;
    for (name, value, status) in [
        ("host", "evil.example", 403),
        ("host", "evil.example:9000", 403),
        ("host", "127.0.0.1:9000", 200),
        ("host", "[::1]:9000", 200),
        ("host", "LocalHost", 200),
        ("origin", "http://evil.example", 403),
        ("origin", "null", 403),
        ("origin", "http://localhost.evil.example", 403),
        ("origin", "file://localhost", 403),
        ("origin", "http://localhost:5173", 200),
        ("origin", "https://127.0.0.1", 200),
        ("origin", "http://[::1]:1", 200),
    ] {
        let mut headers = client.headers();
        headers.push((name, value));
        let response = ask(&rig, "POST", "/mcp", &headers, PING).await;
        assert_eq!(response.head.status, status, "{name}: {value}: {response:?}");
    }
    let absolute = ask(&rig, "POST", "http://evil.example/mcp", &client.headers(), PING).await;
    assert_eq!(absolute.head.status, 403);
}

#[tokio::test]
async fn paths_methods_and_types_are_checked() {
    let (rig, _child) = Rig::with_child().await;
    let client = rig.client().await;
    let with = |name: &'static str, value: &'static str| {
        let mut headers: Vec<(String, String)> = client.headers.clone();
        headers.push((name.to_owned(), value.to_owned()));
        headers
    };
    for (method, path, headers, body, status) in [
        ("POST", "/", with("x", "y"), PING, 200),
        ("POST", "/mcp?x=1", with("x", "y"), PING, 200),
        ("POST", "/other", with("x", "y"), PING, 404),
        ("POST", "/mcp/x", with("x", "y"), PING, 404),
        ("PUT", "/mcp", with("x", "y"), PING, 405),
        ("OPTIONS", "/mcp", with("x", "y"), "", 405),
        ("POST", "/mcp", with("content-type", "text/plain"), PING, 415),
        ("POST", "/mcp", with("content-type", "application/json; charset=utf-8"), PING, 200),
        ("POST", "/mcp", with("accept", "text/html"), PING, 406),
        ("POST", "/mcp", with("accept", "*/*"), PING, 200),
        ("GET", "/mcp", with("accept", "application/json"), "", 406),
        ("POST", "/mcp", with("mcp-protocol-version", "2025-06-18"), PING, 200),
        ("POST", "/mcp", with("mcp-protocol-version", "1.0"), PING, 400),
        ("GET", "/mcp", with("mcp-protocol-version", "1.0"), "", 400),
        ("GET", "/mcp", with("mcp-protocol-version", "2026-07-28"), "", 405),
        ("POST", "/mcp", with("x", "y"), "{\"id\":", 400),
        ("POST", "/mcp", with("x", "y"), "7", 400),
        ("POST", "/mcp", with("x", "y"), "", 400),
        ("POST", "/mcp", with("x", "y"), "[7", 400),
    ] {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let response = ask(&rig, method, path, &headers, body).await;
        assert_eq!(response.head.status, status, "{method} {path} {headers:?} {body}: {response:?}");
        if status == 405 {
            assert!(response.head.header("allow").is_some_and(|allowed| allowed.contains("POST")));
        }
        if status >= 400 {
            assert!(response.json().get("error").is_some(), "{response:?}");
        }
    }
    let mut http = Http::connect(rig.port).await;
    http.send("HEAD", "/mcp", &client.headers(), "").await;
    assert_eq!(http.head().await.status, 405, "a HEAD request opens no stream");
}

#[tokio::test]
async fn sessions_must_be_named_and_known() {
    let (rig, _child) = Rig::with_child().await;
    let nobody = ask(&rig, "POST", "/mcp", &[], PING).await;
    assert_eq!(nobody.head.status, 400);
    for id in ["x", "00000000-0000-4000-8000-000000000000"] {
        for (method, body) in [("POST", PING), ("GET", ""), ("DELETE", "")] {
            let unknown = ask(&rig, method, "/mcp", &[("mcp-session-id", id)], body).await;
            assert_eq!(unknown.head.status, 404, "{method}");
        }
    }
    let client = rig.client().await;
    assert_eq!(ask(&rig, "DELETE", "/mcp", &client.headers(), "").await.head.status, 204);
    assert_eq!(ask(&rig, "POST", "/mcp", &client.headers(), PING).await.head.status, 404);
}

#[tokio::test]
async fn sessions_are_bounded_and_the_oldest_idle_makes_room() {
    let (rig, _child) = Rig::with_child().await;
    let oldest = rig.client().await;
    let kept = rig.client().await;
    let _stream = kept.listen().await;
    for _ in 0..127 {
        rig.client().await;
    }
    assert_eq!(oldest.call(1, "ping", json!({})).await.response().await.head.status, 404);
    assert_eq!(kept.call(1, "ping", json!({})).await.response().await.head.status, 200);
}

#[tokio::test]
async fn a_body_over_four_mebibytes_is_not_taken() {
    let (rig, mut child) = Rig::with_child().await;
    let client = rig.client().await;
    let mut headers = client.headers();
    headers.push(("content-length", "4194305"));
    let mut http = Http::connect(rig.port).await;
    http.send("POST", "/mcp", &headers, "").await;
    assert_eq!(http.head().await.status, 413, "before it is sent");

    let mut http = Http::connect(rig.port).await;
    let mut headers = client.headers();
    headers.extend([("transfer-encoding", "chunked"), ("content-length", "")]);
    let headers: Vec<_> = headers.into_iter().filter(|(name, _)| *name != "content-length").collect();
    let mut text = "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n".to_owned();
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    http.socket.write_all(text.as_bytes()).await.expect("a reader");
    let chunk = format!("100000\r\n{}\r\n", " ".repeat(1 << 20));
    for _ in 0..5 {
        // The bridge may close the connection before the rest.
        if http.socket.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    assert_eq!(http.head().await.status, 413, "in pieces");

    let filler = "x".repeat((4 << 20) - 100);
    let mut http = client.call(1, "m", json!({"f": filler})).await;
    let asked = child.expect("m").await;
    child.answer(&asked, json!({})).await;
    assert_eq!(http.response().await.head.status, 200);
}

#[tokio::test]
async fn a_token_is_required_before_anything_else_is_read() {
    let rig = Rig::with(options(), false);
    let _child = super::child::Child::connect(&rig.endpoint).await;
    for (token, why) in [
        (None, "a token is wanted"),
        (Some("Bearer x"), "a token is wanted"),
        (Some("Basic token-1"), "a token is wanted"),
    ] {
        let headers: Vec<_> = token.map(|token| ("authorization", token)).into_iter().collect();
        let refused = ask(&rig, "POST", "/mcp", &headers, "nonsense").await;
        assert_eq!(refused.head.status, 401);
        assert_eq!(refused.head.header("www-authenticate"), Some("Bearer"));
        assert_eq!(refused.json(), json!({"error": why}));
    }
    let mut http = Http::connect(rig.port).await;
    http.send("POST", "/mcp", &[("content-length", "1000000")], "").await;
    assert_eq!(http.head().await.status, 401, "the body did not come yet");
    let (one, two) = (rig.client_of(Some(1)).await, rig.client_of(Some(2)).await);
    let mut mixed = one.clone();
    mixed.headers[1] = ("mcp-session-id".to_owned(), two.session().to_owned());
    assert_eq!(mixed.ask(serde_json::from_str(PING).expect("JSON")).await.head.status, 404, "of another allocation");
    let lower = [("authorization", "bearer  token-1"), ("mcp-session-id", one.session())];
    assert_eq!(ask(&rig, "POST", "/mcp", &lower, PING).await.head.status, 200);
    rig.authenticator.ended.lock().expect("no panic").push(cortex_core::ids::AllocationId::from_bits(1));
    let ended = ask(&rig, "POST", "/mcp", &lower, PING).await;
    assert_eq!((ended.head.status, ended.json()), (401, json!({"error": "the lease \"x\" has ended"})));
}

/// Opens as many connections as the endpoint allows.
async fn take_all_connections(rig: &Rig, client: &Client) -> Vec<Http> {
    let mut held = Vec::new();
    for _ in 0..256 {
        let mut http = Http::connect(rig.port).await;
        let response = http.ask("POST", "/mcp", &client.headers(), PING).await;
        if response.head.status == 503 {
            continue;
        }
        held.push(http);
    }
    held
}

#[tokio::test]
async fn connections_are_bounded() {
    let (rig, _child) = Rig::with_child().await;
    let client = rig.client().await;
    let mut held = take_all_connections(&rig, &client).await;
    let mut over = Http::connect(rig.port).await;
    let head = over.head().await;
    assert_eq!((head.status, head.header("retry-after")), (503, Some("5")));
    held.truncate(100);
    within(async {
        loop {
            let mut http = Http::connect(rig.port).await;
            http.send("POST", "/mcp", &client.headers(), PING).await;
            if http.head().await.status == 200 {
                return;
            }
        }
    })
    .await;
}

/// Sends the body only after the bridge has sent its whole response, and returns that response.
async fn answer_before_the_body(rig: &Rig, headers: &[(&str, &str)]) -> (Http, Response) {
    let mut http = Http::connect(rig.port).await;
    http.send("POST", "/mcp", &[headers, &[("content-length", "2000")]].concat(), "").await;
    let socket = http.socket.get_ref();
    wait_until_async("the end of the response", async || {
        socket.ready(Interest::READABLE).await.expect("a socket").is_read_closed()
    })
    .await;
    for _ in 0..2 {
        within(http.socket.write_all(&[b' '; 1_000])).await.expect("a reader");
    }
    let response = http.response().await;
    let mut rest = Vec::new();
    within(http.socket.read_to_end(&mut rest)).await.expect("an end in order");
    assert_eq!(rest, b"");
    (http, response)
}

#[tokio::test]
async fn a_connection_over_the_limit_gets_a_response_while_it_still_writes() {
    let (rig, _child) = Rig::with_child().await;
    let client = rig.client().await;
    let _held = take_all_connections(&rig, &client).await;
    for _ in 0..20 {
        let (_, crowded) = answer_before_the_body(&rig, &client.headers()).await;
        assert_eq!((crowded.head.status, crowded.head.header("retry-after")), (503, Some("5")));
        assert_eq!(crowded.json(), json!({"error": "too many connections: 256"}));
    }
    // The bridge does not read forever.
    let (mut http, _) = answer_before_the_body(&rig, &client.headers()).await;
    wait_until_async("a write that fails", async || http.socket.write_all(b" ").await.is_err()).await;
}

#[tokio::test]
async fn a_rejected_request_gets_a_response_while_it_still_writes() {
    let rig = Rig::with(options(), false);
    for (headers, status) in [(vec![], 401), (vec![("origin", "http://evil.example")], 403)] {
        let (_, refused) = answer_before_the_body(&rig, &headers).await;
        assert_eq!((refused.head.status, refused.head.header("connection")), (status, Some("close")));
        assert!(refused.json().get("error").is_some(), "{refused:?}");
    }
}

#[tokio::test]
async fn an_endpoint_that_closes_ends_its_streams_and_its_calls() {
    let (rig, mut child) = Rig::with_child().await;
    let client = rig.client().await;
    let mut events = client.listen().await;
    let mut http = client.call(1, "m", json!({})).await;
    child.expect("m").await;
    rig.closing.cancel();
    assert_eq!(events.next().await, None);
    assert_eq!(http.response().await.json()["error"]["code"], -32_000);
    tokio::time::timeout(WAIT_MAX, rig.serving).await.expect("it ends").expect("no panic");
    assert!(tokio::net::TcpStream::connect(("127.0.0.1", rig.port)).await.is_err());
}

#[tokio::test]
async fn sessions_that_are_all_in_use_make_no_room() {
    let (rig, _child) = Rig::with_child().await;
    let mut streams = Vec::new();
    for _ in 0..128 {
        let client = rig.client().await;
        streams.push(client.listen().await);
    }
    let params = json!({"protocolVersion": "2025-06-18", "capabilities": {}});
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}).to_string();
    let refused = ask(&rig, "POST", "/mcp", &[], &hello).await;
    assert_eq!((refused.head.status, refused.head.header("retry-after")), (503, Some("5")));
    streams.pop();
    within(async { while ask(&rig, "POST", "/mcp", &[], &hello).await.head.status != 200 {} }).await;
}

#[tokio::test]
async fn one_endpoint_is_at_both_addresses_of_this_machine() {
    let rig = Rig::new();
    let _child = super::child::Child::connect(&rig.endpoint).await;
    let listeners = ["127.0.0.1:0", "[::1]:0"].map(|address| std::net::TcpListener::bind(address).ok());
    let listeners: Vec<_> = listeners.into_iter().flatten().collect();
    let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().expect("an address")).collect();
    let serving = tokio::spawn(rig.endpoint.clone().serve(listeners, rig.closing.clone()));
    for address in addresses {
        let socket = tokio::net::TcpStream::connect(address).await.expect("a listener");
        let mut http = Http { socket: tokio::io::BufReader::new(socket) };
        let host = address.to_string();
        assert_eq!(http.ask("GET", "/other", &[("host", &host)], "").await.head.status, 404, "{host}");
    }
    rig.closing.cancel();
    within(serving).await.expect("no panic");
}

#[tokio::test]
async fn the_wait_for_a_request_head_is_limited() {
    let (rig, _child) = Rig::with_child().await;
    let mut http = Http::connect(rig.port).await;
    http.socket.write_all(b"POST /mcp HTTP/1.1\r\nhost: localhost\r\nx-slow: ").await.expect("a reader");
    let mut rest = Vec::new();
    let started = std::time::Instant::now();
    // The connection may be closed with a response or without one.
    let _ = within(http.socket.read_to_end(&mut rest)).await;
    assert!(started.elapsed() >= Duration::from_secs(9), "it was given its time");
    assert_eq!(Value::from(rest.len()), json!(0));
}

#[tokio::test]
async fn keys_that_some_servers_would_take_for_others_are_refused() {
    let (rig, mut child) = Rig::with_child().await;
    let client = rig.client().await;
    let mut http = super::http::Http::connect(rig.port).await;
    for body in [
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{},"ID":7}"#,
        r#"{"jsonrpc":"2.0","method":"a/notice","Method":"notifications/cancelled","params":{"requestId":7}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_META":{"progressToken":7}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{"progresstoken":7}}}"#,
    ] {
        let refused = http.ask("POST", "/mcp", &client.headers(), body).await;
        assert_eq!(
            (refused.head.status, refused.json()["error"]["code"].as_i64()),
            (400, Some(-32_602)),
            "{refused:?}"
        );
    }
    // The arguments of a tool may have any key.
    let call = json!({"name": "x", "arguments": {"ID": 1, "Method": 2}});
    let mut called = client.call(2, "tools/call", call.clone()).await;
    let asked = child.expect("tools/call").await;
    assert_eq!(asked["params"], call);
    child.answer(&asked, json!({})).await;
    called.response().await;
}
