//! The last lines that a child wrote, which help to find out why it does not work.
//!
//! Invariants: the kept text is bounded, whatever the child writes; and a kept line has no control characters, so that
//! it is safe to show anywhere.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::io::{AsyncRead, AsyncReadExt};

/// The number of lines that are kept.
pub const LINES_MAX: usize = 200;

/// The bytes that are kept of each line.
pub const LINE_BYTES_MAX: usize = 4_096;

/// The size of the read buffer.
const READ_BYTES: usize = 8_192;

/// Replaces a character that could change how others are shown.
const REPLACEMENT: char = '\u{fffd}';

/// The last lines of one child. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct LastLines {
    kept: Arc<Mutex<VecDeque<String>>>,
}

impl LastLines {
    /// Adds a line, truncated and sanitized like those of the child.
    pub fn note(&self, line: &str) {
        self.add(line.as_bytes(), line.len());
    }

    /// Returns the lines, oldest first.
    #[must_use]
    pub fn last(&self) -> Vec<String> {
        self.kept().iter().cloned().collect()
    }

    /// Reads lines until the end of the stream.
    pub(super) async fn read(self, mut from: impl AsyncRead + Unpin) {
        let mut bytes = vec![0; READ_BYTES];
        let mut line = Line::default();
        // A read error is treated as the end.
        while let Ok(count @ 1..) = from.read(&mut bytes).await {
            let mut rest = &bytes[..count];
            while let Some(end) = memchr::memchr(b'\n', rest) {
                line.push(&rest[..end]);
                self.add_line(&line);
                line.clear();
                rest = &rest[end + 1..];
            }
            line.push(rest);
        }
        if line.bytes_seen > 0 {
            self.add_line(&line);
        }
    }

    fn add_line(&self, line: &Line) {
        self.add(&line.kept, line.bytes_seen);
    }

    /// Adds a line of `bytes` bytes, of which `kept` are the first.
    fn add(&self, kept: &[u8], bytes: usize) {
        let kept = &kept[..kept.len().min(LINE_BYTES_MAX)];
        let dropped = bytes - kept.len();
        let kept = if dropped == 0 { kept.strip_suffix(b"\r").unwrap_or(kept) } else { kept };
        let mut line = sanitized(kept);
        if dropped > 0 {
            line.push_str(&format!(" … ({dropped} more bytes)"));
        }
        let mut lines = self.kept();
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<String>> {
        // Each change adds a whole line, so that a panic while the lock is held leaves no partial state.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The line that is being read. It keeps the first [`LINE_BYTES_MAX`] bytes and counts the others.
#[derive(Default)]
struct Line {
    kept: Vec<u8>,
    bytes_seen: usize,
}

impl Line {
    fn push(&mut self, bytes: &[u8]) {
        let bytes_left = LINE_BYTES_MAX - self.kept.len();
        self.kept.extend_from_slice(&bytes[..bytes.len().min(bytes_left)]);
        self.bytes_seen = self.bytes_seen.saturating_add(bytes.len());
    }

    fn clear(&mut self) {
        self.kept.clear();
        self.bytes_seen = 0;
    }
}

/// Replaces characters that could move the cursor, change colors or reverse the direction of the text.
fn sanitized(bytes: &[u8]) -> String {
    let reverses_text = |c| matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let shown = |c: char| match c {
        '\t' => ' ',
        c if c.is_control() || reverses_text(c) => REPLACEMENT,
        c => c,
    };
    String::from_utf8_lossy(bytes).chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(input: &[u8]) -> Vec<String> {
        let lines = LastLines::default();
        lines.clone().read(input).await;
        lines.last()
    }

    #[tokio::test]
    async fn lines_are_kept_as_they_were_written() {
        assert_eq!(read(b"").await, Vec::<String>::new());
        assert_eq!(read(b"a\nb\r\n\nc").await, ["a", "b", "", "c"]);
        assert_eq!(read("äöü 😀\n".as_bytes()).await, ["äöü 😀"]);
    }

    #[tokio::test]
    async fn control_characters_are_harmless() {
        assert_eq!(read(b"a\rb\tc\x1b[31m\x00\x7f\n").await, ["a\u{fffd}b c\u{fffd}[31m\u{fffd}\u{fffd}"]);
        assert_eq!(read(b"\xff\xc2\x9b\xe2\x80\xae\n").await, ["\u{fffd}\u{fffd}\u{fffd}"]);
    }

    #[tokio::test]
    async fn long_lines_are_cut() {
        let whole = "x".repeat(LINE_BYTES_MAX);
        assert_eq!(read(format!("{whole}\n").as_bytes()).await.concat(), whole);
        let long = format!("{}\nshort\n", "x".repeat(LINE_BYTES_MAX + 20_000));
        assert_eq!(read(long.as_bytes()).await, [format!("{whole} … (20000 more bytes)"), "short".to_owned()]);
    }

    #[tokio::test]
    async fn only_the_last_lines_are_kept() {
        let many: String = (0..1_000).map(|n| format!("{n}\n")).collect();
        let lines = read(many.as_bytes()).await;
        assert_eq!(lines.len(), LINES_MAX);
        assert_eq!((lines[0].as_str(), lines[LINES_MAX - 1].as_str()), ("800", "999"));
    }

    #[test]
    fn others_may_add_lines() {
        let lines = LastLines::default();
        lines.note("a\nb");
        assert_eq!(lines.last(), ["a\u{fffd}b"]);
    }
}
