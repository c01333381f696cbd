//! The client behind one HTTP request.

use std::sync::Arc;

use hyper::{HeaderMap, StatusCode};

use super::{
    accepted::Accepted,
    flow::{Flow, Hold, Place},
    reply::{self, Reply},
};
use crate::bridge::{
    endpoint::Endpoint,
    limits::account::Holder,
    mux::{mailbox::Mailbox, session::SessionId, version::Era},
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
    pub(crate) fn holder(&self) -> Holder {
        self.endpoint.account.holder(self.allocation)
    }

    /// A refusal for want of room, which is counted.
    pub(crate) fn crowded(&self, why: &str) -> Reply {
        self.endpoint.exchange().usages.add_error(self.allocation, 0);
        reply::crowded(why)
    }

    /// How the headers say that the client speaks; nothing where they do not.
    ///
    /// # Errors
    /// The version is not known.
    pub(crate) fn version(&self) -> Result<Option<(&str, Era)>, String> {
        let Some(version) = self.headers.get(VERSION_HEADER) else {
            return Ok(None);
        };
        let version = version.to_str().unwrap_or("?");
        match Era::of(version) {
            Some(era) => Ok(Some((version, era))),
            None => Err(version.chars().take(64).collect()),
        }
    }

    /// The session that the headers name.
    ///
    /// # Errors
    /// They name none, or none of this allocation.
    pub(crate) fn session(&self) -> Result<SessionId, Box<Reply>> {
        let Some(named) = self.headers.get(SESSION_HEADER) else {
            let why = "the Mcp-Session-Id header is missing: send initialize first, and then what it answered with";
            return Err(Box::new(reply::refusal(StatusCode::BAD_REQUEST, why)));
        };
        let unknown = || {
            let why = "there is no such session: it has ended, or was never there; send initialize";
            Box::new(reply::refusal(StatusCode::NOT_FOUND, why))
        };
        let id = named.to_str().ok().and_then(SessionId::parse).ok_or_else(unknown)?;
        let mut exchange = self.endpoint.exchange();
        let session = exchange.sessions.by_id.get_mut(&id).filter(|session| session.allocation == self.allocation);
        session.ok_or_else(unknown)?.used_at = std::time::Instant::now();
        Ok(id)
    }

    /// Checks what a request without a body must say, and gives its session.
    fn session_alone(&self) -> Result<SessionId, Box<Reply>> {
        match self.version() {
            Err(version) => {
                let why = format!("MCP-Protocol-Version {version} is not known");
                Err(Box::new(reply::refusal(StatusCode::BAD_REQUEST, &why)))
            }
            Ok(Some((version, Era::Stateless))) => {
                let why = format!("{version} has no sessions: everything is sent with POST");
                Err(Box::new(reply::not_allowed("POST", &why)))
            }
            Ok(_) => self.session(),
        }
    }

    /// Opens the stream of a session.
    pub(crate) fn listen(&self) -> Reply {
        let id = match self.session_alone() {
            Ok(id) => id,
            Err(refusal) => return *refusal,
        };
        if !self.accepted.stream {
            return reply::refusal(StatusCode::NOT_ACCEPTABLE, "the Accept header must have text/event-stream");
        }
        let mailbox = Mailbox::of(self.holder());
        match self.endpoint.exchange().sessions.by_id.get_mut(&id) {
            Some(session) if session.stream.is_none() => session.stream = Some(Arc::clone(&mailbox)),
            _ => return reply::refusal(StatusCode::CONFLICT, "this session has a stream already"),
        }
        let hold = Hold { endpoint: Arc::clone(self.endpoint), mailbox, place: Place::Stream(id) };
        reply::event_stream(Flow::Notices(hold).into_events(None))
    }

    pub(crate) fn end_session(&self) -> Reply {
        match self.session_alone() {
            Ok(id) => {
                self.endpoint.exchange().end_session(id);
                reply::empty(StatusCode::NO_CONTENT)
            }
            Err(refusal) => *refusal,
        }
    }
}
