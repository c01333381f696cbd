//! The lines of a child's standard output.
//!
//! Invariant: what is kept is bounded by the longest line and one read, however long the lines are that come.

use std::{io, ops::Range};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::bytes::BufMut;

use super::skim::Skim;

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
    /// What was seen of a line that is too long, while its rest passes by.
    skim: Option<Skim>,
}

/// The next thing in the output.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Where the next line is.
    Line(Range<usize>),
    /// More must be read first.
    Nothing,
    /// A line that was too long to be kept has ended: which number it answers, if it does.
    TooLong(Option<u64>),
}

impl Lines {
    pub(super) fn next(&mut self) -> Next {
        let found = memchr::memchr(b'\n', &self.bytes[self.searched..]).map(|offset| self.searched + offset);
        let line = self.start..found.unwrap_or(self.bytes.len());
        self.searched = found.map_or(line.end, |end| end + 1);
        if self.skim.is_none() && line.len() <= LINE_BYTES_MAX {
            return match found {
                Some(_) => {
                    self.start = self.searched;
                    Next::Line(line)
                }
                None => Next::Nothing,
            };
        }
        self.start = self.searched;
        let mut skim = self.skim.take().unwrap_or_default();
        skim.push(&self.bytes[line]);
        if found.is_some() {
            return Next::TooLong(skim.answers());
        }
        self.skim = Some(skim);
        Next::Nothing
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
                Next::TooLong(number) => seen.push(format!("too long {number:?}")),
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
        long.extend_from_slice(b"\nb\n");
        assert_eq!(lines(&long).await, ["too long None", "b", "rest \"\""]);
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_followed_and_not_kept() {
        let long = format!(r#"{{"result":"{}","id":5}}"#, "x".repeat(2 * LINE_BYTES_MAX));
        let input = format!("a\n{long}\nb\n");
        let mut reader = input.as_bytes();
        let (mut lines, mut seen, mut most) = (Lines::default(), Vec::new(), 0);
        loop {
            match lines.next() {
                Next::Line(line) => seen.push(String::from_utf8_lossy(lines.bytes(line)).into_owned()),
                Next::TooLong(number) => seen.push(format!("{number:?}")),
                Next::Nothing if !lines.fill(&mut reader).await.expect("no error") => break,
                Next::Nothing => most = most.max(lines.bytes.len()),
            }
        }
        assert_eq!(seen, ["a", "Some(5)", "b"]);
        assert!(most <= LINE_BYTES_MAX + READ_BYTES, "{most} bytes were kept");
    }
}
