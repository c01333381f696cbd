//! A caller's hold on its call.
//!
//! Invariant: a call of a client without a session is cancelled when nobody holds it any more; any other runs on.

use std::sync::Arc;

use hyper::body::Bytes;
use tokio::time::Instant;

use super::{
    answer::Answer,
    call::Call,
    endpoint::Endpoint,
    exchange::NotTaken,
    mailbox::{End, Event, Mailbox},
    version::Era,
};

/// The next thing that a caller hears.
#[derive(Debug)]
pub(super) enum Piece {
    Notice(Bytes),
    Answer(Answer),
    /// There is no answer: the client said that it wants none.
    Silence,
}

#[derive(Debug)]
pub(super) struct Ticket {
    endpoint: Arc<Endpoint>,
    mailbox: Arc<Mailbox>,
    number: u64,
    era: Era,
    /// The call, while it waits for a child, and for how long it does.
    returned: Option<(Box<Call>, Instant)>,
    ended: bool,
}

impl Ticket {
    /// Takes a call in.
    ///
    /// # Errors
    /// The answer says why it was refused.
    pub(super) fn take(endpoint: &Arc<Endpoint>, mut call: Box<Call>) -> Result<Self, Answer> {
        let mailbox = Arc::new(Mailbox::default());
        call.mailbox = Some(Arc::clone(&mailbox));
        let (number, era) = (call.number, call.era);
        let returned = match endpoint.exchange().submit(call) {
            Ok(()) => None,
            Err(NotTaken::NoChild(call)) => Some((call, endpoint.patience())),
            Err(NotTaken::Refused(answer)) => return Err(answer),
        };
        Ok(Self { endpoint: Arc::clone(endpoint), mailbox, number, era, returned, ended: false })
    }

    /// The next thing, once there is one. Nothing is lost if this is given up and asked again.
    pub(super) async fn next(&mut self) -> Piece {
        loop {
            if let Some(answer) = self.try_again().await {
                return self.end(Piece::Answer(answer));
            }
            match self.mailbox.next().await {
                Event::Notice(text) => return Piece::Notice(text),
                Event::End(End::Answer(answer)) => return self.end(Piece::Answer(answer)),
                Event::End(End::Silence) => return self.end(Piece::Silence),
                Event::End(End::Returned(call)) => self.returned = Some((call, self.endpoint.patience())),
            }
        }
    }

    fn end(&mut self, piece: Piece) -> Piece {
        self.ended = true;
        piece
    }

    /// Sends a call that came back to the next child. The answer, if there is none.
    async fn try_again(&mut self) -> Option<Answer> {
        while let Some((call, until)) = &self.returned {
            if let Err(down) = self.endpoint.up(*until, call.allocation).await {
                return Some(down.answer(&call.client_id));
            }
            let Some((mut call, until)) = self.returned.take() else {
                break;
            };
            self.mailbox.reopen();
            call.mailbox = Some(Arc::clone(&self.mailbox));
            let taken = self.endpoint.exchange().submit(call);
            match taken {
                Ok(()) => {}
                Err(NotTaken::NoChild(call)) => self.returned = Some((call, until)),
                Err(NotTaken::Refused(answer)) => return Some(answer),
            }
        }
        None
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
