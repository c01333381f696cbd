//! The server as a child process that communicates in lines. Each line that it writes is checked to be a JSON-RPC 2.0
//! message.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
};

use serde_json::{Value, json};

use super::{END_LIMIT, WAIT_MAX, wait_until, wait_within};
use cortex_test_support::schema;

/// The connection between the client and the server.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Transport {
    /// Two pipes, as a shell or a Python client uses.
    Pipes,
    /// One end of a socket pair as both standard input and output, as a Node client uses.
    SocketPair,
}

/// Both transports, for tests that must pass on each.
pub(crate) const TRANSPORTS: [Transport; 2] = [Transport::Pipes, Transport::SocketPair];

/// A running server. Dropping it kills it.
pub(crate) struct Server {
    child: Child,
    input: Option<Box<dyn Write + Send>>,
    messages: Receiver<Value>,
    /// Messages that were received while another one was awaited.
    kept: Vec<Value>,
    log: Arc<Mutex<String>>,
    output_schemas: BTreeMap<String, Value>,
    last_id: u64,
}

/// Returns a command for the binary under test without the settings of the environment.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cortex-resource-manager"));
    command.args(arguments).current_dir(env!("CARGO_TARGET_TMPDIR"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CORTEX_") {
            command.env_remove(name);
        }
    }
    command
}

impl Server {
    /// Starts a server and completes the handshake. Its answers are checked against its output schemas.
    pub(crate) fn ready(arguments: &[&str]) -> Self {
        Self::ready_on(Transport::Pipes, arguments)
    }

    /// Does the same on either transport.
    pub(crate) fn ready_on(transport: Transport, arguments: &[&str]) -> Self {
        let mut server = Self::start_on(transport, command(arguments));
        server.greet("2025-11-25");
        server.learn_schemas();
        server
    }

    /// Starts a server without a handshake.
    pub(crate) fn start_on(transport: Transport, mut command: Command) -> Self {
        command.stderr(Stdio::piped());
        let mut server = match transport {
            Transport::Pipes => {
                let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the binary");
                let input = child.stdin.take().expect("a pipe");
                let output = child.stdout.take().expect("a pipe");
                Self::new(child, Box::new(input), output)
            }
            Transport::SocketPair => {
                let (ours, theirs) = UnixStream::pair().expect("a socket pair");
                let output = theirs.try_clone().expect("a second descriptor");
                let child =
                    command.stdin(OwnedFd::from(theirs)).stdout(OwnedFd::from(output)).spawn().expect("the binary");
                // The command keeps the server's end open. The end of the server is visible here only after the command
                // is dropped.
                drop(command);
                let input = SocketInput(ours.try_clone().expect("a second descriptor"));
                Self::new(child, Box::new(input), ours)
            }
        };
        let mut stderr = server.child.stderr.take().expect("a pipe");
        let log = Arc::clone(&server.log);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stderr.read(&mut buffer) {
                log.lock().expect("no panic while writing").push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        server
    }

    /// Returns a server over streams of the test. Its standard error is not read if it is a pipe.
    pub(crate) fn new(child: Child, input: Box<dyn Write + Send>, output: impl Read + Send + 'static) -> Self {
        let (sender, messages) = channel();
        thread::spawn(move || {
            let (mut output, mut line) = (BufReader::new(output), Vec::new());
            // An incomplete last line is ignored: a process that ends while its output is not read cannot complete it.
            while output.read_until(b'\n', &mut line).is_ok() && line.pop() == Some(b'\n') {
                if sender.send(message(&line)).is_err() {
                    return;
                }
                line.clear();
            }
        });
        Self {
            child,
            input: Some(input),
            messages,
            kept: Vec::new(),
            log: Arc::default(),
            output_schemas: BTreeMap::new(),
            last_id: 0,
        }
    }

    /// Returns the process id.
    pub(crate) fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the log so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("no panic while writing").clone()
    }

