//! The running child as its endpoint knows it: what is to be written to it, and what it was told.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use serde_json::{Map, Value};
use tokio::sync::Notify;

use super::{log_level::LogLevel, mailbox::Mailbox, protocol::ProtocolMode};

/// How much may wait to be written before calls have to wait.
pub(crate) const OUT_BYTES_MAX: usize = 4 << 20;

/// How much may wait to be written before the bridge's own messages are dropped: the child reads nothing.
const OUT_BYTES_LIMIT: usize = 16 << 20;

/// Hears of lines that were no JSON-RPC, and of answers that nobody asked for.
pub type InvalidOutputHandler = Box<dyn Fn(&str) + Send + Sync>;

/// What a child said of itself at its start.
#[derive(Debug)]
pub(crate) struct ChildInfo {
    pub(crate) mode: ProtocolMode,
    /// The version that it speaks.
    pub(crate) version: String,
    /// Its answer to `initialize`, or one made of what it said to `server/discover`.
    pub(crate) result: Map<String, Value>,
}

impl ChildInfo {
    /// Whether it has a capability, such as `/resources/subscribe`.
    pub(crate) fn has_capability(&self, pointer: &str) -> bool {
        let value = self.result.get("capabilities").and_then(|capabilities| capabilities.pointer(pointer));
        value.is_some_and(|value| *value != Value::Bool(false) && !value.is_null())
    }
}

/// A child, from its start to its end.
pub(crate) struct ConnectedChild {
    /// Which of the endpoint's children it is.
    pub(crate) generation: u64,
    /// What is to be written.
    write_buffer: Vec<u8>,
    /// How much of it is being written.
    writing_bytes: usize,
    pub(crate) writer_wakeup: Arc<Notify>,
    /// What it said of itself; nothing while it starts.
    pub(crate) info: Option<Arc<ChildInfo>>,
    /// The bridge's own questions to it.
    pub(crate) own_requests: BTreeMap<u64, Arc<Mailbox>>,
    /// The resources that it was asked to tell of.
    pub(crate) subscribed: BTreeSet<Arc<str>>,
    /// The level that it was told.
    pub(crate) log_level: Option<LogLevel>,
    /// The request by which it tells of changes, where there are no subscriptions.
    pub(crate) listen_request: Option<u64>,
    pub(crate) on_invalid_output: InvalidOutputHandler,
}

impl fmt::Debug for ConnectedChild {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ConnectedChild").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl ConnectedChild {
    pub(crate) fn new(generation: u64, on_invalid_output: InvalidOutputHandler) -> Self {
        Self {
            generation,
            write_buffer: Vec::new(),
            writing_bytes: 0,
            writer_wakeup: Arc::new(Notify::new()),
            info: None,
            own_requests: BTreeMap::new(),
            subscribed: BTreeSet::new(),
            log_level: None,
            listen_request: None,
            on_invalid_output,
        }
    }

    /// Whether calls may be written now.
    pub(crate) fn can_accept_calls(&self) -> bool {
        self.write_buffer.len() + self.writing_bytes < OUT_BYTES_MAX
    }

    /// Has one message written. Whether it will be: a child that reads nothing is not written to for ever.
    pub(crate) fn write(&mut self, text: &[u8]) -> bool {
        if self.write_buffer.len() + self.writing_bytes > OUT_BYTES_LIMIT {
            (self.on_invalid_output)("the server does not read its standard input: a message to it was dropped");
            return false;
        }
        self.push_call(text);
        true
    }

    /// Has a call written, for which there was room.
    pub(crate) fn push_call(&mut self, text: &[u8]) {
        if self.write_buffer.is_empty() {
            self.writer_wakeup.notify_one();
        }
        self.write_buffer.extend_from_slice(text);
        self.write_buffer.push(b'\n');
    }

    /// Gives everything that is to be written to the writer, who brings an empty buffer.
    pub(crate) fn take_write_buffer(&mut self, empty: Vec<u8>) -> Vec<u8> {
        let write_buffer = std::mem::replace(&mut self.write_buffer, empty);
        self.writing_bytes = write_buffer.len();
        write_buffer
    }
}
