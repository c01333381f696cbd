//! A session that may be killed, disconnected or silent at any time. Each of these is a result here, not a panic.
//!
//! Received lines carry the time at which they were read, for tests that reason about time.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{WAIT_MAX, durable::is_retryable, server, wait_within};

/// The delay before a call is repeated, so that many sessions that wait for one daemon do not slow its start.
const RETRY_PAUSE: Duration = Duration::from_millis(2);

/// A session with its own process. Dropping it kills the process.
pub(crate) struct Session {
    child: Child,
    input: Option<ChildStdin>,
    messages: Receiver<(Instant, Value)>,
    log: Arc<Mutex<String>>,
    last_id: u64,
}

/// The result of waiting for a reply.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reply {
    /// The answer of the tool.
    Answer(Value),
    /// The effect of the call is unknown, and the call is retryable.
    Retry(Value),
    /// The tool or the protocol refused the call.
    Error(Value),
}

/// The reason why there was no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    /// The output has ended.
    Ended,
    /// There was no reply in time.
    Silent,
}

/// A reply with its request and the time at which it was read.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) id: u64,
    pub(crate) at: Instant,
    pub(crate) reply: Reply,
}

impl Session {
    /// Starts a session without a handshake.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary");
        let (sender, messages) = channel();
        let output = child.stdout.take().expect("a pipe");
        thread::spawn(move || {
            let (mut output, mut line) = (BufReader::new(output), Vec::new());
            // An incomplete last line is ignored: a killed process cannot complete it.
            while output.read_until(b'\n', &mut line).is_ok() && line.pop() == Some(b'\n') {
                let at = Instant::now();
                let message = serde_json::from_slice(&line)
                    .unwrap_or_else(|error| panic!("{error} in {:?}", String::from_utf8_lossy(&line)));
                if sender.send((at, message)).is_err() {
                    return;
                }
                line.clear();
            }
        });
        let log = Arc::<Mutex<String>>::default();
        let (mut errors, kept) = (child.stderr.take().expect("a pipe"), Arc::clone(&log));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = errors.read(&mut buffer) {
                kept.lock().expect("no panic while writing").push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        let input = child.stdin.take();
        Self { child, input, messages, log, last_id: 0 }
    }

    /// Performs the handshake, which must be answered in time. An error as answer counts as a failed handshake.
    pub(crate) fn greet(&mut self, limit: Duration) -> Result<(), Gone> {
        let client = json!({"name": "test", "version": "1"});
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client});
        let id = self.next_id();
        self.write(&server::request(id, "initialize", &params));
        let reply = self.receive(limit)?;
        if let Reply::Error(message) | Reply::Retry(message) = &reply.reply
            && message.get("error").is_some()
        {
            return Err(Gone::Ended);
        }
        self.write(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string());
        Ok(())
    }

    /// Returns the process id.
    pub(crate) fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the log so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("no panic while writing").clone()
    }

    /// Calls a tool without waiting, and returns the id of the request.
    pub(crate) fn send(&mut self, tool: &str, arguments: &Value) -> u64 {
        let id = self.next_id();
        self.write(&server::call(id, tool, arguments));
        id
    }

    /// Returns the next reply to any request, and skips notifications.
    pub(crate) fn receive(&mut self, limit: Duration) -> Result<Received, Gone> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (at, message) = self.messages.recv_timeout(left).map_err(|error| match error {
                RecvTimeoutError::Disconnected => Gone::Ended,
                RecvTimeoutError::Timeout => Gone::Silent,
            })?;
            if let Some(id) = message["id"].as_u64() {
                return Ok(Received { id, at, reply: Reply::of(&message) });
            }
        }
    }

    /// Calls a tool and returns its reply. No other call may be in flight.
    pub(crate) fn call(&mut self, tool: &str, arguments: &Value, limit: Duration) -> Result<Reply, Gone> {
        let id = self.send(tool, arguments);
        let received = self.receive(limit)?;
        assert_eq!(received.id, id, "nothing else was in flight: {received:?}");
        Ok(received.reply)
    }

    /// Repeats a call until its effect is known.
    pub(crate) fn insist(&mut self, tool: &str, arguments: &Value, limit: Duration) -> Result<Reply, Gone> {
        let deadline = Instant::now() + limit;
        loop {
            match self.call(tool, arguments, limit)? {
                Reply::Retry(_) if Instant::now() < deadline => thread::sleep(RETRY_PAUSE),
                reply => return Ok(reply),
            }
        }
    }

    /// Calls a tool that must answer.
    pub(crate) fn answer(&mut self, tool: &str, arguments: &Value) -> Value {
        match self.insist(tool, arguments, WAIT_MAX) {
            Ok(Reply::Answer(answer)) => answer,
            other => panic!("{tool} {arguments}: {other:?}\n{}", self.log()),
        }
    }

    /// Closes the input, so that the process ends.
    pub(crate) fn close_input(&mut self) {
        self.input = None;
    }

    /// Closes the input, and waits for the end of the process.
    pub(crate) fn finish(mut self) -> ExitStatus {
        self.close_input();
        let status = wait_within(WAIT_MAX, || self.child.try_wait().expect("a child to wait for"));
        status.unwrap_or_else(|| panic!("still running\n{}", self.log()))
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// The process may have ended. The error appears when its reply is awaited.
    fn write(&mut self, line: &str) {
        if let Some(input) = &mut self.input {
            let _ = input.write_all(format!("{line}\n").as_bytes());
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Both fail only if the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Reply {
    fn of(message: &Value) -> Self {
        let result = &message["result"];
        if is_retryable(message) {
            Self::Retry(message.clone())
        } else if message.get("error").is_some() || result["isError"] == true {
            Self::Error(message.clone())
        } else {
            Self::Answer(result.get("structuredContent").unwrap_or(result).clone())
        }
    }

    /// Returns the answer, if the outcome is one.
    pub(crate) fn answer(self) -> Option<Value> {
        match self {
            Self::Answer(answer) => Some(answer),
            Self::Retry(_) | Self::Error(_) => None,
        }
    }
}