    /// Writes bytes unchanged.
    pub(crate) fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let input = self.input.as_mut().expect("an open input");
        input.write_all(bytes.as_ref()).and_then(|()| input.flush()).expect("a server that reads");
    }

    /// Writes bytes and a line end.
    pub(crate) fn write_line(&mut self, line: impl AsRef<[u8]>) {
        self.write([line.as_ref(), b"\n"].concat());
    }

    /// Removes and returns the input, to write to it from elsewhere.
    pub(crate) fn take_input(&mut self) -> Box<dyn Write + Send> {
        self.input.take().expect("an open input")
    }

    /// Closes the input of the server.
    pub(crate) fn close_input(&mut self) {
        self.input = None;
    }

    /// Returns a new request id.
    pub(crate) fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Sends a request and returns its id.
    pub(crate) fn send(&mut self, method: &str, params: &Value) -> u64 {
        let id = self.new_id();
        self.write_line(request(id, method, params));
        id
    }

    /// Sends a request and returns its reply.
    pub(crate) fn ask(&mut self, method: &str, params: &Value) -> Value {
        let id = self.send(method, params);
        self.reply(id)
    }

    /// Returns the reply to a request: the whole message.
    pub(crate) fn reply(&mut self, id: impl Into<Value>) -> Value {
        let id = id.into();
        self.find(&format!("the reply to {id}"), |message| message.get("method").is_none() && message["id"] == id)
    }

    /// Returns the next message that `wanted` accepts, and keeps the others for later.
    pub(crate) fn find(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        if let Some(index) = self.kept.iter().position(&wanted) {
            return self.kept.remove(index);
        }
        loop {
            let message = self.next().unwrap_or_else(|| panic!("the output ended before {what}\n{}", self.log()));
            if wanted(&message) {
                return message;
            }
            self.kept.push(message);
        }
    }

    /// Returns the next message that was not read yet; `None` at the end of the output.
    pub(crate) fn next(&mut self) -> Option<Value> {
        match self.messages.recv_timeout(WAIT_MAX) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("the server is silent\n{}", self.log()),
        }
    }

    /// Returns the number of received and unread messages that match.
    pub(crate) fn count_kept(&self, wanted: impl Fn(&Value) -> bool) -> usize {
        self.kept.iter().filter(|message| wanted(message)).count()
    }

    /// Returns all unread messages up to the end of the output.
    pub(crate) fn rest(&mut self) -> Vec<Value> {
        let mut rest = std::mem::take(&mut self.kept);
        while let Some(message) = self.next() {
            rest.push(message);
        }
        rest
    }

    /// Performs the handshake of the older protocol versions, and returns its answer.
    pub(crate) fn greet(&mut self, version: &str) -> Value {
        let client = json!({"name": "test", "version": "1"});
        let params = json!({"protocolVersion": version, "capabilities": {}, "clientInfo": client});
        let reply = self.ask("initialize", &params);
        self.write_line(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string());
        reply["result"].clone()
    }

    /// Lists the tools. From now on each answer is checked against the output schema of its tool.
    pub(crate) fn learn_schemas(&mut self) -> Vec<Value> {
        let reply = self.ask("tools/list", &json!({}));
        let tools = reply["result"]["tools"].as_array().expect("a list of tools").clone();
        for tool in &tools {
            let name = tool["name"].as_str().expect("a name");
            self.output_schemas.insert(name.to_owned(), tool["outputSchema"].clone());
        }
        tools
    }

    /// Calls a tool and returns its result. Panics if the reply is an error of the protocol.
    pub(crate) fn call(&mut self, tool: &str, arguments: &Value) -> Value {
        let reply = self.ask("tools/call", &json!({"name": tool, "arguments": arguments}));
        reply.get("result").unwrap_or_else(|| panic!("{tool} {arguments} is answered with {reply}")).clone()
    }

    /// Calls a tool that succeeds, and returns its answer. Checks that text and structure agree, and that they match
    /// the schema.
    pub(crate) fn answer(&mut self, tool: &str, arguments: &Value) -> Value {
        let result = self.call(tool, arguments);
        self.check_answer(tool, &result)
    }

    /// Checks that a result is a success, and returns its answer.
    pub(crate) fn check_answer(&self, tool: &str, result: &Value) -> Value {
        assert_ne!(result["isError"], true, "{tool}: {result}");
        let answer = result["structuredContent"].clone();
        assert!(answer.is_object(), "{tool}: {result}");
        assert_eq!(only_text(result), answer, "the text is the same JSON");
        schema::check(&self.output_schemas[tool], &answer);
        answer
    }

    /// Calls a tool that fails with an error for the model, and returns its text. The error has no structured content,
    /// because clients would check it against the output schema.
    pub(crate) fn error(&mut self, tool: &str, arguments: &Value) -> String {
        let result = self.call(tool, arguments);
        assert_eq!(result["isError"], true, "{tool} {arguments}: {result}");
        assert_eq!(result.get("structuredContent"), None, "{tool} {arguments}: {result}");
        let text = only_text(&result);
        assert_eq!(text["status"], "error", "{tool} {arguments}: {result}");
        text["error"].as_str().expect("an error's text").to_owned()
    }

    /// Requests resources that must be granted, and returns the id of the allocation.
    pub(crate) fn grant(&mut self, arguments: &Value) -> String {
        let answer = self.answer("request_resources", arguments);
        assert_eq!(answer["status"], "active", "{arguments}: {answer}");
        answer["allocation_id"].as_str().expect("an id").to_owned()
    }

    /// Reads an allocation.
    pub(crate) fn allocation(&mut self, id: &str) -> Value {
        self.answer("get_allocation", &json!({"allocation_id": id}))
    }

    /// Reads the capacity.
    pub(crate) fn capacity(&mut self) -> Value {
        self.answer("get_capacity", &json!({}))
    }

    /// Waits until the allocation has expired.
    pub(crate) fn wait_until_expired(&mut self, id: &str) {
        wait_until("the deadline", || self.allocation(id)["is_expired"] == true);
    }

    /// Sends a signal, given by its name without SIG.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.process_id().to_string()]).status();
        assert!(sent.expect("kill is there").success());
    }

    /// Returns the status of the process, which must end within a second.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let end = || self.child.try_wait().expect("a child to wait for");
        wait_within(END_LIMIT, end).unwrap_or_else(|| panic!("still running after {END_LIMIT:?}\n{}", self.log()))
    }

    /// Checks that the process ends within a second, with code 0.
    pub(crate) fn check_end(&mut self) {
        let status = self.end();
        assert_eq!(status.code(), Some(0), "{status}\n{}", self.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the parameters of a request in protocol version 2026-07-28, in which each request contains the data of the
/// former handshake.
pub(crate) fn modern(mut params: Value) -> Value {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {}
    });
    params
}

