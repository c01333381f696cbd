//! The client side of the demo: the manager over standard input and output, and a leased server over HTTP.

use anyhow::{Context, bail, ensure};
use cortex_util::program;
use serde_json::{Value, json};
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// The protocol version that the demo speaks.
const PROTOCOL_VERSION: &str = "2025-11-25";

/// The longest wait for an answer of a leased server.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);

/// The manager as a child process. It is ended when this is dropped.
pub(super) struct Manager {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    last_id: u64,
}

impl Manager {
    /// Starts this program as a server and greets it. Settings of the environment do not apply.
    pub(super) fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(program::path());
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CORTEX_")) {
            command.env_remove(name);
        }
        let mut child = command
            .args(arguments)
            .args(["--log-level", "warn"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the manager could not be started")?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("the manager has no standard output")?;
        let mut manager = Self { child, input, output: BufReader::new(output), last_id: 0 };
        manager.request("initialize", &greeting())?;
        manager.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))?;
        Ok(manager)
    }

    /// Calls a tool and returns its structured result.
    ///
    /// # Errors
    /// The manager ended, or the tool answered with an error, whose text is the message.
    pub(super) fn call(&mut self, tool: &str, arguments: Value) -> anyhow::Result<Value> {
        let result = self.request("tools/call", &json!({"name": tool, "arguments": arguments}))?;
        structured(tool, &result)
    }

    /// Ends the manager in order: it stops when its input ends.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        self.input = None;
        let status = self.child.wait().context("the manager cannot be waited for")?;
        ensure!(status.success(), "the manager ended with {status}");
        Ok(())
    }

    fn request(&mut self, method: &str, params: &Value) -> anyhow::Result<Value> {
        self.last_id += 1;
        let id = self.last_id;
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))?;
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.output.read_line(&mut line).context("the manager cannot be read")?;
            ensure!(read > 0, "the manager ended: its last lines are on standard error");
            let message: Value = serde_json::from_str(&line).context("the manager wrote a line that is not JSON")?;
            if message["id"] == id {
                return result_of(message);
            }
        }
    }

    fn send(&mut self, message: &Value) -> anyhow::Result<()> {
        let input = self.input.as_mut().context("the manager is stopped")?;
        writeln!(input, "{message}").context("the manager ended")
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // After `stop` the process is gone already and neither call does anything.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A leased MCP server, reached over HTTP with the token of one lease.
pub(super) struct Endpoint {
    pub(super) url: String,
    token: String,
    session: Option<String>,
    agent: ureq::Agent,
}

impl Endpoint {
    /// Opens a session.
    pub(super) fn connect(url: &str, token: &str) -> anyhow::Result<Self> {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(ANSWER_WAIT_MAX))
            .proxy(None)
            .build()
            .new_agent();
        let mut endpoint = Self { url: url.to_owned(), token: token.to_owned(), session: None, agent };
        let response =
            endpoint.post(&json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": greeting()}))?;
        ensure!(response.status().is_success(), "{url} answered with HTTP status {}", response.status());
        let session = response.headers().get("mcp-session-id").context("the endpoint opened no session")?;
        endpoint.session = Some(session.to_str().context("the session id is not text")?.to_owned());
        endpoint.post(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))?;
        Ok(endpoint)
    }

    /// Calls a tool and returns its structured result.
    pub(super) fn call_tool(&self, tool: &str, arguments: &Value) -> anyhow::Result<Value> {
        let params = json!({"name": tool, "arguments": arguments});
        let mut response = self.post(&json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}))?;
        ensure!(response.status().is_success(), "{} answered with HTTP status {}", self.url, response.status());
        let body = response.body_mut().read_to_string().context("the answer cannot be read")?;
        // The answer is one JSON object, or a stream of events that ends with it.
        let json = body.lines().rev().find_map(|line| line.strip_prefix("data:")).unwrap_or(&body);
        let message = serde_json::from_str(json).with_context(|| format!("{tool} answered {body:?}"))?;
        structured(tool, &result_of(message)?)
    }

    /// Returns the HTTP status of a ping.
    pub(super) fn status(&self) -> anyhow::Result<u16> {
        Ok(self.post(&json!({"jsonrpc": "2.0", "id": 3, "method": "ping"}))?.status().as_u16())
    }

    fn post(&self, message: &Value) -> anyhow::Result<ureq::http::Response<ureq::Body>> {
        let mut request = self
            .agent
            .post(&self.url)
            .header("Authorization", format!("Bearer {}", self.token))
            .header("Content-Type", "application/json")
            .header("Accept", "application/json, text/event-stream")
            .header("MCP-Protocol-Version", PROTOCOL_VERSION);
        if let Some(session) = &self.session {
            request = request.header("Mcp-Session-Id", session);
        }
        request.send(message.to_string()).with_context(|| format!("{} cannot be reached", self.url))
    }
}

fn greeting() -> Value {
    let client = json!({"name": "demo", "version": program::VERSION});
    json!({"protocolVersion": PROTOCOL_VERSION, "capabilities": {}, "clientInfo": client})
}

/// Returns the result of a JSON-RPC answer, or its error as one.
fn result_of(mut message: Value) -> anyhow::Result<Value> {
    if let Some(error) = message.get("error") {
        bail!("the answer is an error: {error}");
    }
    Ok(message["result"].take())
}

/// Returns the structured content of a tool's result, or its text as an error.
fn structured(tool: &str, result: &Value) -> anyhow::Result<Value> {
    let content = result.get("structuredContent");
    content.cloned().with_context(|| format!("{tool} answered {}", result["content"][0]["text"]))
}
