use super::*;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Mutex;
use tokio::net::TcpListener;
use tokio::sync::Notify;

const WAIT_MAX: Duration = Duration::from_secs(20);

/// Answers a request by its method and headers.
type Answers = Box<dyn Fn(&str, &HeaderMap) -> Response + Send + Sync>;

/// A server on loopback that records its requests.
struct Server {
    answers: Answers,
    seen: Mutex<Vec<String>>,
    news: Notify,
    port: u16,
}

impl Server {
    /// Starts a server. `answers` gets the method of each message, or that of HTTP if there is no message.
    async fn start(answers: impl Fn(&str, &HeaderMap) -> Response + Send + Sync + 'static) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let server = Arc::new(Self { answers: Box::new(answers), seen: Mutex::default(), news: Notify::new(), port });
        let router = Router::new().fallback(take).with_state(Arc::clone(&server));
        tokio::spawn(async move { axum::serve(listener, router).await });
        server
    }

    fn remote(&self) -> HealthProbe {
        let headers = BTreeMap::from([("Authorization".to_owned(), "Bearer hunter2".to_owned())]);
        HealthProbe::new(&format!("http://127.0.0.1:{}/mcp", self.port), &headers)
    }

    /// Waits for as many requests as expected since the last call, and compares them.
    fn check_seen(self: &Arc<Self>, expected: &[&str]) -> impl Future<Output = ()> {
        let (server, expected) = (Arc::clone(self), expected.iter().map(|&line| line.to_owned()).collect::<Vec<_>>());
        async move {
            let enough = async {
                while server.seen.lock().expect("no panic").len() < expected.len() {
                    server.news.notified().await;
                }
            };
            let in_time = tokio::time::timeout(WAIT_MAX, enough).await;
            let seen = std::mem::take(&mut *server.seen.lock().expect("no panic"));
            assert!(in_time.is_ok(), "{seen:?}");
            assert_eq!(seen, expected);
        }
    }
}

async fn take(State(server): State<Arc<Server>>, method: Method, headers: HeaderMap, body: Bytes) -> Response {
    let message: Value = serde_json::from_slice(&body).unwrap_or_default();
    let rpc_method = message["method"].as_str().unwrap_or(method.as_str()).to_owned();
    let text = |name: &str| headers.get(name).map_or("-", |value| value.to_str().expect("plain text"));
    assert_eq!(text("authorization"), "Bearer hunter2");
    if method == Method::POST {
        assert_eq!(text("accept"), "application/json, text/event-stream");
        assert_eq!(text("content-type"), "application/json");
    }
    let line = format!("{rpc_method} {} {}", text("mcp-session-id"), text("mcp-protocol-version"));
    let mut answer = (server.answers)(&rpc_method, &headers);
    answer.headers_mut().insert("x-secret", HeaderValue::from_static("hunter2"));
    server.seen.lock().expect("no panic").push(line);
    server.news.notify_one();
    answer
}

fn result(result: Value) -> Response {
    let message = json!({"jsonrpc": "2.0", "id": 1, "result": result});
    ([(header::CONTENT_TYPE, "application/json")], message.to_string()).into_response()
}

fn error(status: StatusCode, code: i64) -> Response {
    let message = json!({"jsonrpc": "2.0", "id": 1, "error": {"code": code, "message": "hunter2"}});
    (status, message.to_string()).into_response()
}

