//! A caller's hold on its call.
//!
//! Invariant: a call of a client without a session is cancelled when nobody holds it any more; any other runs on.

use std::sync::Arc;

use super::{
    answer::Answer,
    call::Call,
    mailbox::{End, Event, Mailbox, Notice},
    version::Era,
};
use crate::bridge::endpoint::Endpoint;

/// The next thing that a caller hears.
#[derive(Debug)]
pub(crate) enum Piece {
    Notice(Notice),
    Answer(Answer),
    /// There is no answer: the client said that it wants none.
    Silence,
}

#[derive(Debug)]
pub(crate) struct Ticket {
    endpoint: Arc<Endpoint>,
    mailbox: Arc<Mailbox>,
    number: u64,
    era: Era,
    ended: bool,
}

impl Ticket {
    /// Takes a call in.
    ///
    /// # Errors
    /// The answer says why it was refused.
    pub(crate) fn take(endpoint: &Arc<Endpoint>, mut call: Box<Call>) -> Result<Self, Answer> {
        let mailbox = Mailbox::of(endpoint.account.holder(call.allocation));
        call.mailbox = Some(Arc::clone(&mailbox));
        let (number, era) = (call.number, call.era);
        endpoint.exchange().submit(call)?;
        Ok(Self { endpoint: Arc::clone(endpoint), mailbox, number, era, ended: false })
    }

    /// The next thing, once there is one. Nothing is lost if this is given up and asked again.
    pub(crate) async fn next(&mut self) -> Piece {
        let end = match self.mailbox.next().await {
            Event::Notice(notice) => return Piece::Notice(notice),
            Event::End(end) => end,
        };
        self.ended = true;
        match end {
            End::Answer(answer) => Piece::Answer(answer),
            End::Silence => Piece::Silence,
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.ended && self.era == Era::Stateless {
            let number = self.number;
            let mut exchange = self.endpoint.exchange();
            exchange.cancel("the client has gone", |call| call.number == number, |_| End::Silence);
        }
    }
}
