//! The two pipes of a connected child.
//!
//! Invariants: one task reads and one task writes, whatever the number of calls; everything that waits is written with
//! one write; and when the link ends, for any reason, no call waits for a response of this child.

use std::{fmt, future::poll_fn, io, sync::Arc, time::Duration};

use rmcp::model::RequestId;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::{Notify, watch},
    task::JoinHandle,
};

use super::{
    mailbox::{Completion, MailboxItem},
    protocol::ProtocolMode,
};
use crate::bridge::endpoint::Endpoint;
use cortex_lines::{Line, LineBuffer};

/// The longest line that a child may send, in bytes.
pub(crate) const LINE_BYTES_MAX: usize = 16 << 20;

/// The capacity that an empty buffer keeps.
const BUFFER_BYTES_KEPT: usize = 262_144;

/// A child whose handshake succeeded. Dropping the link fails the calls that the child has in flight.
pub struct Link {
    endpoint: Arc<Endpoint>,
    generation: u64,
    closed: watch::Receiver<Option<LinkError>>,
    tasks: [JoinHandle<()>; 2],
}

/// Why a child can no longer be reached. `Display` continues a sentence that begins with its name.
#[derive(Clone, Debug, Error)]
pub enum LinkError {
    #[error("it was replaced")]
    Replaced,
    #[error("it was stopped")]
    Stopped,
    #[error("its standard output ended")]
    OutputEnded,
    #[error("writing to its standard input failed ({0})")]
    InputFailed(Arc<io::Error>),
    /// The tasks for its pipes ended without a reason.
    #[error("its pipes are closed")]
    Closed,
    #[error("it did not respond to a ping within {} s", .0.as_secs_f32())]
    PingTimeout(Duration),
}

impl fmt::Debug for Link {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Link").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl Link {
    /// Starts the tasks that read and write for a child that was just registered.
    pub(crate) fn start<I, O>(
        endpoint: Arc<Endpoint>,
        generation: u64,
        writer: Arc<Notify>,
        input: I,
        output: O,
    ) -> Self
    where
        I: AsyncWrite + Send + Unpin + 'static,
        O: AsyncRead + Send + Unpin + 'static,
    {
        let (close, closed) = watch::channel(None);
        let close = Arc::new(close);
        let reading = {
            let (endpoint, close) = (Arc::clone(&endpoint), Arc::clone(&close));
            tokio::spawn(async move {
                let why = read(&endpoint, generation, output).await;
                close_link(&endpoint, generation, &close, why);
            })
        };
        let writing = {
            let endpoint = Arc::clone(&endpoint);
            tokio::spawn(async move {
                let why = write(&endpoint, generation, &writer, input).await;
                close_link(&endpoint, generation, &close, why);
            })
        };
        Self { endpoint, generation, closed, tasks: [reading, writing] }
    }

    /// Checks that the child still responds; an error response counts.
    ///
    /// # Errors
    /// The child did not respond within `timeout`, or its pipes are closed.
    pub async fn ping(&self, timeout: Duration) -> Result<(), LinkError> {
        let mode = self.endpoint.multiplexer().child_mode();
        let response = match mode {
            Some(ProtocolMode::Stateless) => {
                let params = format!(r#"{{"_meta":{}}}"#, super::protocol::stateless_meta());
                tokio::time::timeout(timeout, self.request("tools/list", &params)).await
            }
            _ => tokio::time::timeout(timeout, self.request("ping", "{}")).await,
        };
        match response {
            Ok(response) => response.map(drop),
            Err(_) => Err(LinkError::PingTimeout(timeout)),
        }
    }

    /// Waits until a pipe of the child is closed or broken, and returns the reason.
    pub async fn closed(&self) -> LinkError {
        let mut closed = self.closed.clone();
        let why = closed.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        why.unwrap_or(LinkError::Closed)
    }

    /// Sends a request of the bridge itself, and returns the whole response.
    pub(crate) async fn request(&self, method: &str, params: &str) -> Result<String, LinkError> {
        let sent = self.endpoint.multiplexer().send_own_request(self.generation, method, params);
        let Some((number, mailbox)) = sent else {
            return Err(self.closed().await);
        };
        let _pending = PendingRequest { link: self, number };
        loop {
            match mailbox.next().await {
                MailboxItem::Completion(Completion::Response(response)) => {
                    return Ok(String::from_utf8_lossy(&response.text).into_owned());
                }
                MailboxItem::Completion(_) => return Err(self.closed().await),
                MailboxItem::Notification(_) => {}
            }
        }
    }

    pub(crate) fn notify(&self, method: &str, params: &str) {
        let mut multiplexer = self.endpoint.multiplexer();
        if multiplexer.child(self.generation).is_some() {
            multiplexer.notify_child(method, params);
        }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.endpoint.child_lost(self.generation, &LinkError::Stopped);
    }
}

/// A request of the bridge itself. Dropping it makes a late response expected.
struct PendingRequest<'a> {
    link: &'a Link,
    number: u64,
}

impl Drop for PendingRequest<'_> {
    fn drop(&mut self) {
        let mut multiplexer = self.link.endpoint.multiplexer();
        let pending = multiplexer.child(self.link.generation).and_then(|child| child.own_requests.remove(&self.number));
        if pending.is_some() {
            multiplexer.calls.abandon(self.number);
        }
    }
}

fn close_link(endpoint: &Arc<Endpoint>, generation: u64, close: &watch::Sender<Option<LinkError>>, why: LinkError) {
    endpoint.child_lost(generation, &why);
    close.send_if_modified(|known| {
        let is_first = known.is_none();
        if is_first {
            *known = Some(why);
        }
        is_first
    });
}

/// Reads lines until the end of the output, and returns the reason for the end.
async fn read<O: AsyncRead + Unpin>(endpoint: &Endpoint, generation: u64, mut output: O) -> LinkError {
    let mut lines = LineBuffer::new(LINE_BYTES_MAX);
    loop {
        match lines.next_line() {
            Line::Text(line) => endpoint.multiplexer().receive_line(generation, line),
            Line::TooLong { id, is_answer, .. } => {
                let number = match id {
                    Some(RequestId::Number(number)) if is_answer => u64::try_from(number).ok(),
                    _ => None,
                };
                endpoint.multiplexer().handle_too_long_line(generation, number);
            }
            Line::Incomplete => poll_fn(|context| lines.poll_fill(&mut output, context)).await,
            Line::End => return LinkError::OutputEnded,
        }
    }
}

/// Writes everything that waits with one write, repeatedly, and returns the reason for the end.
async fn write<I: AsyncWrite + Unpin>(
    endpoint: &Endpoint,
    generation: u64,
    writer: &Notify,
    mut input: I,
) -> LinkError {
    let mut buffer = Vec::new();
    loop {
        let out = {
            let mut multiplexer = endpoint.multiplexer();
            let Some(child) = multiplexer.child(generation) else {
                return LinkError::Replaced;
            };
            let out = child.take_write_buffer(std::mem::take(&mut buffer));
            // The emptied buffer has capacity for waiting calls.
            multiplexer.send_waiting();
            out
        };
        if out.is_empty() {
            writer.notified().await;
            continue;
        }
        let written = input.write_all(&out).await;
        if let Err(error) = written.and(input.flush().await) {
            return LinkError::InputFailed(Arc::new(error));
        }
        buffer = out;
        buffer.clear();
        if buffer.capacity() > BUFFER_BYTES_KEPT {
            buffer = Vec::new();
        }
    }
}
