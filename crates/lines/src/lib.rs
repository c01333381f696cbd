//! Splits bytes into bounded lines, such as those of JSON-RPC over stdio.
//!
//! Invariants: memory is bounded by the limit of a line and one read, however the bytes arrive; and the same bytes give
//! the same lines, however they are divided into reads.

mod request_id;

use std::{
    io,
    task::{Context, Poll},
};

use rmcp::model::RequestId;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::bytes::BufMut;

pub use self::request_id::ID_BYTES_MAX;
use self::request_id::IdScanner;
pub use self::request_id::parse_id;

/// The most bytes that one read takes.
const READ_BYTES: usize = 65_536;

/// The capacity that an empty buffer keeps, so that one long line does not hold its memory forever.
const BUFFER_BYTES_KEPT: usize = 262_144;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// The bytes that were read and not returned as lines yet.
pub struct LineBuffer {
    bytes: Vec<u8>,
    /// The start of the first line that was not returned.
    start: usize,
    /// The position up to which there is no newline.
    searched: usize,
    line_bytes_max: usize,
    /// The too long line whose rest is being dropped.
    too_long: Option<TooLong>,
    ended: bool,
}

/// The next item in the buffer.
pub enum Line<'a> {
    /// A line that is not blank, without the white space around it.
    Text(&'a [u8]),
    /// A line over the limit, which was dropped. Returned once the whole line was read.
    TooLong {
        /// The id of the message, if it could be read.
        id: Option<RequestId>,
        /// Whether the message has no method, so that it is a response.
        is_answer: bool,
        bytes: u64,
    },
    /// The buffer has no complete line: read more first.
    Incomplete,
    /// The input has ended.
    End,
}

impl LineBuffer {
    pub fn new(line_bytes_max: usize) -> Self {
        Self { bytes: Vec::new(), start: 0, searched: 0, line_bytes_max, too_long: None, ended: false }
    }

    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Returns the number of bytes that were read and not returned.
    pub fn unread_bytes(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Reads once, up to 64 KiB. Treats a failed read as the end of the input.
    pub fn poll_fill<R>(&mut self, reader: &mut R, context: &mut Context<'_>) -> Poll<()>
    where
        R: AsyncRead + Unpin,
    {
        self.reserve_capacity();
        let mut target = (&mut self.bytes).limit(READ_BYTES);
        // The future is created for each poll: a pending read has taken no bytes.
        let mut read = std::pin::pin!(reader.read_buf(&mut target));
        let result: io::Result<usize> = std::task::ready!(read.as_mut().poll(context));
        match result {
            Ok(0) => self.ended = true,
            Ok(_) => {}
            Err(error) => {
                tracing::info!(%error, "reading failed, treated as the end of the input");
                self.ended = true;
            }
        }
        Poll::Ready(())
    }

    fn reserve_capacity(&mut self) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
        }
        if self.bytes.is_empty() && self.bytes.capacity() > BUFFER_BYTES_KEPT {
            self.bytes = Vec::new();
        }
        self.bytes.reserve(READ_BYTES);
    }

    /// Returns the next line.
    pub fn next_line(&mut self) -> Line<'_> {
        loop {
            let found = memchr::memchr(b'\n', &self.bytes[self.searched..]);
            let (end, after) = match found {
                Some(offset) => (self.searched + offset, self.searched + offset + 1),
                None => (self.bytes.len(), self.bytes.len()),
            };
            let start = std::mem::replace(&mut self.start, after);
            self.searched = after;
            let is_whole = found.is_some() || self.ended;
            if let Some(too_long) = &mut self.too_long {
                too_long.push(&self.bytes[start..end]);
                if is_whole && let Some(too_long) = self.too_long.take() {
                    return too_long.finish();
                }
                return Line::Incomplete;
            }
            // One byte over the limit may be the carriage return of a line within it.
            let is_too_long = end - start > self.line_bytes_max + 1
                || without_return(&self.bytes[start..end]).len() > self.line_bytes_max && is_whole;
            if is_too_long {
                let mut too_long = TooLong::default();
                too_long.push(&self.bytes[start..end]);
                if is_whole {
                    return too_long.finish();
                }
                self.too_long = Some(too_long);
                return Line::Incomplete;
            }
            if !is_whole {
                self.start = start;
                return Line::Incomplete;
            }
            if start == end && found.is_none() {
                return Line::End;
            }
            if !trimmed(&self.bytes[start..end]).is_empty() {
                return Line::Text(trimmed(&self.bytes[start..end]));
            }
        }
    }
}

