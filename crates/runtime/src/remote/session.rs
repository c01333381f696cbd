//! The MCP session of the probes of one server.

use cortex_util::program;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::http::{ProbeFailure, Target};
use super::reply::ProbeReply;

/// The protocol version that is offered.
const VERSION: &str = "2025-11-25";

/// The time limit for deleting a session.
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(2);

const METHOD_NOT_FOUND: i64 = -32601;

/// The statuses of a server that no longer knows a session, or that requires one.
const NO_SESSION: [u16; 2] = [404, 400];

/// A session that the server has initialized.
pub(super) struct ProbeSession {
    /// The session id, if the server assigned one.
    pub(super) id: Option<String>,
    /// The negotiated protocol version.
    pub(super) version: String,
    /// The method of the probe's requests: `ping`, or `tools/list` for a server without it.
    method: &'static str,
    /// The id of the last request.
    last_request: u64,
}

/// The result of a check.
pub(super) struct ProbeResult {
    /// The session for the next check, if there is one.
    pub(super) session: Option<ProbeSession>,
    pub(super) health: Result<(), ProbeFailure>,
}

impl ProbeResult {
    /// Sends a request in the session. Without one, or if the server has dropped it, opens one.
    pub(super) fn of(target: &Target, session: Option<ProbeSession>, until: Instant) -> Self {
        if let Some(mut session) = session {
            match session.probe(target, until) {
                Err(ProbeFailure::Status(status)) if NO_SESSION.contains(&status) => {}
                health => return Self { session: Some(session), health },
            }
        }
        match ProbeSession::open(target, until) {
            Ok(session) => Self { session, health: Ok(()) },
            Err(failure) => Self { session: None, health: Err(failure) },
        }
    }
}

impl ProbeSession {
    /// Opens a session. Returns none if the server refuses with an MCP error, as one does that supports only later
    /// versions.
    fn open(target: &Target, until: Instant) -> Result<Option<Self>, ProbeFailure> {
        let params = json!({
            "protocolVersion": VERSION,
            "capabilities": {},
            "clientInfo": {"name": program::NAME, "version": program::VERSION},
        });
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
        let (reply, id) = match target.post(&request, None, until)? {
            (ProbeReply::Result(result), id) => (result, id),
            (ProbeReply::Error { .. }, _) => return Ok(None),
            (ProbeReply::None, _) => return Err(ProbeFailure::NoMessage),
        };
        let version = reply["protocolVersion"].as_str().unwrap_or(VERSION).to_owned();
        let session = Self { id, version, method: "ping", last_request: 1 };
        // The server has answered and so is healthy, even if it refuses the notification.
        let notice = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        if let Err(failure) = target.post(&notice, Some(&session), until) {
            tracing::debug!(?failure, "remote server refused notifications/initialized");
        }
        Ok(Some(session))
    }

    /// Sends a request. Any reply shows that the server is healthy.
    fn probe(&mut self, target: &Target, until: Instant) -> Result<(), ProbeFailure> {
        loop {
            self.last_request += 1;
            let request: Value = json!({"jsonrpc": "2.0", "id": self.last_request, "method": self.method});
            return match target.post(&request, Some(self), until)?.0 {
                ProbeReply::Error { code: METHOD_NOT_FOUND } if self.method == "ping" => {
                    self.method = "tools/list";
                    continue;
                }
                ProbeReply::Result(_) | ProbeReply::Error { .. } => Ok(()),
                ProbeReply::None => Err(ProbeFailure::NoMessage),
            };
        }
    }

    /// Deletes the session at the server, if it has an id.
    pub(super) fn end(&self, target: &Target) {
        if self.id.is_some()
            && let Err(failure) = target.delete(self, Instant::now() + END_TIMEOUT)
        {
            tracing::debug!(?failure, "session at a remote server was not deleted");
        }
    }
}
