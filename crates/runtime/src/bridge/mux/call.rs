//! One request of a client on its way to the child, and the table of all of them.
//!
//! Invariants: each has a number of its own, by which the child knows it; at most so many as the server takes are at the
//! child, and of one allocation no more than its share of them; and each leaves the table once.

use std::{sync::Arc, time::Instant};

use super::{log_level::LogLevel, mailbox::Mailbox, protocol::ProtocolMode, session::SessionId};
use cortex_core::ids::AllocationId;

/// Whether clients of 2026-07-28 may keep the result, so that it must say for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CacheHints {
    Not,
    WithHints,
}

/// A request of a client.
#[derive(Debug)]
pub(crate) struct Call {
    /// Its id at the child, and its progress token there.
    pub(crate) number: u64,
    /// What the child is given.
    pub(crate) text: Vec<u8>,
    /// The id that the client gave, as JSON.
    pub(crate) client_id: Box<str>,
    /// The progress token that the client gave, as JSON.
    pub(crate) progress_token: Option<Box<str>>,
    pub(crate) session: Option<SessionId>,
    pub(crate) allocation: Option<AllocationId>,
    /// How the client speaks.
    pub(crate) mode: ProtocolMode,
    pub(crate) cache_hints: CacheHints,
    /// The resource that its session hears of if this succeeds.
    pub(crate) subscribes: Option<Arc<str>>,
    /// The least grave messages that a client without a session wants while this runs.
    pub(crate) level: Option<LogLevel>,
    /// Where the answer goes. None while nobody may answer it.
    pub(crate) mailbox: Option<Arc<Mailbox>>,
    /// When the child was given it.
    pub(crate) sent_at: Option<Instant>,
}

#[cfg(test)]
impl Call {
    /// A call that asks nothing, for tests.
    pub(crate) fn of(allocation: Option<AllocationId>, number: u64) -> Self {
        Self {
            number,
            text: Vec::new(),
            client_id: "1".into(),
            progress_token: None,
            session: None,
            allocation,
            mode: ProtocolMode::Handshake,
            cache_hints: CacheHints::Not,
            subscribes: None,
            level: None,
            mailbox: None,
            sent_at: None,
        }
    }
}
