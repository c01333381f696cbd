//! Why the daemon refuses a session.

use std::fmt;

use thiserror::Error;

use super::{handshake::PROTOCOL, listener::SESSIONS_MAX, protocol_mismatch};
use cortex_util::program;

/// Why the daemon refuses a session. `stop` is the command that stops the daemon.
#[derive(Debug, Error)]
pub(super) enum Refusal {
    #[error("{}", protocol_mismatch(*protocol, version, PROTOCOL, program::VERSION, stop))]
    OtherProtocol { protocol: u32, version: String, stop: String },
    #[error("the handshake has no valid session settings: {0}")]
    InvalidSettings(serde_json::Error),
    /// The session's totals differ from those of the state. A state on disk can be changed with `--resize yes`.
    #[error(
        "{difference}: omit {}, or stop the daemon with `{stop}` and start again{}",
        difference.key,
        if *is_durable { " with --resize yes" } else { "" }
    )]
    OtherTotal { difference: Difference, stop: String, is_durable: bool },
    /// The session was given other managed servers or workers, which the daemon would not run.
    #[error(
        "{difference}: omit {}, or end the other sessions, stop the daemon with `{stop}`, and start again",
        difference.key
    )]
    OtherProvisioning { difference: Difference, stop: String },
    #[error("the daemon does not support the toolset {name:?}")]
    UnknownToolset { name: String },
    #[error("the session's limits are 0: give 1 or more")]
    ZeroLimit,
    #[error("the session's {key} is {value}: give {max} or less")]
    OverLimit { key: &'static str, value: usize, max: usize },
    #[error("{state} already has {SESSIONS_MAX} sessions, the maximum: end one first")]
    TooManySessions { state: String },
}

/// A setting that was given to a session and is another one in the daemon.
#[derive(Debug)]
pub(super) struct Difference {
    pub(super) key: &'static str,
    pub(super) given: String,
    pub(super) actual: String,
    /// The state of the daemon, in words.
    pub(super) state: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, given, actual, state } = self;
        write!(formatter, "{key} is {given}, but {actual} in the daemon for {state}")
    }
}
