//! One session with a server: how it is opened, asked in, and ended.

use cortex_util::program;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::answer::Reply;
use super::exchange::{Failure, Target};

/// The version that is offered.
const VERSION: &str = "2025-11-25";

/// How long the end of a session may take to be told.
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(2);

const METHOD_NOT_FOUND: i64 = -32601;

/// What a server answers that knows a session no more, or wants one where there is none.
const NO_SESSION: [u16; 2] = [404, 400];

/// What the server said when it was first spoken to.
pub(super) struct Session {
    /// The server's id for it, if it gave one.
    pub(super) id: Option<String>,
    /// The version that is spoken.
    pub(super) version: String,
    /// What is asked to see whether the server lives.
    question: &'static str,
    /// The id of the last request.
    last_request: u64,
}

/// What a check found.
pub(super) struct Checked {
    /// The session for the next check, if there is one.
    pub(super) session: Option<Session>,
    pub(super) health: Result<(), Failure>,
}

impl Checked {
    /// Asks within the session; without one, or if the server has forgotten it, opens one.
    pub(super) fn now(target: &Target, session: Option<Session>, until: Instant) -> Self {
        if let Some(mut session) = session {
            match session.ask(target, until) {
                Err(Failure::Status(status)) if NO_SESSION.contains(&status) => {}
                health => return Self { session: Some(session), health },
            }
        }
        match Session::open(target, until) {
            Ok(session) => Self { session, health: Ok(()) },
            Err(failure) => Self { session: None, health: Err(failure) },
        }
    }
}

impl Session {
    /// Opens a session; nothing if the server answers that it will have none, as one that speaks only later versions does.
    fn open(target: &Target, until: Instant) -> Result<Option<Self>, Failure> {
        let params = json!({
            "protocolVersion": VERSION,
            "capabilities": {},
            "clientInfo": {"name": program::NAME, "version": program::VERSION},
        });
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
        let (reply, id) = match target.post(&request, None, until)? {
            (Reply::Result(result), id) => (result, id),
            (Reply::Error { .. }, _) => return Ok(None),
            (Reply::None, _) => return Err(Failure::NoMessage),
        };
        let version = reply["protocolVersion"].as_str().unwrap_or(VERSION).to_owned();
        let session = Self { id, version, question: "ping", last_request: 1 };
        // It has answered, and so is healthy whatever it makes of the notice.
        let notice = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        if let Err(failure) = target.post(&notice, Some(&session), until) {
            tracing::debug!(?failure, "a server elsewhere did not take the notice that it is spoken to");
        }
        Ok(Some(session))
    }

    /// Asks whether the server lives. Any answer to a question says that it does.
    fn ask(&mut self, target: &Target, until: Instant) -> Result<(), Failure> {
        loop {
            self.last_request += 1;
            let request: Value = json!({"jsonrpc": "2.0", "id": self.last_request, "method": self.question});
            return match target.post(&request, Some(self), until)?.0 {
                Reply::Error { code: METHOD_NOT_FOUND } if self.question == "ping" => {
                    self.question = "tools/list";
                    continue;
                }
                Reply::Result(_) | Reply::Error { .. } => Ok(()),
                Reply::None => Err(Failure::NoMessage),
            };
        }
    }

    /// Tells the server that the session has ended, if it counts them.
    pub(super) fn end(&self, target: &Target) {
        if self.id.is_some()
            && let Err(failure) = target.delete(self, Instant::now() + END_TIMEOUT)
        {
            tracing::debug!(?failure, "a server elsewhere was not told of the end of its session");
        }
    }
}
