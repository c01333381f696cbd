//! A test rig: an endpoint on a port, and its clients.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cortex_core::ids::{AllocationId, ServerName};
use cortex_runtime::bridge::{AuthError, Authenticator, Endpoint, EndpointOptions};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::wait_until_async;

use super::child::Child;
use super::http::{Events, Http, Response};

/// Admits tokens of the form `token-N` as allocation N, or every request if it is open.
pub(crate) struct TestAuthenticator {
    pub(crate) is_open: bool,
    pub(crate) ended: Mutex<Vec<AllocationId>>,
}

impl Authenticator for TestAuthenticator {
    fn authenticate<'a>(&'a self, bearer: Option<&'a str>) -> BoxFuture<'a, Result<Option<AllocationId>, AuthError>> {
        let admitted = match bearer.and_then(|token| token.strip_prefix("token-")).map(str::parse) {
            _ if self.is_open => Ok(None),
            Some(Ok(number)) if !self.ended.lock().expect("no panic").contains(&AllocationId::from_bits(number)) => {
                Ok(Some(AllocationId::from_bits(number)))
            }
            Some(_) => Err(AuthError("the lease \"x\" has ended".to_owned())),
            None => Err(AuthError("a token is wanted".to_owned())),
        };
        Box::pin(std::future::ready(admitted))
    }
}

pub(crate) struct Rig {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) port: u16,
    pub(crate) authenticator: Arc<TestAuthenticator>,
    pub(crate) closing: CancellationToken,
    pub(crate) serving: JoinHandle<()>,
}

pub(crate) fn options() -> EndpointOptions {
    EndpointOptions {
        name: ServerName::new("scripted").expect("a name"),
        calls_in_flight_max: 64,
        start_wait: Duration::from_secs(10),
        roots: Vec::new(),
    }
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(options(), true)
    }

    pub(crate) fn with(options: EndpointOptions, is_open: bool) -> Self {
        let authenticator = Arc::new(TestAuthenticator { is_open, ended: Mutex::default() });
        let endpoint = Endpoint::new(options, authenticator.clone());
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let closing = CancellationToken::new();
        let serving = tokio::spawn(Arc::clone(&endpoint).serve(vec![listener], closing.clone()));
        Self { endpoint, port, authenticator, closing, serving }
    }

    /// Returns a rig with a connected child.
    pub(crate) async fn with_child() -> (Self, Child) {
        let rig = Self::new();
        let child = Child::connect(&rig.endpoint).await;
        (rig, child)
    }

    /// Waits until this number of calls is in flight or waits.
    pub(crate) async fn until_calls(&self, count: usize) {
        let calls = || format!("{:?}", self.endpoint).matches("Call {").count();
        wait_until_async(&format!("{count} calls"), async || calls() == count).await;
    }

    /// Returns a client after its handshake.
    pub(crate) async fn client(&self) -> Client {
        self.client_of(None).await
    }

    pub(crate) async fn client_of(&self, allocation: Option<u64>) -> Client {
        let mut client = Client { port: self.port, headers: Vec::new() };
        if let Some(allocation) = allocation {
            client.headers.push(("authorization".to_owned(), format!("Bearer token-{allocation}")));
        }
        let params =
            json!({"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}});
        let opened = client.ask(json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})).await;
        assert_eq!(opened.json()["result"]["protocolVersion"], "2025-03-26", "{opened:?}");
        let session = opened.head.header("mcp-session-id").expect("a session").to_owned();
        client.headers.push(("mcp-session-id".to_owned(), session));
        let answer = client.ask(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        assert_eq!((answer.head.status, answer.text.as_str()), (202, ""));
        client
    }
}

/// A client with a session. Each request has its own connection.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) port: u16,
    pub(crate) headers: Vec<(String, String)>,
}

impl Client {
    pub(crate) fn session(&self) -> &str {
        &self.headers.iter().find(|(name, _)| name == "mcp-session-id").expect("a session").1
    }

    pub(crate) fn headers(&self) -> Vec<(&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    /// Sends a message without reading the response.
    pub(crate) async fn send(&self, message: Value) -> Http {
        let mut http = Http::connect(self.port).await;
        http.send("POST", "/mcp", &self.headers(), &message.to_string()).await;
        http
    }

    pub(crate) async fn ask(&self, message: Value) -> Response {
        self.send(message).await.response().await
    }

    /// Sends a request without reading the response.
    pub(crate) async fn call(&self, id: impl Into<Value>, method: &str, params: Value) -> Http {
        self.send(json!({"jsonrpc": "2.0", "id": id.into(), "method": method, "params": params})).await
    }

    /// Opens the stream of the session.
    pub(crate) async fn listen(&self) -> Events {
        let mut http = Http::connect(self.port).await;
        http.send("GET", "/mcp", &self.headers(), "").await;
        let events = http.events().await;
        assert_eq!(events.head.status, 200, "{:?}", events.head);
        assert_eq!(events.head.header("content-type"), Some("text/event-stream"));
        events
    }
}
