//! The handshake on the daemon's socket: one line of JSON each way. After a session is accepted, the lines are MCP
//! messages.
//!
//! Every version of this program understands `ask`, `protocol` and `state` of a [`HandshakeRequest`], and `protocol`,
//! `version`, `pid`, `other_state` and `refused` of a [`HandshakeResponse`]. This distinguishes versions, and lets any
//! version stop the daemon of any other. A daemon does nothing for a request that means another state than its own.

use cortex_util::program;
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use tokio::{
    io::{AsyncRead, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use cortex_lines::{Line, LineBuffer};

/// The version of the socket's protocol.
pub(super) const PROTOCOL: u32 = 1;

/// The maximum length of the first line, in bytes.
const HANDSHAKE_BYTES_MAX: usize = 65_536;

/// How long each side waits for the first line of the other.
pub(super) const HANDSHAKE_WAIT_MAX: Duration = Duration::from_secs(5);

/// The last line of a daemon that was stopped on purpose. It is not JSON-RPC, so that no reply equals it.
pub(super) const SHUTDOWN_NOTICE: &[u8] = b"{\"goodbye\":true}";

/// What a connection requests from the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Purpose {
    Session,
    Status,
    Stop,
}

/// The first line of the connecting process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct HandshakeRequest {
    pub(super) protocol: u32,
    pub(super) version: String,
    pub(super) ask: Purpose,
    /// The canonical path of the state, or nothing for the in-memory state. The daemon checks it, since the path of the
    /// socket may come from a copied file, and lead to the daemon of another state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) state: Option<PathBuf>,
    /// The session's own settings: [`SessionSettings`](super::settings::SessionSettings) in this version of the
    /// protocol. Only for a session.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub(super) session: Value,
    /// Settings of the daemon that were given to the session, by key; strings in this version of the protocol.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub(super) given: Map<String, Value>,
}

/// The first line of the daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct HandshakeResponse {
    pub(super) protocol: u32,
    pub(super) version: String,
    pub(super) pid: u32,
    /// A unique id of the daemon process.
    #[serde(default)]
    pub(super) instance: String,
    /// Whether the request means another state than the daemon's, so that nothing was done.
    #[serde(default)]
    pub(super) other_state: bool,
    /// The reason why the daemon refuses the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) refused: Option<String>,
    /// Warnings for the session's log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) warnings: Vec<String>,
    /// The status, if requested: a [`Status`](super::status::Status) in this version of the protocol.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub(super) status: Value,
}

impl HandshakeRequest {
    pub(super) fn new(ask: Purpose, state: Option<&Path>) -> Self {
        let version = program::VERSION.to_owned();
        Self {
            protocol: PROTOCOL,
            version,
            ask,
            state: state.map(Path::to_owned),
            session: Value::Null,
            given: Map::new(),
        }
    }
}

/// Reads the first line of the other side. Further bytes stay in `lines`.
pub(super) async fn read<T: DeserializeOwned>(
    reader: &mut (impl AsyncRead + Unpin),
    lines: &mut LineBuffer,
) -> io::Result<T> {
    let reading = async {
        loop {
            match lines.next_line() {
                Line::Text(line) => return Ok(serde_json::from_slice(line)?),
                Line::TooLong { bytes, .. } => {
                    return Err(io::Error::other(format!("the first line is too long: {bytes} bytes")));
                }
                Line::End => return Err(io::ErrorKind::UnexpectedEof.into()),
                Line::Incomplete => {}
            }
            std::future::poll_fn(|context| lines.poll_fill(reader, context)).await;
        }
    };
    timeout(HANDSHAKE_WAIT_MAX, reading).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Creates a buffer for a first line.
pub(super) fn buffer() -> LineBuffer {
    LineBuffer::new(HANDSHAKE_BYTES_MAX)
}

/// Writes the first line of this side.
pub(super) async fn write(stream: &mut UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    timeout(HANDSHAKE_WAIT_MAX, stream.write_all(&line)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_is_read_and_what_follows_is_kept() {
        let (mut near, mut far) = UnixStream::pair().expect("a socket pair");
        let mut request = HandshakeRequest::new(Purpose::Session, Some(Path::new("/a/state")));
        request.session = serde_json::json!({"max_line_bytes": 5});
        request.given.insert("total_workers".to_owned(), "5".into());
        write(&mut near, &request).await.expect("a socket");
        near.write_all(b"{\"next\":1}\n").await.expect("a socket");
        let mut lines = buffer();
        assert_eq!(read::<HandshakeRequest>(&mut far, &mut lines).await.expect("a request"), request);
        while lines.unread_bytes() == 0 {
            std::future::poll_fn(|context| lines.poll_fill(&mut far, context)).await;
        }
        assert!(matches!(lines.next_line(), Line::Text(b"{\"next\":1}")));
    }

    #[tokio::test]
    async fn what_another_version_adds_or_leaves_out_does_not_matter() {
        for text in [
            r#"{"protocol":9,"version":"7","ask":"stop","more":[1]}"#,
            r#"{"version":"7","protocol":9,"ask":"stop","given":{}}"#,
        ] {
            let request: HandshakeRequest = serde_json::from_str(text).expect("a request");
            assert_eq!((request.protocol, request.ask, request.state), (9, Purpose::Stop, None));
        }
        let answer: HandshakeResponse =
            serde_json::from_str(r#"{"protocol":9,"version":"7","pid":1,"x":2}"#).expect("an answer");
        assert_eq!((answer.protocol, answer.other_state, answer.refused), (9, false, None));
    }

    #[tokio::test(start_paused = true)]
    async fn an_invalid_request_is_refused_and_silence_times_out() {
        let check = async |bytes: &[u8], end: bool, expected: io::ErrorKind| {
            let (mut near, mut far) = tokio::io::duplex(1 << 20);
            near.write_all(bytes).await.expect("room");
            let kept = (!end).then_some(near);
            let error = read::<HandshakeRequest>(&mut far, &mut buffer()).await.expect_err("no request");
            assert_eq!(error.kind(), expected, "{error}");
            drop(kept);
        };
        check(b"", true, io::ErrorKind::UnexpectedEof).await;
        check(b"GET / HTTP/1.1\n", false, io::ErrorKind::InvalidData).await;
        check(b"\xFF\n", false, io::ErrorKind::InvalidData).await;
        check(&[b'x'; 200_000], true, io::ErrorKind::Other).await;
        check(b"{", false, io::ErrorKind::TimedOut).await;
    }
}
