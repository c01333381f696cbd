//! The server as a child process, spoken to line by line. Each line that it writes is checked to be a JSON-RPC 2.0 message.

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

use super::{END_LIMIT, HANG, wait_for, wait_within};
use cortex_test_support::schema;

/// What stands between the client and the server.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Transport {
    /// Two pipes, as a shell or a Python client gives.
    Pipes,
    /// One end of a socket pair as both standard input and output, as a Node client gives.
    SocketPair,
}

/// Both of them, for tests that have to hold on each.
pub(crate) const TRANSPORTS: [Transport; 2] = [Transport::Pipes, Transport::SocketPair];

/// A running server. It is killed when this is dropped.
pub(crate) struct Server {
    child: Child,
    input: Option<Box<dyn Write + Send>>,
    messages: Receiver<Value>,
    /// Messages that came while another one was waited for.
    kept: Vec<Value>,
    log: Arc<Mutex<String>>,
    output_schemas: BTreeMap<String, Value>,
    last_id: u64,
}

/// The binary under test, with nothing of the tester's environment that it would listen to.
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
    /// A server that has been greeted, and whose answers are checked against its own output schemas.
    pub(crate) fn ready(arguments: &[&str]) -> Self {
        Self::ready_on(Transport::Pipes, arguments)
    }

    /// The same on either transport.
    pub(crate) fn ready_on(transport: Transport, arguments: &[&str]) -> Self {
        let mut server = Self::start_on(transport, command(arguments));
        server.greet("2025-11-25");
        server.learn_schemas();
        server
    }

    /// A server that nothing has been said to.
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
                // The command holds the server's end: only when it is gone does the end of the server show here.
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

    /// A server over streams of the test's own; its standard error, if it is a pipe, is left unread.
    pub(crate) fn new(child: Child, input: Box<dyn Write + Send>, output: impl Read + Send + 'static) -> Self {
        let (sender, messages) = channel();
        thread::spawn(move || {
            let (mut output, mut line) = (BufReader::new(output), Vec::new());
            // A last line without its end is none: a process that ends while nobody reads cannot finish it.
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

    /// The process id.
    pub(crate) fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// What the server has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("no panic while writing").clone()
    }

    /// Writes bytes as they are.
    pub(crate) fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let input = self.input.as_mut().expect("an open input");
        input.write_all(bytes.as_ref()).and_then(|()| input.flush()).expect("a server that reads");
    }

    /// Writes bytes and ends the line.
    pub(crate) fn write_line(&mut self, line: impl AsRef<[u8]>) {
        self.write([line.as_ref(), b"\n"].concat());
    }

    /// Takes the input away, to write to it from elsewhere.
    pub(crate) fn take_input(&mut self) -> Box<dyn Write + Send> {
        self.input.take().expect("an open input")
    }

    /// Ends the server's input.
    pub(crate) fn close_input(&mut self) {
        self.input = None;
    }

    /// An id that no earlier request had.
    pub(crate) fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Sends a request, and gives the id to wait for.
    pub(crate) fn send(&mut self, method: &str, params: &Value) -> u64 {
        let id = self.new_id();
        self.write_line(request(id, method, params));
        id
    }

    /// Sends a request and waits for its reply.
    pub(crate) fn ask(&mut self, method: &str, params: &Value) -> Value {
        let id = self.send(method, params);
        self.reply(id)
    }

    /// The reply to a request: the whole message.
    pub(crate) fn reply(&mut self, id: impl Into<Value>) -> Value {
        let id = id.into();
        self.find(&format!("the reply to {id}"), |message| message.get("method").is_none() && message["id"] == id)
    }

    /// The next message that `wanted` accepts; others are kept for later.
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

    /// The next message that has not been waited for, or none at the end of the output.
    pub(crate) fn next(&mut self) -> Option<Value> {
        match self.messages.recv_timeout(HANG) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("the server is silent\n{}", self.log()),
        }
    }

    /// How many of the messages that came so far and nobody has asked for are like this.
    pub(crate) fn count_kept(&self, wanted: impl Fn(&Value) -> bool) -> usize {
        self.kept.iter().filter(|message| wanted(message)).count()
    }

    /// Everything up to the end of the output that nobody has asked for.
    pub(crate) fn rest(&mut self) -> Vec<Value> {
        let mut rest = std::mem::take(&mut self.kept);
        while let Some(message) = self.next() {
            rest.push(message);
        }
        rest
    }

    /// The handshake of the older protocol versions; gives the answer to it.
    pub(crate) fn greet(&mut self, version: &str) -> Value {
        let client = json!({"name": "test", "version": "1"});
        let params = json!({"protocolVersion": version, "capabilities": {}, "clientInfo": client});
        let reply = self.ask("initialize", &params);
        self.write_line(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string());
        reply["result"].clone()
    }

    /// The tools, as listed. From now on each answer is checked against its tool's output schema.
    pub(crate) fn learn_schemas(&mut self) -> Vec<Value> {
        let reply = self.ask("tools/list", &json!({}));
        let tools = reply["result"]["tools"].as_array().expect("a list of tools").clone();
        for tool in &tools {
            let name = tool["name"].as_str().expect("a name");
            self.output_schemas.insert(name.to_owned(), tool["outputSchema"].clone());
        }
        tools
    }

    /// Calls a tool; gives the result, or panics if the reply is an error of the protocol.
    pub(crate) fn call(&mut self, tool: &str, arguments: &Value) -> Value {
        let reply = self.ask("tools/call", &json!({"name": tool, "arguments": arguments}));
        reply.get("result").unwrap_or_else(|| panic!("{tool} {arguments} is answered with {reply}")).clone()
    }

    /// Calls a tool that answers; gives the answer, which text and structure agree on, and which fits the tool's schema.
    pub(crate) fn answer(&mut self, tool: &str, arguments: &Value) -> Value {
        let result = self.call(tool, arguments);
        self.check_answer(tool, &result)
    }

    /// Checks that a result is an answer, and gives it.
    pub(crate) fn check_answer(&self, tool: &str, result: &Value) -> Value {
        assert_ne!(result["isError"], true, "{tool}: {result}");
        let answer = result["structuredContent"].clone();
        assert!(answer.is_object(), "{tool}: {result}");
        assert_eq!(only_text(result), answer, "the text is the same JSON");
        schema::check(&self.output_schemas[tool], &answer);
        answer
    }

    /// Calls a tool that answers with an error for the model; gives its text. It carries no structure, which clients would check
    /// against the output schema.
    pub(crate) fn error(&mut self, tool: &str, arguments: &Value) -> String {
        let result = self.call(tool, arguments);
        assert_eq!(result["isError"], true, "{tool} {arguments}: {result}");
        assert_eq!(result.get("structuredContent"), None, "{tool} {arguments}: {result}");
        let text = only_text(&result);
        assert_eq!(text["status"], "error", "{tool} {arguments}: {result}");
        text["error"].as_str().expect("an error's text").to_owned()
    }

    /// Asks for resources, which have to be granted; gives the allocation's id.
    pub(crate) fn grant(&mut self, arguments: &Value) -> String {
        let answer = self.answer("request_resources", arguments);
        assert_eq!(answer["status"], "active", "{arguments}: {answer}");
        answer["allocation_id"].as_str().expect("an id").to_owned()
    }

    /// Reads an allocation back.
    pub(crate) fn allocation(&mut self, id: &str) -> Value {
        self.answer("get_allocation", &json!({"allocation_id": id}))
    }

    /// Reads the capacity.
    pub(crate) fn capacity(&mut self) -> Value {
        self.answer("get_capacity", &json!({}))
    }

    /// Waits until the allocation is past its deadline.
    pub(crate) fn wait_until_expired(&mut self, id: &str) {
        wait_for("the deadline", || (self.allocation(id)["is_expired"] == true).then_some(()));
    }

    /// Sends a signal, by its name without SIG.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.process_id().to_string()]).status();
        assert!(sent.expect("kill is there").success());
    }

    /// The status of the process, which has to be gone within a second from now.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let end = || self.child.try_wait().expect("a child to wait for");
        wait_within(END_LIMIT, end).unwrap_or_else(|| panic!("still running after {END_LIMIT:?}\n{}", self.log()))
    }

    /// Checks that the process is gone within a second, with code 0.
    pub(crate) fn check_end(&mut self) {
        let status = self.end();
        assert_eq!(status.code(), Some(0), "{status}\n{}", self.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Either fails only if the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The parameters of a request in protocol version 2026-07-28, where each request says by itself what the handshake once said.
pub(crate) fn modern(mut params: Value) -> Value {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {}
    });
    params
}