/// A line over the limit, of which only the id is kept.
#[derive(Default)]
struct TooLong {
    id: IdScanner,
    bytes: u64,
    ends_in_return: bool,
}

impl TooLong {
    fn push(&mut self, part: &[u8]) {
        self.id.push(part);
        self.bytes += part.len() as u64;
        if let Some(last) = part.last() {
            self.ends_in_return = *last == b'\r';
        }
    }

    fn finish(self) -> Line<'static> {
        let (id, is_answer) = self.id.finish();
        Line::TooLong { id, is_answer, bytes: self.bytes - u64::from(self.ends_in_return) }
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Returns the line without surrounding white space, and without the byte order mark that some shells write first.
fn trimmed(line: &[u8]) -> &[u8] {
    line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line).trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 16;

    /// Feeds `input` in chunks of `chunk_bytes` bytes and returns one entry for each line.
    async fn lines(input: &[u8], chunk_bytes: usize) -> Vec<String> {
        let mut buffer = LineBuffer::new(LIMIT);
        let mut chunks = input.chunks(chunk_bytes);
        let mut seen = Vec::new();
        loop {
            match buffer.next_line() {
                Line::Text(text) => seen.push(String::from_utf8_lossy(text).into_owned()),
                Line::TooLong { id, bytes, .. } => seen.push(format!("{bytes} bytes, id {id:?}")),
                Line::End => return seen,
                Line::Incomplete => {
                    let mut reader = chunks.next().unwrap_or_default();
                    std::future::poll_fn(|context| buffer.poll_fill(&mut reader, context)).await;
                }
            }
        }
    }

    #[track_caller]
    fn check(input: &[u8], expected: &[&str]) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        for chunk_bytes in 1..=input.len().max(1) {
            let seen = runtime.block_on(lines(input, chunk_bytes));
            assert_eq!(seen, expected, "in chunks of {chunk_bytes}");
        }
    }

    #[test]
    fn any_cut_of_the_input_gives_the_same_lines() {
        check(b"", &[]);
        check(b"\n\r\n  \t\n", &[]);
        check(b"a\nb\n", &["a", "b"]);
        check(b"a\r\n b \r\nc", &["a", "b", "c"]);
        check(b"\xEF\xBB\xBFa\n\xEF\xBB\xBF\n", &["a"]);
        check(b"0123456789abcdef\nx", &["0123456789abcdef", "x"]);
        check(b"0123456789abcdef\r\nx", &["0123456789abcdef", "x"]);
        check(b"0123456789abcdef\r", &["0123456789abcdef"]);
        check(b"0123456789abcdefg\nx\n", &["17 bytes, id None", "x"]);
        check(b"0123456789abcdefg\r\nx", &["17 bytes, id None", "x"]);
        check(b"x\n                      ", &["x", "22 bytes, id None"]);
        check(b"{\"params\":{\"id\":1},\"id\":7}\n{}\n", &["26 bytes, id Some(Number(7))", "{}"]);
    }

    #[tokio::test]
    async fn an_endless_line_is_not_kept() {
        let mut buffer = LineBuffer::new(1_000_000);
        let mut reader = tokio::io::repeat(b'x').take(50_000_000);
        let mut kept = 0;
        loop {
            match buffer.next_line() {
                Line::TooLong { bytes, .. } => {
                    assert_eq!(bytes, 50_000_000);
                    break;
                }
                Line::Incomplete => {}
                Line::Text(_) | Line::End => panic!("the line is too long"),
            }
            std::future::poll_fn(|context| buffer.poll_fill(&mut reader, context)).await;
            kept = kept.max(buffer.unread_bytes());
        }
        assert!(kept <= 1_000_001 + READ_BYTES, "{kept} bytes kept");
    }
}