/// Returns a request as a line without its end.
pub(crate) fn request(id: u64, method: &str, params: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string()
}

/// Returns a tool call as a line without its end.
pub(crate) fn call(id: u64, tool: &str, arguments: &Value) -> String {
    request(id, "tools/call", &json!({"name": tool, "arguments": arguments}))
}

/// Returns the cancellation of a request as a line without its end.
pub(crate) fn cancel(id: u64) -> String {
    json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}}).to_string()
}

/// Returns the single text of a result, parsed as JSON.
fn only_text(result: &Value) -> Value {
    let content = result["content"].as_array().expect("content");
    assert_eq!(content.len(), 1, "{result}");
    assert_eq!(content[0]["type"], "text", "{result}");
    serde_json::from_str(content[0]["text"].as_str().expect("a text")).expect("a text that is JSON")
}

/// Parses a line of the server's output, which must be one JSON-RPC 2.0 message.
fn message(line: &[u8]) -> Value {
    let shown = String::from_utf8_lossy(line);
    let message: Value = serde_json::from_slice(line).unwrap_or_else(|error| panic!("{shown:?} is no JSON: {error}"));
    assert_eq!(message["jsonrpc"], "2.0", "{shown}");
    let one_of = ["method", "result", "error"].into_iter().filter(|key| message.get(key).is_some()).count();
    assert_eq!(one_of, 1, "{shown}");
    assert!(message.get("method").is_some() || message.get("id").is_some(), "{shown}");
    message
}

/// The writing half of a socket. Dropping it ends the input of the server, which closing this descriptor alone does
/// not.
struct SocketInput(UnixStream);

impl Write for SocketInput {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

impl Drop for SocketInput {
    fn drop(&mut self) {
        // Fails only if the server's end is already closed.
        let _ = self.0.shutdown(std::net::Shutdown::Write);
    }
}
