//! The client of one HTTP request: its authentication and limits, and its requests without a body.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, StatusCode, request::Parts},
    response::{IntoResponse, Response},
};

use super::{
    accepted::Accepted,
    auth::{self, AuthError},
    connections::Connection,
    http_response,
    response_stream::{ResponseStream, StreamGuard, StreamOwner},
};
use crate::bridge::{
    endpoint::Endpoint,
    limits::{connection_permits::CONNECTIONS_MAX, fair_share, memory_budget::LeaseMemory},
    mux::{mailbox::Mailbox, multiplexer::LEASE_ENDED, protocol::ProtocolMode, session::SessionId},
};
use cortex_core::ids::AllocationId;

pub(crate) const SESSION_HEADER: &str = "mcp-session-id";
const VERSION_HEADER: &str = "mcp-protocol-version";

/// The client of one request.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) allocation: Option<AllocationId>,
    pub(crate) headers: HeaderMap,
    pub(crate) accepted: Accepted,
    /// Until when its calls wait for a child that is not ready.
    pub(crate) until: tokio::time::Instant,
}

impl FromRequestParts<Connection> for Caller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, connection: &Connection) -> Result<Self, Response> {
        let Connection { endpoint, permit } = connection;
        let bearer = auth::bearer_token(&parts.headers);
        let authenticated = endpoint.authenticator.authenticate(bearer).await;
        let allocation = authenticated.map_err(|AuthError(why)| http_response::unauthorized(&why))?;
        {
            let mut multiplexer = endpoint.multiplexer();
            if !multiplexer.usages.admit(allocation) {
                return Err(match multiplexer.usages.is_ended(allocation) {
                    true => http_response::unauthorized(LEASE_ENDED),
                    false => {
                        http_response::service_unavailable("too many allocations use this server: try again later")
                    }
                });
            }
        }
        if let Err(held) = permit.assign(allocation) {
            endpoint.multiplexer().usages.add_error(allocation, 0);
            let remedy = "close some, or reuse open ones";
            let why = fair_share::limit_reached("connections", allocation.map(|_| held), CONNECTIONS_MAX, remedy);
            return Err(http_response::closing(http_response::service_unavailable(&why)));
        }
        Ok(Self {
            allocation,
            accepted: Accepted::from_headers(&parts.headers),
            until: endpoint.start_deadline(),
            headers: std::mem::take(&mut parts.headers),
            endpoint: Arc::clone(endpoint),
        })
    }
}

impl Caller {
    /// Returns the memory budget of this client's lease.
    pub(crate) fn memory(&self) -> LeaseMemory {
        self.endpoint.memory_budget.for_lease(self.allocation)
    }

    /// Returns a 503 response for a reached limit, and counts it as an error.
    pub(crate) fn over_limit(&self, why: &str) -> Response {
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
    pub(crate) fn session(&self) -> Result<SessionId, Box<Response>> {
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
    fn session_without_body(&self) -> Result<SessionId, Box<Response>> {
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
    pub(crate) fn listen(&self) -> Response {
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
        let guard = StreamGuard { endpoint: Arc::clone(&self.endpoint), mailbox, owner: StreamOwner::Session(id) };
        http_response::event_stream(ResponseStream::Notifications(guard).into_events(None))
    }

    pub(crate) fn end_session(&self) -> Response {
        match self.session_without_body() {
            Ok(id) => {
                self.endpoint.multiplexer().end_session(id);
                StatusCode::NO_CONTENT.into_response()
            }
            Err(rejection) => *rejection,
        }
    }
}
