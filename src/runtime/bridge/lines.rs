//! The lines of a child's standard output.
//!
//! Invariant: what is kept is bounded by the longest line and one read.

use std::{io, ops::Range};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::bytes::BufMut;

/// The longest line that a child may print, in bytes.
pub(super) const LINE_BYTES_MAX: usize = 16 << 20;

/// The most that one read takes.
const READ_BYTES: usize = 65_536;

/// The capacity that an empty buffer may keep.
const BUFFER_BYTES_KEPT: usize = 262_144;

#[derive(Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    /// Where the first line not yet given out begins.
    start: usize,
    /// Up to where no line ends.
    searched: usize,
}

/// The next thing in the output.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Where the next line is.
    Line(Range<usize>),
    /// More must be read first.
    Nothing,
    TooLong,
}

impl Lines {
    pub(super) fn next(&mut self) -> Next {
        match memchr::memchr(b'\n', &self.bytes[self.searched..]) {
            Some(offset) => {
                let end = self.searched + offset;
                let line = self.start..end;
                self.start = end + 1;
                self.searched = end + 1;
                if line.len() > LINE_BYTES_MAX { Next::TooLong } else { Next::Line(line) }
            }
            None => {
                self.searched = self.bytes.len();
                if self.searched - self.start > LINE_BYTES_MAX { Next::TooLong } else { Next::Nothing }
            }
        }
    }

    /// The bytes of a line that was given out since the last read.
    pub(super) fn bytes(&self, line: Range<usize>) -> &[u8] {
        self.bytes.get(line).unwrap_or_default()
    }

    /// What is there of a last line that did not end.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Reads once. False at the end.
    pub(super) async fn fill<R: AsyncRead + Unpin>(&mut self, reader: &mut R) -> io::Result<bool> {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
        }
        if self.bytes.is_empty() && self.bytes.capacity() > BUFFER_BYTES_KEPT {
            self.bytes = Vec::new();
        }
        self.bytes.reserve(READ_BYTES);
        let mut target = (&mut self.bytes).limit(READ_BYTES);
        Ok(reader.read_buf(&mut target).await? > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(mut input: &[u8]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        loop {
            match lines.next() {
                Next::Line(line) => seen.push(String::from_utf8_lossy(lines.bytes(line)).into_owned()),
                Next::Nothing if !lines.fill(&mut input).await.expect("no error") => {
                    seen.push(format!("rest {:?}", String::from_utf8_lossy(lines.rest())));
                    return seen;
                }
                Next::Nothing => {}
                Next::TooLong => {
                    seen.push("too long".to_owned());
                    return seen;
                }
            }
        }
    }

    #[tokio::test]
    async fn lines_are_found_however_long() {
        assert_eq!(lines(b"a\n\nb").await, ["a", "", "rest \"b\""]);
        let mut long = vec![b'x'; LINE_BYTES_MAX];
        long.push(b'\n');
        assert_eq!(lines(&long).await.len(), 2);
        long[LINE_BYTES_MAX] = b'x';
        long.extend_from_slice(b"\n");
        assert_eq!(lines(&long).await, ["too long"]);
    }
}
