//! A client's request that waits for the child or is in flight.

use std::{sync::Arc, time::Instant};

use super::{log_level::LogLevel, mailbox::Mailbox, protocol::ProtocolMode, session::SessionId};
use cortex_core::ids::AllocationId;

/// Whether a result must have cache hints, because clients of 2026-07-28 may cache it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CacheHints {
    Omit,
    Add,
}

/// A client's request.
#[derive(Debug)]
pub(crate) struct Call {
    /// Its id and progress token at the child.
    pub(crate) number: u64,
    /// The text that is sent to the child.
    pub(crate) text: Vec<u8>,
    /// The client's id, as JSON.
    pub(crate) client_id: Box<str>,
    /// The client's progress token, as JSON.
    pub(crate) progress_token: Option<Box<str>>,
    pub(crate) session: Option<SessionId>,
    pub(crate) allocation: Option<AllocationId>,
    /// The protocol mode of the client.
    pub(crate) mode: ProtocolMode,
    pub(crate) cache_hints: CacheHints,
    /// The resource that the call subscribes its session to, if it succeeds.
    pub(crate) subscribes: Option<Arc<str>>,
    /// The lowest level of log messages that a client without a session receives during the call.
    pub(crate) level: Option<LogLevel>,
    /// Receives the response. `None` until the call is submitted.
    pub(crate) mailbox: Option<Arc<Mailbox>>,
    /// When the call was sent to the child.
    pub(crate) sent_at: Option<Instant>,
}

#[cfg(test)]
impl Call {
    /// Returns a call without content, for tests.
    pub(crate) fn for_test(allocation: Option<AllocationId>, number: u64) -> Self {
        Self {
            number,
            text: Vec::new(),
            client_id: "1".into(),
            progress_token: None,
            session: None,
            allocation,
            mode: ProtocolMode::Handshake,
            cache_hints: CacheHints::Omit,
            subscribes: None,
            level: None,
            mailbox: None,
            sent_at: None,
        }
    }
}
