//! Forwards lines in both directions, with few system calls and wake-ups: one task polls both streams, and writes
//! within the same poll what it has read.
//!
//! Invariants: only whole lines are forwarded; the buffer of each direction is bounded by [`BUFFERED_BYTES_MAX`] and
//! one line, so that a side that does not read stops the other; the end of the client's input is still detected then.

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

use super::session_state::{LineAction, SessionState, write_error};
use cortex_lines::{Line, LineBuffer};
use cortex_mcp::transport::too_long;

/// The size of a write buffer from which on no more input of the other side is read, in bytes.
const BUFFERED_BYTES_MAX: usize = 262_144;

/// The size up to which the client's input is read ahead while it cannot be forwarded, so that its end is detected, in
/// bytes.
const READ_AHEAD_BYTES_MAX: usize = 65_536;

/// The capacity that an empty buffer may keep, in bytes.
const BUFFER_BYTES_KEPT: usize = 262_144;

/// The client's side of the relay.
pub(super) struct Client<R, W> {
    pub(super) reader: R,
    pub(super) writer: W,
    pub(super) input: LineBuffer,
    /// Lines to be written to the client.
    pub(super) output: WriteBuffer,
    pub(super) session: SessionState,
    /// A line that was read before a daemon was connected.
    pub(super) held_line: Option<Vec<u8>>,
    /// Whether no more input is forwarded.
    pub(super) is_input_done: bool,
    pub(super) line_bytes_max: usize,
    pub(super) in_flight_max: usize,
}

/// The daemon's side of the relay.
pub(super) struct DaemonLink {
    pub(super) stream: UnixStream,
    pub(super) lines: LineBuffer,
    pub(super) output: WriteBuffer,
    /// When the daemon was connected.
    pub(super) since: Instant,
    /// Whether the write side towards the daemon is shut down.
    pub(super) is_half_closed: bool,
    /// Whether the daemon was stopped on purpose.
    pub(super) sent_shutdown_notice: bool,
    /// Whether a line of the daemon was forwarded to the client.
    pub(super) has_served: bool,
}

/// The side that ended the forwarding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disconnected {
    /// The daemon has closed the connection.
    Daemon,
    /// The client no longer reads.
    Client,
}

/// Bytes to be written.
#[derive(Debug, Default)]
pub(super) struct WriteBuffer {
    bytes: Vec<u8>,
    start: usize,
    is_flushed: bool,
}

impl WriteBuffer {
    fn push_line(&mut self, line: &[u8]) {
        self.bytes.reserve(line.len() + 1);
        self.bytes.extend_from_slice(line);
        self.bytes.push(b'\n');
    }

    /// Appends whole lines with their line ends.
    pub(super) fn push(&mut self, lines: &[u8]) {
        self.bytes.extend_from_slice(lines);
    }

    fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    fn has_capacity(&self) -> bool {
        self.len() < BUFFERED_BYTES_MAX
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }

    /// Writes the buffer. Ready once it is empty and flushed.
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

impl DaemonLink {
    pub(super) fn new(stream: UnixStream, lines: LineBuffer) -> Self {
        Self {
            stream,
            lines,
            since: Instant::now(),
            output: WriteBuffer::default(),
            is_half_closed: false,
            sent_shutdown_notice: false,
            has_served: false,
        }
    }
}

impl<R, W> Client<R, W>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    /// Forwards lines until either side disconnects. Once the client's input has ended and is forwarded, this shuts
    /// down the write side, and the daemon closes the connection when it has answered.
    pub(super) fn poll_forward(&mut self, link: &mut DaemonLink, context: &mut Context<'_>) -> Poll<Disconnected> {
        loop {
            let is_input_blocked = self.forward_input(link, context);
            self.write_to_daemon(link, context);
            let replies = self.forward_replies(link, context);
            if let Poll::Ready(Err(error)) = self.poll_flush(context) {
                tracing::debug!(%error, "client no longer reads");
                return Poll::Ready(Disconnected::Client);
            }
            if replies == ReplyState::Ended {
                return Poll::Ready(Disconnected::Daemon);
            }
            // A direction that was blocked and has capacity now is polled again, since no waker is registered for it.
            let can_forward_input = is_input_blocked && self.has_capacity_for_input(link);
            let can_forward_replies = replies == ReplyState::BufferFull && self.output.has_capacity();
            if !can_forward_input && !can_forward_replies {
                return Poll::Pending;
            }
        }
    }

