//! The connected child: the bytes to write to it, its pending requests, and its subscriptions.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use serde_json::{Map, Value};
use tokio::sync::Notify;

use super::{log_level::LogLevel, mailbox::Mailbox, protocol::ProtocolMode};

/// The most bytes that may wait to be written while calls are sent. Beyond that, calls wait in the queue.
pub(crate) const CALL_BUFFER_BYTES_MAX: usize = 4 << 20;

/// The most bytes that may wait to be written. Beyond that, the child does not read its input, and the bridge's own
/// messages are dropped.
const WRITE_BUFFER_BYTES_MAX: usize = 16 << 20;

/// Receives lines that are not JSON-RPC, and responses to unknown requests.
pub type InvalidOutputHandler = Box<dyn Fn(&str) + Send + Sync>;

/// What a child reported in its handshake.
#[derive(Debug)]
pub(crate) struct ChildInfo {
    pub(crate) mode: ProtocolMode,
    /// Its protocol version.
    pub(crate) version: String,
    /// Its result of `initialize`, or an equivalent of its result of `server/discover`.
    pub(crate) result: Map<String, Value>,
}

impl ChildInfo {
    /// Returns whether it has a capability, given as a JSON pointer such as `/resources/subscribe`.
    pub(crate) fn has_capability(&self, pointer: &str) -> bool {
        let value = self.result.get("capabilities").and_then(|capabilities| capabilities.pointer(pointer));
        value.is_some_and(|value| *value != Value::Bool(false) && !value.is_null())
    }
}

/// A child, from its start until it is lost or replaced.
pub(crate) struct ConnectedChild {
    /// The sequence number of the child at its endpoint.
    pub(crate) generation: u64,
    /// The bytes that wait to be written.
    write_buffer: Vec<u8>,
    /// The number of bytes that the writer has taken and is writing.
    writing_bytes: usize,
    pub(crate) writer_wakeup: Arc<Notify>,
    /// What it reported in its handshake; `None` until then.
    pub(crate) info: Option<Arc<ChildInfo>>,
    /// The pending requests of the bridge itself, by number.
    pub(crate) own_requests: BTreeMap<u64, Arc<Mailbox>>,
    /// The resources that the bridge has subscribed to.
    pub(crate) subscribed: BTreeSet<Arc<str>>,
    /// The log level that the bridge has set.
    pub(crate) log_level: Option<LogLevel>,
    /// The pending `subscriptions/listen` request to a stateless child.
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

    /// Returns whether calls may be sent now.
    pub(crate) fn can_accept_calls(&self) -> bool {
        self.write_buffer.len() + self.writing_bytes < CALL_BUFFER_BYTES_MAX
    }

    /// Queues a message of the bridge itself. Returns false if the child does not read its input, so that the message
    /// was dropped.
    pub(crate) fn write(&mut self, text: &[u8]) -> bool {
        if self.write_buffer.len() + self.writing_bytes > WRITE_BUFFER_BYTES_MAX {
            (self.on_invalid_output)("message dropped: the server does not read its standard input");
            return false;
        }
        self.push_call(text);
        true
    }

    /// Queues a call. The caller has checked [`Self::can_accept_calls`].
    pub(crate) fn push_call(&mut self, text: &[u8]) {
        if self.write_buffer.is_empty() {
            self.writer_wakeup.notify_one();
        }
        self.write_buffer.extend_from_slice(text);
        self.write_buffer.push(b'\n');
    }

    /// Takes everything that waits to be written, in exchange for an empty buffer.
    pub(crate) fn take_write_buffer(&mut self, empty: Vec<u8>) -> Vec<u8> {
        let write_buffer = std::mem::replace(&mut self.write_buffer, empty);
        self.writing_bytes = write_buffer.len();
        write_buffer
    }
}
