//! The client of one HTTP request, and the requests without a body.

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

/// The client of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller<'a> {
    pub(crate) endpoint: &'a Arc<Endpoint>,
    pub(crate) allocation: Option<AllocationId>,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) accepted: Accepted,
    /// Until when its calls wait for a child that is not ready.
    pub(crate) until: tokio::time::Instant,
}

impl Caller<'_> {
    /// Returns the memory budget of this client's lease.
    pub(crate) fn memory(&self) -> LeaseMemory {
        self.endpoint.memory_budget.for_lease(self.allocation)
    }

    /// Returns a 503 response for a reached limit, and counts it as an error.
    pub(crate) fn over_limit(&self, why: &str) -> HttpResponse {
        self.endpoint.multiplexer().usages.add_error(self.allocation, 0);
        http_response::service_unavailable(why)
    }

    /// Returns the protocol version that the headers name, and its mode; `None` if they name none.
    ///
    /// # Errors
    /// Returns a version that is not supported.
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

    /// Returns the session that the headers name, and marks it as used.
    ///
    /// # Errors
    /// The headers name no session, or one that is not this allocation's.
    pub(crate) fn session(&self) -> Result<SessionId, Box<HttpResponse>> {
        let Some(header) = self.headers.get(SESSION_HEADER) else {
            let why = "the Mcp-Session-Id header is missing: send initialize first, then the id from its response";
            return Err(Box::new(http_response::error(StatusCode::BAD_REQUEST, why)));
        };
        let not_found = || {
            let why = "session not found: it has ended or never existed; send initialize";
            Box::new(http_response::error(StatusCode::NOT_FOUND, why))
        };
        let id = header.to_str().ok().and_then(SessionId::parse).ok_or_else(not_found)?;
        let mut multiplexer = self.endpoint.multiplexer();
        let session = multiplexer.sessions.by_id.get_mut(&id).filter(|session| session.allocation == self.allocation);
        session.ok_or_else(not_found)?.used_at = std::time::Instant::now();
        Ok(id)
    }

    /// Returns the session of a request without a body, after its version is checked.
    fn session_without_body(&self) -> Result<SessionId, Box<HttpResponse>> {
        match self.version() {
            Err(version) => {
                let why = format!("MCP-Protocol-Version {version} is not supported");
                Err(Box::new(http_response::error(StatusCode::BAD_REQUEST, &why)))
            }
            Ok(Some((version, ProtocolMode::Stateless))) => {
                let why = format!("{version} has no sessions: send everything with POST");
                Err(Box::new(http_response::method_not_allowed("POST", &why)))
            }
            Ok(_) => self.session(),
        }
    }

    /// Opens the event stream of a session.
    pub(crate) fn listen(&self) -> HttpResponse {
        let id = match self.session_without_body() {
            Ok(id) => id,
            Err(rejection) => return *rejection,
        };
        if !self.accepted.stream {
            return http_response::error(
                StatusCode::NOT_ACCEPTABLE,
                "the Accept header must include text/event-stream",
            );
        }
        let mailbox = Mailbox::for_client(self.memory());
        match self.endpoint.multiplexer().sessions.by_id.get_mut(&id) {
            Some(session) if session.stream.is_none() => session.stream = Some(Arc::clone(&mailbox)),
            _ => return http_response::error(StatusCode::CONFLICT, "this session already has a stream"),
        }
        let guard = StreamGuard { endpoint: Arc::clone(self.endpoint), mailbox, owner: StreamOwner::Session(id) };
        http_response::event_stream(ResponseStream::Notifications(guard).into_events(None))
    }

    pub(crate) fn end_session(&self) -> HttpResponse {
        match self.session_without_body() {
            Ok(id) => {
                self.endpoint.multiplexer().end_session(id);
                http_response::empty(StatusCode::NO_CONTENT)
            }
            Err(rejection) => *rejection,
        }
    }
}
