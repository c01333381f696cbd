//! Carrying lines both ways, with as few system calls and wake-ups as there can be: one task polls both streams, and what
//! is read is written on within the same poll.
//!
//! Invariants: only whole lines go either way; what waits in either direction is bounded by [`WAITING_BYTES_MAX`] and a
//! line, so that a side that does not read stops the other; the end of the client's input is seen all the same.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use serde::de::IgnoredAny;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
    time::Instant,
};

use super::memory::{Memory, Verdict, write_error};
use cortex_lines::{Line, LineBuffer};
use cortex_mcp::transport::too_long;

/// From how many waiting bytes on nothing more is taken from the other side.
const WAITING_BYTES_MAX: usize = 262_144;

/// How far the client's input is read ahead while nothing of it can be passed on, so that its end is seen.
const READ_AHEAD_BYTES_MAX: usize = 65_536;

/// The capacity that an empty buffer may keep.
const BUFFER_BYTES_KEPT: usize = 262_144;

/// The client's side.
pub(super) struct Client<R, W> {
    pub(super) reader: R,
    pub(super) writer: W,
    pub(super) input: LineBuffer,
    /// What waits to be written to the client.
    pub(super) waiting: Waiting,
    pub(super) memory: Memory,
    /// A line that was read before there was a daemon to send it to.
    pub(super) held: Option<Vec<u8>>,
    /// Whether nothing more of the input is passed on.
    pub(super) is_over: bool,
    pub(super) line_bytes_max: usize,
    pub(super) in_flight_max: usize,
}

/// The daemon's side.
pub(super) struct Link {
    pub(super) stream: UnixStream,
    pub(super) lines: LineBuffer,
    pub(super) waiting: Waiting,
    /// Since when it is there.
    pub(super) since: Instant,
    /// Whether the daemon was told that nothing more comes.
    pub(super) is_half_closed: bool,
    /// Whether the daemon ends because somebody wants it to.
    pub(super) said_goodbye: bool,
    /// Whether the daemon has said anything to the client.
    pub(super) has_served: bool,
}

/// Why carrying has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parting {
    /// The daemon closed its end.
    Daemon,
    /// The client does not read any more.
    Client,
}

/// Bytes that wait to be written.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    bytes: Vec<u8>,
    start: usize,
    is_flushed: bool,
}

impl Waiting {
    fn push_line(&mut self, line: &[u8]) {
        self.bytes.reserve(line.len() + 1);
        self.bytes.extend_from_slice(line);
        self.bytes.push(b'\n');
    }

    /// Adds whole lines with their ends.
    pub(super) fn push(&mut self, lines: &[u8]) {
        self.bytes.extend_from_slice(lines);
    }

    fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    fn has_room(&self) -> bool {
        self.len() < WAITING_BYTES_MAX
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }

