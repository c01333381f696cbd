//! Parses the reply to a probe, from JSON or from an event stream.

use std::io::{BufRead, BufReader, Read};

use serde_json::Value;

use super::http::ProbeFailure;

/// The most bytes that are read of one response.
pub(super) const BODY_BYTES_MAX: u64 = 1_048_576;

/// The reply of a server to a message.
#[derive(Debug, PartialEq)]
pub(super) enum ProbeReply {
    Result(Value),
    Error {
        code: i64,
    },
    /// No JSON-RPC response, as after a notification.
    None,
}

impl ProbeReply {
    /// Parses a body that is one message.
    pub(super) fn from_json(mut body: impl Read) -> Result<Self, ProbeFailure> {
        let mut bytes = Vec::new();
        body.by_ref().take(BODY_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > BODY_BYTES_MAX {
            return Err(ProbeFailure::TooLong);
        }
        Ok(Self::of_message(&bytes).unwrap_or(Self::None))
    }

    /// Parses the first reply in an event stream. Does not wait for the end of the stream, which may stay open.
    pub(super) fn from_events(body: impl Read) -> Result<Self, ProbeFailure> {
        let mut lines = BufReader::new(body.take(BODY_BYTES_MAX + 1));
        let (mut line, mut data) = (Vec::new(), Vec::new());
        let mut bytes_read = 0;
        loop {
            line.clear();
            let length = lines.read_until(b'\n', &mut line)?;
            bytes_read += length as u64;
            if bytes_read > BODY_BYTES_MAX {
                return Err(ProbeFailure::TooLong);
            }
            let line = line.trim_ascii_end();
            if let Some(part) = line.strip_prefix(b"data:") {
                data.extend_from_slice(part);
                data.push(b'\n');
            } else if line.is_empty() {
                // The end of an event. Notifications and requests of the server are skipped.
                if let Some(reply) = Self::of_message(&data) {
                    return Ok(reply);
                }
                data.clear();
            }
            if length == 0 {
                return Ok(Self::None);
            }
        }
    }

    /// Returns the reply if a message is one.
    fn of_message(bytes: &[u8]) -> Option<Self> {
        let mut message: Value = serde_json::from_slice(bytes).ok()?;
        let fields = message.as_object_mut()?;
        if let Some(error) = fields.get("error") {
            return Some(Self::Error { code: error["code"].as_i64()? });
        }
        fields.remove("result").map(Self::Result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check_events(text: &str, expected: &ProbeReply) {
        let reply = ProbeReply::from_events(text.as_bytes()).expect("a stream that can be read");
        assert_eq!(reply, *expected, "{text:?}");
    }

    #[test]
    fn the_first_reply_of_a_stream_counts() {
        let seven = ProbeReply::Result(json!(7));
        check_events("", &ProbeReply::None);
        check_events(": hello\n\nid: 1\ndata:\n\n", &ProbeReply::None);
        check_events("event: message\r\ndata: {\"id\":1,\"result\":7}\r\n\r\n", &seven);
        check_events(
            "data: {\"method\":\"x\"}\n\ndata: {\"id\":1,\ndata: \"result\":7}\n\ndata: {\"result\":8}\n\n",
            &seven,
        );
        check_events("data:{\"id\":1,\"error\":{\"code\":-32601}}", &ProbeReply::Error { code: -32601 });
        check_events("data: [1]\n\ndata: {\"result\":7}\n", &seven);
    }

    #[test]
    fn the_bytes_read_are_bounded() {
        for byte in [b'x', b'\n'] {
            let endless = || std::io::repeat(byte);
            assert!(matches!(ProbeReply::from_events(endless()), Err(ProbeFailure::TooLong)));
            assert!(matches!(ProbeReply::from_json(endless()), Err(ProbeFailure::TooLong)));
        }
    }
}
