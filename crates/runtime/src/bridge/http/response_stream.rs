//! The pieces of one reply, as they come: of one call, of a batch of them, or of a stream of notices.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use hyper::body::Bytes;

use crate::bridge::{
    endpoint::Endpoint,
    limits::memory_budget::{MemoryReservation, with_reservation},
    mux::{
        call_handle::{CallHandle, StreamItem},
        mailbox::{Completion, Mailbox, MailboxItem},
        rpc_response::RpcResponse,
        session::SessionId,
    },
};

/// How often a silent stream says that it is still there.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

const KEEP_ALIVE: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// Where the pieces come from.
#[derive(Debug)]
pub(crate) enum ResponseStream {
    One(CallHandle),
    Batch(Batch),
    Notices(StreamGuard),
}

/// The calls of a batch, whose answers go out together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) responses: Vec<RpcResponse>,
    pub(crate) tickets: VecDeque<CallHandle>,
}

/// Somebody's place in the books, given back when the stream goes.
#[derive(Debug)]
pub(crate) struct StreamGuard {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) owner: StreamOwner,
}

#[derive(Debug)]
pub(crate) enum StreamOwner {
    Stream(SessionId),
    Listener(u64),
}

impl ResponseStream {
    /// The next piece. Nothing is lost if this is given up and asked again.
    pub(crate) async fn next(&mut self) -> StreamItem {
        match self {
            Self::One(ticket) => ticket.next().await,
            Self::Batch(batch) => batch.next().await,
            Self::Notices(guard) => match guard.mailbox.next().await {
                MailboxItem::Notification(notice) => StreamItem::Notification(notice),
                MailboxItem::Completion(Completion::Response(response)) => StreamItem::Response(response),
                MailboxItem::Completion(_) => StreamItem::NoResponse,
            },
        }
    }

    /// The pieces as events, after those that have come already.
    pub(crate) fn into_events(self, first: Option<StreamItem>) -> impl Stream<Item = Bytes> + Send + 'static {
        stream::unfold((Some(self), first), |(responses, first)| async move {
            let mut responses = responses?;
            let item = match first {
                Some(first) => first,
                None => match tokio::time::timeout(KEEP_ALIVE_INTERVAL, responses.next()).await {
                    Ok(item) => item,
                    Err(_) => return Some((KEEP_ALIVE, (Some(responses), None))),
                },
            };
            match item {
                StreamItem::Notification(notice) => {
                    Some((event(&notice.text, notice.reservation), (Some(responses), None)))
                }
                StreamItem::Response(response) => Some((event(&response.text, response.reservation), (None, None))),
                StreamItem::NoResponse => None,
            }
        })
    }
}

impl Batch {
    async fn next(&mut self) -> StreamItem {
        while let Some(ticket) = self.tickets.front_mut() {
            match ticket.next().await {
                StreamItem::Notification(notice) => return StreamItem::Notification(notice),
                StreamItem::Response(response) => self.responses.push(response),
                StreamItem::NoResponse => {}
            }
            self.tickets.pop_front();
        }
        if self.responses.is_empty() {
            return StreamItem::NoResponse;
        }
        let mut text = vec![b'['];
        let mut reservation: Option<MemoryReservation> = None;
        for response in std::mem::take(&mut self.responses) {
            if text.len() > 1 {
                text.push(b',');
            }
            text.extend_from_slice(&response.text);
            match (&mut reservation, response.reservation) {
                (Some(sum), Some(one)) => sum.merge(one),
                (None, one) => reservation = one,
                (Some(_), None) => {}
            }
        }
        text.push(b']');
        StreamItem::Response(RpcResponse { reservation, ..RpcResponse::new(text, None) })
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let mut multiplexer = self.endpoint.multiplexer();
        match &self.owner {
            StreamOwner::Stream(session) => {
                if let Some(session) = multiplexer.sessions.by_id.get_mut(session)
                    && session.stream.as_ref().is_some_and(|stream| Arc::ptr_eq(stream, &self.mailbox))
                {
                    session.stream = None;
                    session.used_at = std::time::Instant::now();
                }
            }
            StreamOwner::Listener(number) => {
                multiplexer.sessions.listeners.remove(number);
                multiplexer.sync_subscriptions();
            }
        }
    }
}

/// A message, which is one line, as an event that counts as the message did.
pub(crate) fn event(text: &[u8], reservation: Option<MemoryReservation>) -> Bytes {
    const BEFORE: &[u8] = b"event: message\ndata: ";
    let mut event = Vec::with_capacity(BEFORE.len() + text.len() + 2);
    event.extend_from_slice(BEFORE);
    event.extend_from_slice(text);
    event.extend_from_slice(b"\n\n");
    with_reservation(event, reservation)
}
