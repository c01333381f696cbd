//! A server with a few test tools, and the client's end of its connection.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use rmcp::{
    ErrorData, RoleServer, ServerHandler, ServiceExt,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ServerCapabilities, ServerConfig,
        SubscriptionFilter,
    },
    service::{QuitReason, RequestContext, ServerInitializeError, SubscriptionContext},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, Lines},
    sync::Semaphore,
    task::JoinHandle,
};

use super::super::{Call, ConnectionHandle, LineTransport, WireLimits};

/// The `_meta` that a client of 2026-07-28 puts into each request.
pub(super) const MODERN_META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"test","version":"0"},"io.modelcontextprotocol/clientCapabilities":{}}"#;

/// What the server did, as seen by the test.
pub(super) struct Seen {
    /// Calls that reached the handler.
    pub(super) delivered: AtomicUsize,
    /// Undos that ran.
    pub(super) undone: AtomicUsize,
    /// Each permit lets one call of `hold` or `grant` go on.
    pub(super) gate: Semaphore,
    handle: OnceLock<ConnectionHandle>,
}

impl Seen {
    pub(super) fn delivered(&self) -> usize {
        self.delivered.load(Ordering::Relaxed)
    }

    pub(super) fn undone(&self) -> usize {
        self.undone.load(Ordering::Relaxed)
    }

    async fn pass_gate(&self) {
        if let Ok(permit) = self.gate.acquire().await {
            permit.forget();
        }
    }
}

struct Server(Arc<Seen>);

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(
            ServerCapabilities::builder().enable_tools().enable_resources().enable_resources_subscribe().build(),
        )
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let seen = &self.0;
        seen.delivered.fetch_add(1, Ordering::Relaxed);
        let call = context.extensions.get::<Call>().expect("every call has it");
        let undo = {
            let seen = seen.clone();
            move || {
                seen.undone.fetch_add(1, Ordering::Relaxed);
            }
        };
        match &*request.name {
            "echo" => {}
            "hold" => seen.pass_gate().await,
            "grant" => {
                call.undo_if_cancelled(undo);
                seen.pass_gate().await;
            }
            "grant_late" => {
                seen.pass_gate().await;
                call.undo_if_cancelled(undo);
            }
            "wait" => {
                let handle = seen.handle.get().expect("the server runs").clone();
                handle.closing().cancelled().await;
            }
            "panic" => panic!("as asked"),
            name => return Err(ErrorData::invalid_params(name.to_owned(), None)),
        }
        let text = serde_json::to_string(&request.arguments).expect("JSON");
        Ok(CallToolResult::success(vec![ContentBlock::text(text)]).into())
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let handle = self.0.handle.get().expect("the server runs").clone();
        tokio::select! {
            () = context.cancelled() => {}
            () = handle.closing().cancelled_owned() => {}
        }
        Ok(())
    }
}

/// The client's end of a connection to a running server.
pub(super) struct Client {
    pub(super) writer: DuplexStream,
    pub(super) replies: Lines<BufReader<DuplexStream>>,
    pub(super) seen: Arc<Seen>,
    pub(super) handle: ConnectionHandle,
    pub(super) served: JoinHandle<Result<QuitReason, ServerInitializeError>>,
}

impl Client {
    /// Starts a server. Each direction holds `pipe_bytes` that nobody has read.
    pub(super) fn connect(limits: WireLimits, pipe_bytes: usize) -> Self {
        let (writer, input) = tokio::io::duplex(pipe_bytes);
        let (output, replies) = tokio::io::duplex(pipe_bytes);
        let (transport, handle) = LineTransport::new(input, output, limits);
        let seen = Arc::new(Seen {
            delivered: AtomicUsize::new(0),
            undone: AtomicUsize::new(0),
            gate: Semaphore::new(0),
            handle: OnceLock::from(handle.clone()),
        });
        let server = Server(seen.clone());
        let established = handle.clone();
        let served = tokio::spawn(async move {
            let running = server.serve(transport).await?;
            established.established();
            Ok(running.waiting().await.expect("the service task ends"))
        });
        Self { writer, replies: BufReader::new(replies).lines(), seen, handle, served }
    }

    /// A client of the older generation after its handshake.
    pub(super) async fn legacy(limits: WireLimits) -> Self {
        let mut client = Self::connect(limits, 65_536);
        client.shake_hands().await;
        client
    }

    pub(super) async fn shake_hands(&mut self) {
        self.send(
            r#"{"jsonrpc":"2.0","id":"hello","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"test","version":"0"}}}"#,
        )
        .await;
        let reply = self.reply().await;
        assert_eq!(reply["id"], "hello", "{reply}");
        assert!(reply["result"].is_object(), "{reply}");
        self.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
    }

    pub(super) async fn send(&mut self, line: &str) {
        self.send_bytes(format!("{line}\n").as_bytes()).await;
    }

    pub(super) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).await.expect("the server reads");
    }

    pub(super) async fn call(&mut self, id: i64, tool: &str) {
        self.send(&call(id, tool, &json!({}))).await;
    }

    pub(super) async fn cancel(&mut self, id: i64) {
        self.send(&format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#))
            .await;
    }

    /// The next line the server wrote.
    pub(super) async fn reply(&mut self) -> Value {
        self.next_reply().await.expect("the server still writes")
    }

    pub(super) async fn next_reply(&mut self) -> Option<Value> {
        let line = self.replies.next_line().await.expect("UTF-8")?;
        Some(serde_json::from_str(&line).expect("a JSON line"))
    }

    /// Checks that the server responds and that no earlier output is unread.
    pub(super) async fn check_alive(&mut self) {
        self.send(r#"{"jsonrpc":"2.0","id":"alive","method":"ping"}"#).await;
        let reply = self.reply().await;
        assert_eq!(reply, json!({"jsonrpc":"2.0","id":"alive","result":{}}));
    }

    /// Ends the input, and returns the remaining replies and how the server ended.
    pub(super) async fn finish(self) -> (Vec<Value>, Result<QuitReason, ServerInitializeError>) {
        let Self { writer, mut replies, served, .. } = self;
        drop(writer);
        let mut rest = Vec::new();
        while let Some(line) = replies.next_line().await.expect("UTF-8") {
            rest.push(serde_json::from_str(&line).expect("a JSON line"));
        }
        (rest, served.await.expect("the server does not panic"))
    }
}

pub(super) fn call(id: i64, tool: &str, arguments: &Value) -> String {
    json!({
        "jsonrpc": "2.0",
        "id": id,
        "method": "tools/call",
        "params": {"name": tool, "arguments": arguments},
    })
    .to_string()
}

/// The text of a successful call's reply, and its id.
#[track_caller]
pub(super) fn answered(reply: &Value) -> (i64, &str) {
    let id = reply["id"].as_i64();
    let text = reply["result"]["content"][0]["text"].as_str();
    match (id, text) {
        (Some(id), Some(text)) => (id, text),
        _ => panic!("not the answer to a call: {reply}"),
    }
}

/// Checks an error reply.
#[track_caller]
pub(super) fn check_error(reply: &Value, id: &Value, code: i64, part: &str) {
    assert_eq!(reply["jsonrpc"], "2.0", "{reply}");
    assert_eq!(reply.get("id"), Some(id), "{reply}");
    assert_eq!(reply["error"]["code"], code, "{reply}");
    let message = reply["error"]["message"].as_str().expect("a message");
    assert!(message.contains(part), "{part:?} is not in {message:?}");
    assert!(message.len() < 300, "too long: {message}");
}
