//! The running child as its endpoint knows it: what is to be written to it, and what it was told.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use serde_json::{Map, Value};
use tokio::sync::Notify;

use super::{level::Level, mailbox::Mailbox, version::Era};

/// How much may wait to be written before calls have to wait.
pub(crate) const OUT_BYTES_MAX: usize = 4 << 20;

/// How much may wait to be written before the bridge's own messages are dropped: the child reads nothing.
const OUT_BYTES_LIMIT: usize = 16 << 20;

/// Hears of lines that were no JSON-RPC, and of answers that nobody asked for.
pub type Garbage = Box<dyn Fn(&str) + Send + Sync>;

/// What a child said of itself at its start.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) era: Era,
    /// The version that it speaks.
    pub(crate) version: String,
    /// Its answer to `initialize`, or one made of what it said to `server/discover`.
    pub(crate) result: Map<String, Value>,
}

impl About {
    /// Whether it has a capability, such as `/resources/subscribe`.
    pub(crate) fn can(&self, pointer: &str) -> bool {
        let value = self.result.get("capabilities").and_then(|capabilities| capabilities.pointer(pointer));
        value.is_some_and(|value| *value != Value::Bool(false) && !value.is_null())
    }
}

/// A child, from its start to its end.
pub(crate) struct Child {
    /// Which of the endpoint's children it is.
    pub(crate) generation: u64,
    /// What is to be written.
    out: Vec<u8>,
    /// How much of it is being written.
    writing: usize,
    pub(crate) writer: Arc<Notify>,
    /// What it said of itself; nothing while it starts.
    pub(crate) about: Option<Arc<About>>,
    /// The bridge's own questions to it.
    pub(crate) own: BTreeMap<u64, Arc<Mailbox>>,
    /// The resources that it was asked to tell of.
    pub(crate) subscribed: BTreeSet<Arc<str>>,
    /// The level that it was told.
    pub(crate) level: Option<Level>,
    /// The request by which it tells of changes, where there are no subscriptions.
    pub(crate) listening: Option<u64>,
    pub(crate) garbage: Garbage,
}

impl fmt::Debug for Child {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Child").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl Child {
    pub(crate) fn new(generation: u64, garbage: Garbage) -> Self {
        Self {
            generation,
            out: Vec::new(),
            writing: 0,
            writer: Arc::new(Notify::new()),
            about: None,
            own: BTreeMap::new(),
            subscribed: BTreeSet::new(),
            level: None,
            listening: None,
            garbage,
        }
    }

    /// Whether calls may be written now.
    pub(crate) fn has_room(&self) -> bool {
        self.out.len() + self.writing < OUT_BYTES_MAX
    }

    /// Has one message written. Whether it will be: a child that reads nothing is not written to for ever.
    pub(crate) fn write(&mut self, text: &[u8]) -> bool {
        if self.out.len() + self.writing > OUT_BYTES_LIMIT {
            (self.garbage)("the server does not read its standard input: a message to it was dropped");
            return false;
        }
        self.push(text);
        true
    }

    /// Has a call written, for which there was room.
    pub(crate) fn push(&mut self, text: &[u8]) {
        if self.out.is_empty() {
            self.writer.notify_one();
        }
        self.out.extend_from_slice(text);
        self.out.push(b'\n');
    }

    /// Gives everything that is to be written to the writer, who brings an empty buffer.
    pub(crate) fn take_out(&mut self, empty: Vec<u8>) -> Vec<u8> {
        let out = std::mem::replace(&mut self.out, empty);
        self.writing = out.len();
        out
    }
}