    /// Writes what waits. Ready once nothing does and it is flushed.
    pub(super) fn poll_write<W>(&mut self, writer: &mut W, context: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        W: AsyncWrite + Unpin,
    {
        while self.start < self.bytes.len() {
            self.is_flushed = false;
            match std::task::ready!(Pin::new(&mut *writer).poll_write(context, &self.bytes[self.start..])) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => self.start += count,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.clear();
        self.bytes.shrink_to(BUFFER_BYTES_KEPT);
        if !self.is_flushed {
            std::task::ready!(Pin::new(writer).poll_flush(context))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl Link {
    pub(super) fn new(stream: UnixStream, lines: LineBuffer) -> Self {
        Self {
            stream,
            lines,
            since: Instant::now(),
            waiting: Waiting::default(),
            is_half_closed: false,
            said_goodbye: false,
            has_served: false,
        }
    }
}

impl<R, W> Client<R, W>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    /// Carries lines until either side is gone. Once the client's input is at its end and passed on, the daemon is told so,
    /// and closes its end when it has answered.
    pub(super) fn poll_carry(&mut self, link: &mut Link, context: &mut Context<'_>) -> Poll<Parting> {
        loop {
            let input_waits = self.take_input(link, context);
            self.pass_on(link, context);
            let replies = self.take_replies(link, context);
            if let Poll::Ready(Err(error)) = self.poll_flush(context) {
                tracing::debug!(%error, "the client does not read any more");
                return Poll::Ready(Parting::Client);
            }
            if replies == Replies::Ended {
                return Poll::Ready(Parting::Daemon);
            }
            // What had no room and has some now is looked at again: nothing else would wake this.
            let has_room_now = input_waits && self.has_room_for_input(link);
            let has_room_for_replies_now = replies == Replies::NoRoom && self.waiting.has_room();
            if !has_room_now && !has_room_for_replies_now {
                return Poll::Pending;
            }
        }
    }

    /// Writes what waits for the client.
    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.waiting.poll_write(&mut self.writer, context)
    }

    /// While there is no daemon: reads ahead, and takes a line if one is wanted. Ready with one, or at the input's end.
    pub(super) fn poll_alone(&mut self, wants_line: bool, context: &mut Context<'_>) -> Poll<Option<Parting>> {
        if let Poll::Ready(Err(_)) = self.poll_flush(context) {
            return Poll::Ready(Some(Parting::Client));
        }
        while wants_line && self.held.is_none() {
            match self.input.next_line() {
                Line::Text(line) => self.held = Some(line.to_vec()),
                Line::TooLong { id, bytes, .. } => {
                    refuse_long(&mut self.waiting, id.as_ref(), bytes, self.line_bytes_max)
                }
                Line::Incomplete => std::task::ready!(self.input.poll_fill(&mut self.reader, context)),
                Line::End => {
                    self.is_over = true;
                    break;
                }
            }
        }
        self.read_ahead(context);
        if self.is_over || self.held.is_some() && wants_line { Poll::Ready(None) } else { Poll::Pending }
    }

    /// Whether the end of the input was seen, or it is not looked at any more.
    pub(super) fn is_ending(&self) -> bool {
        self.is_over || self.input.is_ended()
    }

    /// Whether there is input that was not passed on.
    pub(super) fn has_more(&self) -> bool {
        self.held.is_some() || !self.is_over && self.input.unread_bytes() > 0
    }

    /// Notes the requests that were read and not passed on, so that they are answered with the rest.
    pub(super) fn note_rest(&mut self) {
        if let Some(line) = self.held.take() {
            self.memory.note_sent(&line);
        }
        while !self.is_over {
            match self.input.next_line() {
                Line::Text(line) => self.memory.note_sent(line),
                Line::TooLong { id, bytes, .. } => {
                    refuse_long(&mut self.waiting, id.as_ref(), bytes, self.line_bytes_max)
                }
                Line::Incomplete | Line::End => self.is_over = true,
            }
        }
    }

    fn has_room_for_input(&self, link: &Link) -> bool {
        link.waiting.has_room() && self.waiting.has_room() && self.memory.in_flight() < self.in_flight_max
    }

    /// Takes lines as long as there are some and room for them. Whether it stopped for want of room.
    fn take_input(&mut self, link: &mut Link, context: &mut Context<'_>) -> bool {
        if let Some(line) = self.held.take() {
            self.memory.note_sent(&line);
            link.waiting.push_line(&line);
        }
        while !self.is_over {
            if !self.has_room_for_input(link) {
                self.read_ahead(context);
                return true;
            }
            match self.input.next_line() {
                Line::Text(line) => {
                    self.memory.note_sent(line);
                    link.waiting.push_line(line);
                }
                Line::TooLong { id, bytes, .. } => {
                    refuse_long(&mut self.waiting, id.as_ref(), bytes, self.line_bytes_max)
                }
                Line::Incomplete => {
                    if self.input.poll_fill(&mut self.reader, context).is_pending() {
                        return false;
                    }
                }
                Line::End => self.is_over = true,
            }
        }
        false
    }

    fn read_ahead(&mut self, context: &mut Context<'_>) {
        while !self.input.is_ended() && self.input.unread_bytes() < READ_AHEAD_BYTES_MAX {
            if self.input.poll_fill(&mut self.reader, context).is_pending() {
                return;
            }
        }
    }

    /// Writes to the daemon what waits for it, and the end. Where that fails its end is seen by reading, behind its replies.
    fn pass_on(&mut self, link: &mut Link, context: &mut Context<'_>) {
        match link.waiting.poll_write(&mut link.stream, context) {
            Poll::Pending => {}
            Poll::Ready(Err(_)) => link.waiting.clear(),
            Poll::Ready(Ok(())) if self.is_over && !link.is_half_closed => {
                link.is_half_closed = true;
                // Shutting down a socket never waits.
                let _ = Pin::new(&mut link.stream).poll_shutdown(context);
            }
            Poll::Ready(Ok(())) => {}
        }
    }

    /// Takes the daemon's lines as long as there are some and room for them.
    fn take_replies(&mut self, link: &mut Link, context: &mut Context<'_>) -> Replies {
        while self.waiting.has_room() {
            let is_ended = link.lines.is_ended();
            match link.lines.next_line() {
                // The last line may be cut off in the middle, and is none then.
                Line::Text(line) if is_ended && serde_json::from_slice::<IgnoredAny>(line).is_err() => {}
                Line::Text(line) => match self.memory.note_received(line) {
                    Verdict::Forward => {
                        link.has_served = true;
                        self.waiting.push_line(line);
                    }
                    Verdict::Swallow => {}
                    Verdict::Goodbye => link.said_goodbye = true,
                },
                Line::TooLong { bytes, .. } => tracing::error!(bytes, "a reply is too long to be passed on"),
                Line::Incomplete => {
                    if link.lines.poll_fill(&mut link.stream, context).is_pending() {
                        return Replies::Passed;
                    }
                }
                Line::End => return Replies::Ended,
            }
        }
        Replies::NoRoom
    }
}

/// Why no more replies are taken for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replies {
    /// All that are there were.
    Passed,
    /// The client has to read some first.
    NoRoom,
    /// The daemon has closed its end.
    Ended,
}

fn refuse_long(waiting: &mut Waiting, id: Option<&rmcp::model::RequestId>, bytes: u64, line_bytes_max: usize) {
    let error = too_long(bytes, line_bytes_max);
    let mut reply = Vec::new();
    write_error(&mut reply, id, error.code.0, &error.message, false);
    waiting.push(&reply);
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// A client that the test plays with the streams given back: what it writes to, and what it reads from.
    fn client(room: usize) -> (Client<DuplexStream, DuplexStream>, DuplexStream, DuplexStream) {
        let (input, reader) = duplex(room);
        let (writer, output) = duplex(room);
        let client = Client {
            reader,
            writer,
            input: LineBuffer::new(1_000),
            waiting: Waiting::default(),
            memory: Memory::default(),
            held: None,
            is_over: false,
            line_bytes_max: 1_000,
            in_flight_max: 100_000,
        };
        (client, input, output)
    }

    fn link() -> (Link, UnixStream) {
        let (near, far) = UnixStream::pair().expect("a socket pair");
        (Link::new(near, LineBuffer::new(1_000_000)), far)
    }

    #[tokio::test]
    async fn whole_lines_are_carried_and_the_last_one_cut_off_is_not() {
        let (mut client, mut input, mut output) = client(100_000);
        let (mut link, mut daemon) = link();
        input.write_all(b"{\"id\":1,\"method\":\"a\"}\r\n\n  {\"id\":2,\"method\":\"b\"}").await.expect("room");
        // The last line has no end but that of the input.
        drop(input);
        // The daemon is gone with the end of this.
        let talk = async move {
            let mut said = String::new();
            daemon.read_to_string(&mut said).await.expect("the half-closed end");
            assert_eq!(said, "{\"id\":1,\"method\":\"a\"}\n{\"id\":2,\"method\":\"b\"}\n");
            daemon.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n{\"jsonrpc\":\"2.0\",\"id\":2,\"res").await
        };
        let (parting, written) = tokio::join!(poll_fn(|context| client.poll_carry(&mut link, context)), talk);
        written.expect("a relay that reads");
        assert_eq!((parting, link.said_goodbye, client.memory.in_flight()), (Parting::Daemon, false, 1));
        drop(client);
        let mut heard = String::new();
        output.read_to_string(&mut heard).await.expect("the end");
        assert_eq!(heard, "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n");
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_stops_both_ways_and_its_end_is_seen() {
        let (mut client, mut input, output) = client(10_000);
        let (mut link, mut daemon) = link();
        let line = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"{}\"}}\n", "x".repeat(900));
        let flood = async { while daemon.write_all(line.as_bytes()).await.is_ok() {} };
        let mut flood = std::pin::pin!(flood);
        // Nobody reads the output: the flood comes to a halt by itself.
        let halted = async {
            loop {
                let carried = poll_fn(|context| Poll::Ready(client.poll_carry(&mut link, context))).await;
                assert_eq!(carried, Poll::Pending);
                let pushed = poll_fn(|context| Poll::Ready(flood.as_mut().poll(context))).await;
                assert_eq!(pushed, Poll::Pending);
                if !client.waiting.has_room() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        };
        halted.await;
        assert!(client.waiting.len() < WAITING_BYTES_MAX + 2_000, "{}", client.waiting.len());
        input.write_all(b"{\"id\":1,\"method\":\"a\"}\n").await.expect("room");
        drop(input);
        let carried = poll_fn(|context| Poll::Ready(client.poll_carry(&mut link, context))).await;
        assert_eq!((carried, client.is_ending(), client.is_over), (Poll::Pending, true, false));
        drop(output);
        let parting = poll_fn(|context| client.poll_carry(&mut link, context)).await;
        assert_eq!(parting, Parting::Client);
    }

    #[tokio::test]
    async fn a_goodbye_is_kept_from_the_client_and_a_long_line_from_the_daemon() {
        let (mut client, mut input, mut output) = client(100_000);
        let (mut link, mut daemon) = link();
        let long = format!("{{\"id\":7,\"method\":\"{}\"}}\n", "x".repeat(2_000));
        input.write_all(long.as_bytes()).await.expect("room");
        daemon.write_all(b"{\"goodbye\":true}\n").await.expect("a relay");
        daemon.shutdown().await.expect("a relay");
        let parting = poll_fn(|context| client.poll_carry(&mut link, context)).await;
        assert_eq!((parting, link.said_goodbye), (Parting::Daemon, true));
        drop((client, link));
        let mut heard = String::new();
        output.read_to_string(&mut heard).await.expect("the end");
        assert!(heard.starts_with("{\"jsonrpc\":\"2.0\",\"id\":7,\"error\":{\"code\":-32600,"), "{heard}");
        assert_eq!(heard.lines().count(), 1);
        let mut said = String::new();
        daemon.read_to_string(&mut said).await.expect("the end");
        assert_eq!(said, "");
    }
}
