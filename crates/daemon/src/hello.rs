//! What is said first on the socket: one line each way, as JSON. After an accepted session the lines are MCP's.
//!
//! Every version of this program understands `ask`, `protocol` and `state` of a [`Hello`], and `protocol`, `version`, `pid`,
//! `other_state` and `refused` of an [`Answer`]: that is what tells two versions apart, and what lets any version end the
//! daemon of any other. A daemon does nothing for a hello that means another state than its own.

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

/// The version of what is spoken on the socket.
pub(super) const PROTOCOL: u32 = 1;

/// The longest first line, in bytes.
const HELLO_BYTES_MAX: usize = 65_536;

/// How long either side waits for the other's first line.
pub(super) const HELLO_WAIT_MAX: Duration = Duration::from_secs(5);

/// The last line of a daemon that was told to end. It is no JSON-RPC, so that no reply can be taken for it.
pub(super) const GOODBYE: &[u8] = b"{\"goodbye\":true}";

/// What a process wants of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Ask {
    Session,
    Status,
    Stop,
}

/// The first line of whoever connects.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) protocol: u32,
    pub(super) version: String,
    pub(super) ask: Ask,
    /// The state that is meant, as it really is, or nothing for the shared memory: whoever took the socket's path from a
    /// file that was copied may be at the daemon of another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) state: Option<PathBuf>,
    /// What is the session's own, [`SessionSettings`](super::settings::SessionSettings) in this version of the protocol;
    /// only for a session.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub(super) session: Value,
    /// Settings of the daemon that were given to the session, by key; texts in this version of the protocol.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub(super) given: Map<String, Value>,
}

/// The first line of the daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) protocol: u32,
    pub(super) version: String,
    pub(super) pid: u32,
    /// The run of the daemon.
    #[serde(default)]
    pub(super) instance: String,
    /// Whether the hello means another state than this daemon's, so that nothing was done.
    #[serde(default)]
    pub(super) other_state: bool,
    /// Why the daemon does not do what it was asked to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) refused: Option<String>,
    /// What the session's log should say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) warnings: Vec<String>,
    /// How the daemon stands, if asked; a [`Status`](super::status::Status) in this version of the protocol.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub(super) status: Value,
}

impl Hello {
    pub(super) fn new(ask: Ask, state: Option<&Path>) -> Self {
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

/// Reads the other side's first line. What follows it stays in `lines`.
pub(super) async fn read<T: DeserializeOwned>(
    reader: &mut (impl AsyncRead + Unpin),
    lines: &mut LineBuffer,
) -> io::Result<T> {
    let reading = async {
        loop {
            match lines.next_line() {
                Line::Text(line) => return Ok(serde_json::from_slice(line)?),
                Line::TooLong { bytes, .. } => {
                    return Err(io::Error::other(format!("the first line has {bytes} bytes")));
                }
                Line::End => return Err(io::ErrorKind::UnexpectedEof.into()),
                Line::Incomplete => {}
            }
            std::future::poll_fn(|context| lines.poll_fill(reader, context)).await;
        }
    };
    timeout(HELLO_WAIT_MAX, reading).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A buffer for a first line alone.
pub(super) fn buffer() -> LineBuffer {
    LineBuffer::new(HELLO_BYTES_MAX)
}

/// Writes this side's first line.
pub(super) async fn write(stream: &mut UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    timeout(HELLO_WAIT_MAX, stream.write_all(&line)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_is_read_and_what_follows_is_kept() {
        let (mut near, mut far) = UnixStream::pair().expect("a socket pair");
        let mut hello = Hello::new(Ask::Session, Some(Path::new("/a/state")));
        hello.session = serde_json::json!({"max_line_bytes": 5});
        hello.given.insert("total_workers".to_owned(), "5".into());
        write(&mut near, &hello).await.expect("a socket");
        near.write_all(b"{\"next\":1}\n").await.expect("a socket");
        let mut lines = buffer();
        assert_eq!(read::<Hello>(&mut far, &mut lines).await.expect("a hello"), hello);
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
            let hello: Hello = serde_json::from_str(text).expect("a hello");
            assert_eq!((hello.protocol, hello.ask, hello.state), (9, Ask::Stop, None));
        }
        let answer: Answer = serde_json::from_str(r#"{"protocol":9,"version":"7","pid":1,"x":2}"#).expect("an answer");
        assert_eq!((answer.protocol, answer.other_state, answer.refused), (9, false, None));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_hello_is_refused_and_silence_is_not_waited_for() {
        let check = async |bytes: &[u8], end: bool, expected: io::ErrorKind| {
            let (mut near, mut far) = tokio::io::duplex(1 << 20);
            near.write_all(bytes).await.expect("room");
            let kept = (!end).then_some(near);
            let error = read::<Hello>(&mut far, &mut buffer()).await.expect_err("no hello");
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
