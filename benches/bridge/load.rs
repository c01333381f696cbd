//! Load for the benchmark: calls with the bridge and without it.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use cortex_core::ids::{AllocationId, ServerName};
use cortex_runtime::bridge::{AuthError, Authenticator, Endpoint, EndpointOptions, Usage};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

const CALLS_ALONE: usize = 5_000;
const SESSIONS: usize = 32;
const CALLS_EACH: usize = 5_000;
/// The share of calls that are not measured, as warm-up: one in this number.
const WARM_UP_SHARE: usize = 10;

/// Admits every request as the same allocation.
struct OpenAuthenticator;

impl Authenticator for OpenAuthenticator {
    fn authenticate<'a>(&'a self, bearer: Option<&'a str>) -> BoxFuture<'a, Result<Option<AllocationId>, AuthError>> {
        let _ = bearer;
        Box::pin(std::future::ready(Ok(Some(AllocationId::from_bits(1)))))
    }
}

fn child() -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.arg("--child").stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

fn call(id: usize) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"nothing","arguments":{{"a":1}}}}}}"#
    )
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.drain(..times.len() / WARM_UP_SHARE);
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}

/// Returns the median time of a call over the child's pipes.
pub(crate) fn direct_seconds() -> f64 {
    let mut child = child().spawn().expect("a child");
    let mut input = child.stdin.take().expect("a pipe");
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    let times = (0..CALLS_ALONE).map(|id| {
        let begin = Instant::now();
        line.clear();
        input.write_all(format!("{}\n", call(id)).as_bytes()).expect("a child that reads");
        output.read_line(&mut line).expect("an answer");
        begin.elapsed()
    });
    let times = times.collect();
    drop(input);
    child.wait().expect("its end");
    median(times)
}

/// Runs a bridge in another thread while `load` runs in this one.
///
/// Asserts that the bridge counted `calls` responses of the child and no errors.
fn with_bridge<T>(calls: usize, load: impl AsyncFnOnce(u16) -> T) -> T {
    let closing = CancellationToken::new();
    let (tell, port) = mpsc::channel();
    let bridge = {
        let closing = closing.clone();
        thread::spawn(move || runtime().block_on(bridge(tell, closing)))
    };
    let port = port.recv().expect("a port");
    let result = runtime().block_on(load(port));
    closing.cancel();
    let usage = bridge.join().expect("no panic");
    assert_eq!((usage.calls, usage.errors), (calls as u64, 0), "answered by the child");
    result
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

async fn bridge(tell: mpsc::Sender<u16>, closing: CancellationToken) -> Usage {
    let options = EndpointOptions {
        name: ServerName::new("bench").expect("a name"),
        calls_in_flight_max: 64,
        start_wait: Duration::from_secs(10),
        roots: Vec::new(),
    };
    let endpoint = Endpoint::new(options, std::sync::Arc::new(OpenAuthenticator));
    let mut child = tokio::process::Command::from(child()).spawn().expect("a child");
    let (input, output) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
    let link = endpoint.connect(input, output, Box::new(|line: &str| panic!("{line}"))).await.expect("a link");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    tell.send(listener.local_addr().expect("an address").port()).expect("someone who waits");
    std::sync::Arc::clone(&endpoint).serve(vec![listener], closing).await;
    drop(link);
    child.wait().await.expect("its end");
    endpoint.total_usage()
}

/// A client with its own connection. It does as little as it can, since its own time is part of what is measured.
struct Client {
    socket: tokio::net::TcpStream,
    head: String,
    received: Vec<u8>,
}

impl Client {
    async fn open(port: u16) -> Self {
        let socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("a listener");
        socket.set_nodelay(true).expect("a socket");
        let head = "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
            accept: application/json, text/event-stream\r\n\
            authorization: Bearer 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\r\n";
        let mut client = Self { socket, head: head.to_owned(), received: Vec::new() };
        let params = r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"b","version":"1"}}"#;
        let initialize = format!(r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{params}}}"#);
        let answer = client.ask(&initialize).await;
        let session = answer.split("mcp-session-id: ").nth(1).and_then(|rest| rest.split('\r').next());
        client.head.push_str(&format!("mcp-session-id: {}\r\n", session.expect("a session")));
        client
    }

    async fn ask(&mut self, body: &str) -> String {
        let request = format!("{}content-length: {}\r\n\r\n{body}", self.head, body.len());
        self.socket.write_all(request.as_bytes()).await.expect("a reader");
        self.received.clear();
        loop {
            self.socket.read_buf(&mut self.received).await.expect("an answer");
            let text = String::from_utf8_lossy(&self.received);
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next());
            if length.expect("a length").parse() == Ok(body.len()) {
                return text.into_owned();
            }
        }
    }

    async fn call(&mut self, id: usize) {
        let answer = self.ask(&call(id)).await;
        assert!(answer.contains(&format!("\"id\":{id},\"result\"")), "{answer}");
    }
}

/// Returns the median time of a call through the bridge.
pub(crate) fn through_seconds() -> f64 {
    with_bridge(CALLS_ALONE, async |port| {
        let mut client = Client::open(port).await;
        let mut times = Vec::with_capacity(CALLS_ALONE);
        for id in 0..CALLS_ALONE {
            let begin = Instant::now();
            client.call(id).await;
            times.push(begin.elapsed());
        }
        median(times)
    })
}

/// Returns the calls per second of 32 sessions.
pub(crate) fn calls_per_second() -> f64 {
    with_bridge(SESSIONS * CALLS_EACH, async |port| {
        let mut clients = Vec::new();
        for _ in 0..SESSIONS {
            clients.push(Client::open(port).await);
        }
        let begin = Instant::now();
        let work = clients.into_iter().map(|mut client| async move {
            for id in 0..CALLS_EACH {
                client.call(id).await;
            }
        });
        futures_util::future::join_all(work).await;
        (SESSIONS * CALLS_EACH) as f64 / begin.elapsed().as_secs_f64()
    })
}
