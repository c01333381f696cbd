//! A child that says what a test has it say.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cortex_runtime::bridge::{Endpoint, Link};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, ReadHalf, WriteHalf};

/// How long anything in these tests may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// How much fits into the pipes of a child.
const PIPE_BYTES: usize = 65_536;

pub(crate) struct Child {
    pub(crate) input: BufReader<ReadHalf<DuplexStream>>,
    pub(crate) output: WriteHalf<DuplexStream>,
    pub(crate) link: Option<Link>,
    pub(crate) garbage: Arc<Mutex<Vec<String>>>,
}

/// What a child says that can do everything.
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
    /// A child that is connected once the bridge and it have greeted each other.
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

    /// A child that was not asked anything yet.
    pub(crate) fn spawn(endpoint: &Arc<Endpoint>) -> (Self, tokio::task::JoinHandle<Result<Link, String>>) {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let (input, output) = tokio::io::split(theirs);
        let garbage = Arc::new(Mutex::new(Vec::new()));
        let connecting = tokio::spawn({
            let (endpoint, garbage) = (Arc::clone(endpoint), Arc::clone(&garbage));
            let (from, to) = tokio::io::split(ours);
            async move {
                let hears = Box::new(move |line: &str| garbage.lock().expect("no panic").push(line.to_owned()));
                endpoint.connect(to, from, hears).await
            }
        });
        (Self { input: BufReader::new(input), output, link: None, garbage }, connecting)
    }

    /// The next message.
    pub(crate) async fn next(&mut self) -> Value {
        let mut line = String::new();
        within(self.input.read_line(&mut line)).await.expect("a line");
        assert!(line.ends_with('\n'), "a whole line: {line:?}");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?} is no JSON: {error}"))
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

    /// Waits until the bridge noted something that contains `text`.
    pub(crate) async fn noted(&self, text: &str) {
        until(|| self.garbage.lock().expect("no panic").iter().any(|line| line.contains(text))).await;
    }

    /// Waits until all that was said so far was read.
    pub(crate) async fn heard(&mut self) {
        self.tell(json!({"jsonrpc": "2.0", "id": "heard", "method": "ping"})).await;
        let answer = self.next().await;
        assert_eq!(answer, json!({"jsonrpc": "2.0", "id": "heard", "result": {}}));
    }
}

/// Waits for something that must come.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("it came in time")
}

/// Waits for something that must become true.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    within(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}