/// A request as a line without its end.
pub(crate) fn request(id: u64, method: &str, params: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string()
}

/// A tool call as a line without its end.
pub(crate) fn call(id: u64, tool: &str, arguments: &Value) -> String {
    request(id, "tools/call", &json!({"name": tool, "arguments": arguments}))
}

/// The cancelling of a request as a line without its end.
pub(crate) fn cancel(id: u64) -> String {
    json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}}).to_string()
}

/// The one text of a result, as the JSON that it is.
fn only_text(result: &Value) -> Value {
    let content = result["content"].as_array().expect("content");
    assert_eq!(content.len(), 1, "{result}");
    assert_eq!(content[0]["type"], "text", "{result}");
    serde_json::from_str(content[0]["text"].as_str().expect("a text")).expect("a text that is JSON")
}

/// A line of the server's output, which has to be one JSON-RPC 2.0 message.
fn message(line: &[u8]) -> Value {
    let shown = String::from_utf8_lossy(line);
    let message: Value = serde_json::from_slice(line).unwrap_or_else(|error| panic!("{shown:?} is no JSON: {error}"));
    assert_eq!(message["jsonrpc"], "2.0", "{shown}");
    let one_of = ["method", "result", "error"].into_iter().filter(|key| message.get(key).is_some()).count();
    assert_eq!(one_of, 1, "{shown}");
    assert!(message.get("method").is_some() || message.get("id").is_some(), "{shown}");
    message
}

/// The writing half of a socket. Dropping it ends the server's input, which closing this descriptor alone would not do.
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
        // Fails only if the server's end is gone already.
        let _ = self.0.shutdown(std::net::Shutdown::Write);
    }
}