    /// Writes the output for the client.
    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.output.poll_write(&mut self.writer, context)
    }

    /// Reads ahead while no daemon is connected, and takes a line if `wants_line`. Ready with a line, or at the end of
    /// the input.
    pub(super) fn poll_without_daemon(
        &mut self,
        wants_line: bool,
        context: &mut Context<'_>,
    ) -> Poll<Option<Disconnected>> {
        if let Poll::Ready(Err(_)) = self.poll_flush(context) {
            return Poll::Ready(Some(Disconnected::Client));
        }
        while wants_line && self.held_line.is_none() {
            match self.input.next_line() {
                Line::Text(line) => self.held_line = Some(line.to_vec()),
                Line::TooLong { id, bytes, .. } => {
                    reject_long_line(&mut self.output, id.as_ref(), bytes, self.line_bytes_max)
                }
                Line::Incomplete => std::task::ready!(self.input.poll_fill(&mut self.reader, context)),
                Line::End => {
                    self.is_input_done = true;
                    break;
                }
            }
        }
        self.read_ahead(context);
        if self.is_input_done || self.held_line.is_some() && wants_line { Poll::Ready(None) } else { Poll::Pending }
    }

    /// Returns whether the input has ended or is ignored.
    pub(super) fn is_ending(&self) -> bool {
        self.is_input_done || self.input.is_ended()
    }

    /// Returns whether there is input that was not forwarded.
    pub(super) fn has_unsent_input(&self) -> bool {
        self.held_line.is_some() || !self.is_input_done && self.input.unread_bytes() > 0
    }

    /// Records the requests that were read and not forwarded, so that they are answered with the others.
    pub(super) fn note_unsent_requests(&mut self) {
        if let Some(line) = self.held_line.take() {
            self.session.note_sent(&line);
        }
        while !self.is_input_done {
            match self.input.next_line() {
                Line::Text(line) => self.session.note_sent(line),
                Line::TooLong { id, bytes, .. } => {
                    reject_long_line(&mut self.output, id.as_ref(), bytes, self.line_bytes_max)
                }
                Line::Incomplete | Line::End => self.is_input_done = true,
            }
        }
    }

    fn has_capacity_for_input(&self, link: &DaemonLink) -> bool {
        link.output.has_capacity() && self.output.has_capacity() && self.session.in_flight() < self.in_flight_max
    }

    /// Moves lines of the client to the daemon's buffer. Returns whether it stopped because a buffer was full.
    fn forward_input(&mut self, link: &mut DaemonLink, context: &mut Context<'_>) -> bool {
        if let Some(line) = self.held_line.take() {
            self.session.note_sent(&line);
            link.output.push_line(&line);
        }
        while !self.is_input_done {
            if !self.has_capacity_for_input(link) {
                self.read_ahead(context);
                return true;
            }
            match self.input.next_line() {
                Line::Text(line) => {
                    self.session.note_sent(line);
                    link.output.push_line(line);
                }
                Line::TooLong { id, bytes, .. } => {
                    reject_long_line(&mut self.output, id.as_ref(), bytes, self.line_bytes_max)
                }
                Line::Incomplete => {
                    if self.input.poll_fill(&mut self.reader, context).is_pending() {
                        return false;
                    }
                }
                Line::End => self.is_input_done = true,
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

    /// Writes the daemon's buffer, and shuts down the write side at the end of the input. A write error is ignored:
    /// reading reports the end of the daemon after its replies.
    fn write_to_daemon(&mut self, link: &mut DaemonLink, context: &mut Context<'_>) {
        match link.output.poll_write(&mut link.stream, context) {
            Poll::Pending => {}
            Poll::Ready(Err(_)) => link.output.clear(),
            Poll::Ready(Ok(())) if self.is_input_done && !link.is_half_closed => {
                link.is_half_closed = true;
                // Shutting down a socket never blocks.
                let _ = Pin::new(&mut link.stream).poll_shutdown(context);
            }
            Poll::Ready(Ok(())) => {}
        }
    }

    /// Moves lines of the daemon to the client's buffer.
    fn forward_replies(&mut self, link: &mut DaemonLink, context: &mut Context<'_>) -> ReplyState {
        while self.output.has_capacity() {
            let is_ended = link.lines.is_ended();
            match link.lines.next_line() {
                // The last line may be incomplete, and is dropped then.
                Line::Text(line) if is_ended && serde_json::from_slice::<IgnoredAny>(line).is_err() => {}
                Line::Text(line) => match self.session.note_received(line) {
                    LineAction::Forward => {
                        link.has_served = true;
                        self.output.push_line(line);
                    }
                    LineAction::Drop => {}
                    LineAction::Shutdown => link.sent_shutdown_notice = true,
                },
                Line::TooLong { bytes, .. } => tracing::error!(bytes, "reply dropped: it is too long"),
                Line::Incomplete => {
                    if link.lines.poll_fill(&mut link.stream, context).is_pending() {
                        return ReplyState::AllForwarded;
                    }
                }
                Line::End => return ReplyState::Ended,
            }
        }
        ReplyState::BufferFull
    }
}

/// Why forwarding replies has stopped for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReplyState {
    /// All received replies are forwarded.
    AllForwarded,
    /// The client has to read before more replies are taken.
    BufferFull,
    /// The daemon has closed the connection.
    Ended,
}

fn reject_long_line(output: &mut WriteBuffer, id: Option<&rmcp::model::RequestId>, bytes: u64, line_bytes_max: usize) {
    let error = too_long(bytes, line_bytes_max);
    let mut reply = Vec::new();
    write_error(&mut reply, id, error.code.0, &error.message, false);
    output.push(&reply);
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// Creates a client, with the streams to write its input and to read its output.
    fn client(buffer_bytes: usize) -> (Client<DuplexStream, DuplexStream>, DuplexStream, DuplexStream) {
        let (input, reader) = duplex(buffer_bytes);
        let (writer, output) = duplex(buffer_bytes);
        let client = Client {
            reader,
            writer,
            input: LineBuffer::new(1_000),
            output: WriteBuffer::default(),
            session: SessionState::default(),
            held_line: None,
            is_input_done: false,
            line_bytes_max: 1_000,
            in_flight_max: 100_000,
        };
        (client, input, output)
    }

    fn link() -> (DaemonLink, UnixStream) {
        let (near, far) = UnixStream::pair().expect("a socket pair");
        (DaemonLink::new(near, LineBuffer::new(1_000_000)), far)
    }

    #[tokio::test]
    async fn whole_lines_are_forwarded_and_an_incomplete_last_one_is_not() {
        let (mut client, mut input, mut output) = client(100_000);
        let (mut link, mut daemon) = link();
        input.write_all(b"{\"id\":1,\"method\":\"a\"}\r\n\n  {\"id\":2,\"method\":\"b\"}").await.expect("capacity");
        // The last line ends with the input.
        drop(input);
        // The daemon's stream closes at the end of this block.
        let talk = async move {
            let mut sent = String::new();
            daemon.read_to_string(&mut sent).await.expect("the half-closed end");
            assert_eq!(sent, "{\"id\":1,\"method\":\"a\"}\n{\"id\":2,\"method\":\"b\"}\n");
            daemon.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n{\"jsonrpc\":\"2.0\",\"id\":2,\"res").await
        };
        let (disconnected, written) = tokio::join!(poll_fn(|context| client.poll_forward(&mut link, context)), talk);
        written.expect("a relay that reads");
        assert_eq!(
            (disconnected, link.sent_shutdown_notice, client.session.in_flight()),
            (Disconnected::Daemon, false, 1)
        );
        drop(client);
        let mut received = String::new();
        output.read_to_string(&mut received).await.expect("the end");
        assert_eq!(received, "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n");
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_stops_both_ways_and_its_end_is_seen() {
        let (mut client, mut input, output) = client(10_000);
        let (mut link, mut daemon) = link();
        let line = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"{}\"}}\n", "x".repeat(900));
        let flood = async { while daemon.write_all(line.as_bytes()).await.is_ok() {} };
        let mut flood = std::pin::pin!(flood);
        // The output is not read, so that the flood stops.
        let halted = async {
            loop {
                let polled = poll_fn(|context| Poll::Ready(client.poll_forward(&mut link, context))).await;
                assert_eq!(polled, Poll::Pending);
                let pushed = poll_fn(|context| Poll::Ready(flood.as_mut().poll(context))).await;
                assert_eq!(pushed, Poll::Pending);
                if !client.output.has_capacity() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        };
        halted.await;
        assert!(client.output.len() < BUFFERED_BYTES_MAX + 2_000, "{}", client.output.len());
        input.write_all(b"{\"id\":1,\"method\":\"a\"}\n").await.expect("capacity");
        drop(input);
        let polled = poll_fn(|context| Poll::Ready(client.poll_forward(&mut link, context))).await;
        assert_eq!((polled, client.is_ending(), client.is_input_done), (Poll::Pending, true, false));
        drop(output);
        let disconnected = poll_fn(|context| client.poll_forward(&mut link, context)).await;
        assert_eq!(disconnected, Disconnected::Client);
    }

    #[tokio::test]
    async fn a_shutdown_notice_is_not_forwarded_to_the_client_nor_a_long_line_to_the_daemon() {
        let (mut client, mut input, mut output) = client(100_000);
        let (mut link, mut daemon) = link();
        let long = format!("{{\"id\":7,\"method\":\"{}\"}}\n", "x".repeat(2_000));
        input.write_all(long.as_bytes()).await.expect("capacity");
        daemon.write_all(b"{\"goodbye\":true}\n").await.expect("a relay");
        daemon.shutdown().await.expect("a relay");
        let disconnected = poll_fn(|context| client.poll_forward(&mut link, context)).await;
        assert_eq!((disconnected, link.sent_shutdown_notice), (Disconnected::Daemon, true));
        drop((client, link));
        let mut received = String::new();
        output.read_to_string(&mut received).await.expect("the end");
        assert!(received.starts_with("{\"jsonrpc\":\"2.0\",\"id\":7,\"error\":{\"code\":-32600,"), "{received}");
        assert_eq!(received.lines().count(), 1);
        let mut sent = String::new();
        daemon.read_to_string(&mut sent).await.expect("the end");
        assert_eq!(sent, "");
    }
}
