//! A scripted child.

use std::sync::{Arc, Mutex};

use cortex_runtime::bridge::{Endpoint, HandshakeError, Link};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, ReadHalf, WriteHalf};

use crate::support::{wait_until_async, within};

/// The capacity of the pipes of a child.
const PIPE_BYTES: usize = 65_536;

pub(crate) struct Child {
    pub(crate) input: BufReader<ReadHalf<DuplexStream>>,
    pub(crate) output: WriteHalf<DuplexStream>,
    pub(crate) link: Option<Link>,
    pub(crate) invalid_output: Arc<Mutex<Vec<String>>>,
}

/// The `initialize` result of a child with all capabilities.
pub(crate) fn everything() -> Value {
    json!({
        "protocolVersion": "2025-06-18",
        "capabilities": {
            "tasks": {"list": {}},
            "tools": {"listChanged": true}, "logging": {}, "prompts": {},
            "resources": {"subscribe": true, "listChanged": true},
            "experimental": {"mine": {"x": 1}},
        },
        "serverInfo": {"name": "scripted", "version": "1", "extra": [1.5]},
        "instructions": "ask nicely",
    })
}

impl Child {
    /// Returns a child that has completed its handshake.
    pub(crate) async fn connect(endpoint: &Arc<Endpoint>) -> Self {
        let (mut child, connecting) = Self::spawn(endpoint);
        let asked = child.expect("initialize").await;
        assert_eq!(asked["params"]["protocolVersion"], "2025-11-25");
        assert_eq!(asked["params"]["clientInfo"]["name"], "cortex-resource-manager");
        child.answer(&asked, everything()).await;
        child.expect("notifications/initialized").await;
        child.link = Some(within(connecting).await.expect("no panic").expect("a link"));
        child
    }

    /// Returns a child before its handshake.
    pub(crate) fn spawn(endpoint: &Arc<Endpoint>) -> (Self, tokio::task::JoinHandle<Result<Link, HandshakeError>>) {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let (input, output) = tokio::io::split(theirs);
        let invalid_output = Arc::new(Mutex::new(Vec::new()));
        let connecting = tokio::spawn({
            let (endpoint, invalid_output) = (Arc::clone(endpoint), Arc::clone(&invalid_output));
            let (from, to) = tokio::io::split(ours);
            async move {
                let on_invalid_output =
                    Box::new(move |line: &str| invalid_output.lock().expect("no panic").push(line.to_owned()));
                endpoint.connect(to, from, on_invalid_output).await
            }
        });
        (Self { input: BufReader::new(input), output, link: None, invalid_output }, connecting)
    }

    /// Returns the next message.
    pub(crate) async fn next(&mut self) -> Value {
        let mut line = String::new();
        within(self.input.read_line(&mut line)).await.expect("a line");
        assert!(line.ends_with('\n'), "a whole line: {line:?}");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?} is not JSON: {error}"))
    }

    pub(crate) async fn expect(&mut self, method: &str) -> Value {
        let message = self.next().await;
        assert_eq!(message["method"], method, "{message}");
        message
    }

    pub(crate) async fn say(&mut self, line: &str) {
        self.output.write_all(format!("{line}\n").as_bytes()).await.expect("a reader");
    }

    pub(crate) async fn tell(&mut self, message: Value) {
        self.say(&message.to_string()).await;
    }

    pub(crate) async fn answer(&mut self, asked: &Value, result: Value) {
        self.tell(json!({"jsonrpc": "2.0", "id": asked["id"], "result": result})).await;
    }

    /// Waits until the bridge has reported invalid output that contains `text`.
    pub(crate) async fn noted(&self, text: &str) {
        let is_noted = || self.invalid_output.lock().expect("no panic").iter().any(|line| line.contains(text));
        wait_until_async("invalid output to be reported", async || is_noted()).await;
    }

    /// Waits until the bridge has read everything that was sent.
    pub(crate) async fn sync(&mut self) {
        self.tell(json!({"jsonrpc": "2.0", "id": "sync", "method": "ping"})).await;
        let answer = self.next().await;
        assert_eq!(answer, json!({"jsonrpc": "2.0", "id": "sync", "result": {}}));
    }
}
