//! The items of one HTTP response in their order: of one call, of a batch of calls, or of a stream of notifications.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use axum::body::Bytes;
use futures_util::{Stream, stream};

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

/// How often a stream without items sends a comment, so that the connection stays open.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

const KEEP_ALIVE: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// The source of the items.
#[derive(Debug)]
pub(crate) enum ResponseStream {
    Call(CallHandle),
    Batch(Batch),
    Notifications(StreamGuard),
}

/// The calls of a batch, whose responses are sent together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) responses: Vec<RpcResponse>,
    pub(crate) calls: VecDeque<CallHandle>,
}

/// A registered stream of notifications. It is unregistered when this is dropped.
#[derive(Debug)]
pub(crate) struct StreamGuard {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) owner: StreamOwner,
}

#[derive(Debug)]
pub(crate) enum StreamOwner {
    Session(SessionId),
    Listener(u64),
}

impl ResponseStream {
    /// Returns the next item. Cancel-safe: no item is lost.
    pub(crate) async fn next(&mut self) -> StreamItem {
        match self {
            Self::Call(call) => call.next().await,
            Self::Batch(batch) => batch.next().await,
            Self::Notifications(guard) => match guard.mailbox.next().await {
                MailboxItem::Notification(notification) => StreamItem::Notification(notification),
                MailboxItem::Completion(Completion::Response(response)) => StreamItem::Response(response),
                MailboxItem::Completion(_) => StreamItem::NoResponse,
            },
        }
    }

    /// Returns the items as server-sent events, beginning with `first` if it was taken out before.
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
                StreamItem::Notification(notification) => {
                    Some((event(&notification.text, notification.reservation), (Some(responses), None)))
                }
                StreamItem::Response(response) => Some((event(&response.text, response.reservation), (None, None))),
                StreamItem::NoResponse => None,
            }
        })
    }
}

impl Batch {
    async fn next(&mut self) -> StreamItem {
        while let Some(call) = self.calls.front_mut() {
            match call.next().await {
                StreamItem::Notification(notification) => return StreamItem::Notification(notification),
                StreamItem::Response(response) => self.responses.push(response),
                StreamItem::NoResponse => {}
            }
            self.calls.pop_front();
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
            StreamOwner::Session(session) => {
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

/// Returns a message of one line as an event that keeps the message's reservation.
pub(crate) fn event(text: &[u8], reservation: Option<MemoryReservation>) -> Bytes {
    const PREFIX: &[u8] = b"event: message\ndata: ";
    let mut event = Vec::with_capacity(PREFIX.len() + text.len() + 2);
    event.extend_from_slice(PREFIX);
    event.extend_from_slice(text);
    event.extend_from_slice(b"\n\n");
    with_reservation(event, reservation)
}
