//! The client behind one HTTP request.

use std::sync::Arc;

use hyper::{HeaderMap, StatusCode};

use super::{
    accepted::Accepted,
    http_response::{self, HttpResponse},
    response_stream::{ResponseStream, StreamGuard, StreamOwner},
};
use crate::bridge::{
    endpoint::Endpoint,
    limits::memory_budget::LeaseMemory,
    mux::{mailbox::Mailbox, protocol::ProtocolMode, session::SessionId},
};
use cortex_core::ids::AllocationId;

pub(crate) const SESSION_HEADER: &str = "mcp-session-id";
const VERSION_HEADER: &str = "mcp-protocol-version";

/// Who asks, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller<'a> {
    pub(crate) endpoint: &'a Arc<Endpoint>,
    pub(crate) allocation: Option<AllocationId>,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) accepted: Accepted,
    /// Until when it waits for a child that is not up.
    pub(crate) until: tokio::time::Instant,
}

impl Caller<'_> {
    /// Whose messages these are, for the account of the endpoint.
    pub(crate) fn memory(&self) -> LeaseMemory {
        self.endpoint.memory_budget.for_lease(self.allocation)
    }

    /// A refusal for want of room, which is counted.
    pub(crate) fn over_limit(&self, why: &str) -> HttpResponse {
        self.endpoint.multiplexer().usages.add_error(self.allocation, 0);
        http_response::service_unavailable(why)
    }

    /// How the headers say that the client speaks; nothing where they do not.
    ///
    /// # Errors
    /// The version is not known.
    pub(crate) fn version(&self) -> Result<Option<(&str, ProtocolMode)>, String> {
        let Some(version) = self.headers.get(VERSION_HEADER) else {
            return Ok(None);
        };
        let version = version.to_str().unwrap_or("?");
        match ProtocolMode::of_version(version) {
            Some(mode) => Ok(Some((version, mode))),
            None => Err(version.chars().take(64).collect()),
        }
    }

    /// The session that the headers name.
    ///
    /// # Errors
    /// They name none, or none of this allocation.
    pub(crate) fn session(&self) -> Result<SessionId, Box<HttpResponse>> {
        let Some(named) = self.headers.get(SESSION_HEADER) else {
            let why = "the Mcp-Session-Id header is missing: send initialize first, and then what it answered with";
            return Err(Box::new(http_response::error(StatusCode::BAD_REQUEST, why)));
        };
        let unknown = || {
            let why = "there is no such session: it has ended, or was never there; send initialize";
            Box::new(http_response::error(StatusCode::NOT_FOUND, why))
        };
        let id = named.to_str().ok().and_then(SessionId::parse).ok_or_else(unknown)?;
        let mut multiplexer = self.endpoint.multiplexer();
        let session = multiplexer.sessions.by_id.get_mut(&id).filter(|session| session.allocation == self.allocation);
        session.ok_or_else(unknown)?.used_at = std::time::Instant::now();
        Ok(id)
    }

    /// Checks what a request without a body must say, and gives its session.
    fn session_alone(&self) -> Result<SessionId, Box<HttpResponse>> {
        match self.version() {
            Err(version) => {
                let why = format!("MCP-Protocol-Version {version} is not known");
                Err(Box::new(http_response::error(StatusCode::BAD_REQUEST, &why)))
            }
            Ok(Some((version, ProtocolMode::Stateless))) => {
                let why = format!("{version} has no sessions: everything is sent with POST");
                Err(Box::new(http_response::method_not_allowed("POST", &why)))
            }
            Ok(_) => self.session(),
        }
    }

    /// Opens the stream of a session.
    pub(crate) fn listen(&self) -> HttpResponse {
        let id = match self.session_alone() {
            Ok(id) => id,
            Err(refusal) => return *refusal,
        };
        if !self.accepted.stream {
            return http_response::error(StatusCode::NOT_ACCEPTABLE, "the Accept header must have text/event-stream");
        }
        let mailbox = Mailbox::of(self.memory());
        match self.endpoint.multiplexer().sessions.by_id.get_mut(&id) {
            Some(session) if session.stream.is_none() => session.stream = Some(Arc::clone(&mailbox)),
            _ => return http_response::error(StatusCode::CONFLICT, "this session has a stream already"),
        }
        let guard = StreamGuard { endpoint: Arc::clone(self.endpoint), mailbox, owner: StreamOwner::Stream(id) };
        http_response::event_stream(ResponseStream::Notices(guard).into_events(None))
    }

    pub(crate) fn end_session(&self) -> HttpResponse {
        match self.session_alone() {
            Ok(id) => {
                self.endpoint.multiplexer().end_session(id);
                http_response::empty(StatusCode::NO_CONTENT)
            }
            Err(refusal) => *refusal,
        }
    }
}
