//! The pieces of one reply, as they come: of one call, of a batch of them, or of a stream of notices.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use hyper::body::Bytes;

use crate::bridge::{
    endpoint::Endpoint,
    limits::account::{Charge, charged},
    mux::{
        answer::Answer,
        mailbox::{End, Event, Mailbox},
        session::SessionId,
        ticket::{Piece, Ticket},
    },
};

/// How often a silent stream says that it is still there.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

const KEEP_ALIVE: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// Where the pieces come from.
#[derive(Debug)]
pub(crate) enum Flow {
    One(Ticket),
    Batch(Batch),
    Notices(Hold),
}

/// The calls of a batch, whose answers go out together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) answers: Vec<Answer>,
    pub(crate) tickets: VecDeque<Ticket>,
}

/// Somebody's place in the books, given back when the stream goes.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) place: Place,
}

#[derive(Debug)]
pub(crate) enum Place {
    Stream(SessionId),
    Listener(u64),
}

impl Flow {
    /// The next piece. Nothing is lost if this is given up and asked again.
    pub(crate) async fn next(&mut self) -> Piece {
        match self {
            Self::One(ticket) => ticket.next().await,
            Self::Batch(batch) => batch.next().await,
            Self::Notices(hold) => match hold.mailbox.next().await {
                Event::Notice(notice) => Piece::Notice(notice),
                Event::End(End::Answer(answer)) => Piece::Answer(answer),
                Event::End(_) => Piece::Silence,
            },
        }
    }

    /// The pieces as events, after those that have come already.
    pub(crate) fn into_events(self, first: Option<Piece>) -> impl Stream<Item = Bytes> + Send + 'static {
        stream::unfold((Some(self), first), |(flow, first)| async move {
            let mut flow = flow?;
            let piece = match first {
                Some(first) => first,
                None => match tokio::time::timeout(KEEP_ALIVE_INTERVAL, flow.next()).await {
                    Ok(piece) => piece,
                    Err(_) => return Some((KEEP_ALIVE, (Some(flow), None))),
                },
            };
            match piece {
                Piece::Notice(notice) => Some((event(&notice.text, notice.charge), (Some(flow), None))),
                Piece::Answer(answer) => Some((event(&answer.text, answer.charge), (None, None))),
                Piece::Silence => None,
            }
        })
    }
}

impl Batch {
    async fn next(&mut self) -> Piece {
        while let Some(ticket) = self.tickets.front_mut() {
            match ticket.next().await {
                Piece::Notice(notice) => return Piece::Notice(notice),
                Piece::Answer(answer) => self.answers.push(answer),
                Piece::Silence => {}
            }
            self.tickets.pop_front();
        }
        if self.answers.is_empty() {
            return Piece::Silence;
        }
        let mut text = vec![b'['];
        let mut charge: Option<Charge> = None;
        for answer in std::mem::take(&mut self.answers) {
            if text.len() > 1 {
                text.push(b',');
            }
            text.extend_from_slice(&answer.text);
            match (&mut charge, answer.charge) {
                (Some(sum), Some(one)) => sum.join(one),
                (None, one) => charge = one,
                (Some(_), None) => {}
            }
        }
        text.push(b']');
        Piece::Answer(Answer { charge, ..Answer::new(text, None) })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut exchange = self.endpoint.exchange();
        match &self.place {
            Place::Stream(session) => {
                if let Some(session) = exchange.sessions.by_id.get_mut(session)
                    && session.stream.as_ref().is_some_and(|stream| Arc::ptr_eq(stream, &self.mailbox))
                {
                    session.stream = None;
                    session.used_at = std::time::Instant::now();
                }
            }
            Place::Listener(number) => {
                exchange.sessions.listeners.remove(number);
                exchange.sync_interests();
            }
        }
    }
}

/// A message, which is one line, as an event that counts as the message did.
pub(crate) fn event(text: &[u8], charge: Option<Charge>) -> Bytes {
    const BEFORE: &[u8] = b"event: message\ndata: ";
    let mut event = Vec::with_capacity(BEFORE.len() + text.len() + 2);
    event.extend_from_slice(BEFORE);
    event.extend_from_slice(text);
    event.extend_from_slice(b"\n\n");
    charged(event, charge)
}