/// Returns the answer of a server with sessions.
fn initialized(id: &'static str) -> Response {
    let mut answer = result(json!({"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {}}));
    answer.headers_mut().insert("Mcp-Session-Id", HeaderValue::from_static(id));
    answer
}

/// Returns the result of a check, with the text of its error.
async fn health(remote: &mut HealthProbe, within: Duration) -> Result<(), String> {
    remote.check(within).await.map_err(|error| error.to_string())
}

/// Returns an event stream that stays open.
fn stream(text: &'static str) -> Response {
    use futures_util::StreamExt;
    let open =
        futures_util::stream::once(async move { Ok::<_, std::io::Error>(text) }).chain(futures_util::stream::pending());
    ([(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")], Body::from_stream(open)).into_response()
}

#[tokio::test]
async fn a_session_is_opened_used_and_deleted() {
    let server = Server::start(|method, _| match method {
        "initialize" => initialized("s1"),
        "ping" => result(json!({})),
        _ => StatusCode::ACCEPTED.into_response(),
    })
    .await;
    let mut remote = server.remote();
    assert_eq!(health(&mut remote, WAIT_MAX).await, Ok(()));
    server.check_seen(&["initialize - -", "notifications/initialized s1 2025-06-18"]).await;
    for _ in 0..2 {
        assert_eq!(health(&mut remote, WAIT_MAX).await, Ok(()));
        server.check_seen(&["ping s1 2025-06-18"]).await;
    }
    remote.close().await;
    server.check_seen(&["DELETE s1 2025-06-18"]).await;

    let mut dropped = server.remote();
    assert_eq!(health(&mut dropped, WAIT_MAX).await, Ok(()));
    assert!(!format!("{dropped:?}").contains("hunter2"));
    drop(dropped);
    let seen = ["initialize - -", "notifications/initialized s1 2025-06-18", "DELETE s1 2025-06-18"];
    server.check_seen(&seen).await;
}

#[tokio::test]
async fn a_dropped_session_is_opened_again() {
    for status in [StatusCode::NOT_FOUND, StatusCode::BAD_REQUEST] {
        let server = Server::start(move |method, headers| match method {
            "initialize" => initialized("s1"),
            "ping" if headers.contains_key("mcp-session-id") => error(status, -32001),
            _ => StatusCode::ACCEPTED.into_response(),
        })
        .await;
        let mut remote = server.remote();
        let opened = ["initialize - -", "notifications/initialized s1 2025-06-18"];
        assert_eq!(health(&mut remote, WAIT_MAX).await, Ok(()));
        server.check_seen(&opened).await;
        assert_eq!(health(&mut remote, WAIT_MAX).await, Ok(()));
        server.check_seen(&["ping s1 2025-06-18", opened[0], opened[1]]).await;
    }
}

#[tokio::test]
async fn without_ping_the_tools_are_listed() {
    let server = Server::start(|method, _| match method {
        "initialize" => result(json!({"protocolVersion": "2025-11-25"})),
        "ping" => error(StatusCode::OK, -32601),
        "tools/list" => result(json!({"tools": []})),
        // Some servers refuse even the notification.
        _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    })
    .await;
    let mut remote = server.remote();
    for expected in [
        &["initialize - -", "notifications/initialized - 2025-11-25"][..],
        &["ping - 2025-11-25", "tools/list - 2025-11-25"],
        &["tools/list - 2025-11-25"],
    ] {
        assert_eq!(health(&mut remote, WAIT_MAX).await, Ok(()));
        server.check_seen(expected).await;
    }
    remote.close().await;
    server.check_seen(&[]).await;
}

#[tokio::test]
async fn an_answer_in_an_open_stream_counts() {
    let server = Server::start(|method, _| match method {
        "initialize" => {
            stream("data: {\"method\":\"notifications/message\"}\n\nevent: message\ndata: {\"id\":1,\"result\":{}}\n\n")
        }
        "ping" => stream("data: {\"id\":1,\"error\":{\"code\":-32000}}\n\n"),
        _ => StatusCode::ACCEPTED.into_response(),
    })
    .await;
    let mut remote = server.remote();
    assert_eq!(health(&mut remote, WAIT_MAX).await, Ok(()));
    assert_eq!(health(&mut remote, WAIT_MAX).await, Ok(()), "an error is an answer");
}

#[tokio::test]
async fn a_server_that_refuses_the_session_with_an_error_is_healthy() {
    for status in [StatusCode::OK, StatusCode::BAD_REQUEST] {
        let server = Server::start(move |_, _| error(status, -32022)).await;
        let mut remote = server.remote();
        for _ in 0..2 {
            assert_eq!(health(&mut remote, WAIT_MAX).await, Ok(()));
            server.check_seen(&["initialize - -"]).await;
        }
    }
}

#[tokio::test]
async fn reasons_have_no_secrets() {
    let check = async |answer: fn() -> Response, expected: &str| {
        let server = Server::start(move |_, _| answer()).await;
        assert_eq!(health(&mut server.remote(), WAIT_MAX).await, Err(expected.to_owned()));
        // A server that was healthy before fails in the same way when it answers a later probe so.
        let later =
            Server::start(move |method, _| if method == "initialize" { initialized("s1") } else { answer() }).await;
        let mut remote = later.remote();
        assert_eq!(health(&mut remote, WAIT_MAX).await, Ok(()));
        let forgotten = ["answered with 404", "answered with 400"].iter().any(|known| expected.starts_with(known));
        let expected = if forgotten { Ok(()) } else { Err(expected.to_owned()) };
        assert_eq!(health(&mut remote, WAIT_MAX).await, expected);
    };
    check(
        || (StatusCode::UNAUTHORIZED, "hunter2").into_response(),
        "answered with 401 (Unauthorized): set the headers that it requires",
    )
    .await;
    check(|| error(StatusCode::FORBIDDEN, -32000), "answered with 403 (Forbidden): set the headers that it requires")
        .await;
    check(|| error(StatusCode::NOT_FOUND, -32601), "answered with 404 (Not Found): set the url of its MCP endpoint")
        .await;
    check(|| (StatusCode::BAD_REQUEST, "hunter2").into_response(), "answered with 400 (Bad Request)").await;
    check(|| StatusCode::SERVICE_UNAVAILABLE.into_response(), "answered with 503 (Service Unavailable)").await;
    check(
        || (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, "/hunter2")]).into_response(),
        "answered with 307 (Temporary Redirect): set the url that it redirects to",
    )
    .await;
    let no_message = "answered, but not with an MCP message: set the url of its MCP endpoint";
    check(|| "<html>hunter2</html>".into_response(), no_message).await;
    check(|| StatusCode::ACCEPTED.into_response(), no_message).await;
    check(|| "x".repeat(2_000_000).into_response(), "answered with more than 1048576 bytes").await;
}

#[tokio::test]
async fn a_check_keeps_its_time_limit() {
    let hanging = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = hanging.local_addr().expect("an address").port();
    let mut remote = HealthProbe::new(&format!("http://127.0.0.1:{port}/"), &BTreeMap::new());
    let short = Duration::from_millis(250);
    assert_eq!(health(&mut remote, short).await, Err("did not answer within 0.25 s".to_owned()));
    assert_eq!(health(&mut remote, Duration::ZERO).await, Err("did not answer within 0 s".to_owned()));
    drop(hanging);
    let gone = "is not reachable, since the connection was refused: start it, or correct its url";
    assert_eq!(health(&mut remote, WAIT_MAX).await, Err(gone.to_owned()));

    let silent = Server::start(|_, _| stream(": nothing\n\n")).await;
    assert_eq!(health(&mut silent.remote(), short).await, Err("did not answer within 0.25 s".to_owned()));

    let mut nowhere = HealthProbe::new("no url", &BTreeMap::new());
    assert_eq!(health(&mut nowhere, WAIT_MAX).await, Err("has a url or a header that cannot be sent".to_owned()));
}

#[tokio::test]
async fn the_session_of_an_abandoned_check_is_deleted() {
    let gate = Arc::new(Notify::new());
    let server = Server::start({
        let gate = Arc::clone(&gate);
        move |method, _| match method {
            "initialize" => initialized("s1"),
            "notifications/initialized" => {
                let gate = Arc::clone(&gate);
                let late = futures_util::stream::once(async move {
                    gate.notified().await;
                    Ok::<_, std::io::Error>("")
                });
                Body::from_stream(late).into_response()
            }
            _ => StatusCode::OK.into_response(),
        }
    })
    .await;
    let mut remote = server.remote();
    let checking = tokio::spawn(async move { remote.check(WAIT_MAX).await });
    server.check_seen(&["initialize - -", "notifications/initialized s1 2025-06-18"]).await;
    checking.abort();
    assert!(checking.await.is_err_and(|error| error.is_cancelled()));
    gate.notify_one();
    server.check_seen(&["DELETE s1 2025-06-18"]).await;
}

#[tokio::test]
async fn a_check_waits_for_a_thread_before_its_time_begins() {
    let server = Server::start(|_, _| result(json!({"protocolVersion": "2025-11-25"}))).await;
    let mut remote = server.remote();
    remote.threads = Arc::new(Semaphore::new(1));
    let other = Arc::clone(&remote.threads).try_acquire_owned().expect("a thread");
    let mut check = Box::pin(remote.check(WAIT_MAX));
    assert!(futures_util::poll!(check.as_mut()).is_pending());
    assert_eq!(server.seen.lock().expect("no panic").len(), 0, "nothing was sent");
    drop(other);
    tokio::time::timeout(WAIT_MAX, check).await.expect("in time").expect("an answer");
    let released = tokio::time::timeout(WAIT_MAX, remote.threads.acquire()).await;
    assert!(released.is_ok_and(|permit| permit.is_ok()));
}
