//! A caller's hold on its call.
//!
//! Invariant: a call of a client without a session is cancelled when nobody holds it any more; any other runs on.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    account::{Charge, Holder},
    answer::Answer,
    call::Call,
    endpoint::Endpoint,
    exchange::NotTaken,
    mailbox::{End, Event, Mailbox, Notice},
    version::Era,
};

/// The next thing that a caller hears.
#[derive(Debug)]
pub(super) enum Piece {
    Notice(Notice),
    Answer(Answer),
    /// There is no answer: the client said that it wants none.
    Silence,
}

#[derive(Debug)]
pub(super) struct Ticket {
    endpoint: Arc<Endpoint>,
    holder: Holder,
    mailbox: Arc<Mailbox>,
    number: u64,
    era: Era,
    /// The call, while it waits for a child.
    returned: Option<Returned>,
    ended: bool,
}

#[derive(Debug)]
struct Returned {
    call: Box<Call>,
    /// How long it waits.
    until: Instant,
    /// What its text takes of the endpoint's account meanwhile.
    _charge: Charge,
}

impl Returned {
    /// Keeps a call.
    ///
    /// # Errors
    /// There is no room for it.
    fn new(holder: &Holder, call: Box<Call>, until: Instant) -> Result<Self, Answer> {
        match holder.message(call.text.len()) {
            Some(charge) => Ok(Self { call, until, _charge: charge }),
            None => Err(Answer::unavailable(&call.client_id, &holder.crowded(), true)),
        }
    }
}

impl Ticket {
    /// Takes a call in.
    ///
    /// # Errors
    /// The answer says why it was refused.
    pub(super) fn take(endpoint: &Arc<Endpoint>, mut call: Box<Call>) -> Result<Self, Answer> {
        let holder = endpoint.account.holder(call.allocation);
        let mailbox = Mailbox::of(holder.clone());
        call.mailbox = Some(Arc::clone(&mailbox));
        let (number, era) = (call.number, call.era);
        let returned = match endpoint.exchange().submit(call) {
            Ok(()) => None,
            Err(NotTaken::NoChild(call)) => Some(Returned::new(&holder, call, endpoint.patience())?),
            Err(NotTaken::Refused(answer)) => return Err(answer),
        };
        Ok(Self { endpoint: Arc::clone(endpoint), holder, mailbox, number, era, returned, ended: false })
    }

    /// The next thing, once there is one. Nothing is lost if this is given up and asked again.
    pub(super) async fn next(&mut self) -> Piece {
        loop {
            if let Some(answer) = self.try_again().await {
                return self.refuse(answer);
            }
            match self.mailbox.next().await {
                Event::Notice(notice) => return Piece::Notice(notice),
                Event::End(End::Answer(answer)) => return self.end(Piece::Answer(answer)),
                Event::End(End::Silence) => return self.end(Piece::Silence),
                Event::End(End::Returned(call)) => match Returned::new(&self.holder, call, self.endpoint.patience()) {
                    Ok(returned) => self.returned = Some(returned),
                    Err(answer) => return self.refuse(answer),
                },
            }
        }
    }

    fn end(&mut self, piece: Piece) -> Piece {
        self.ended = true;
        piece
    }

    /// The answer is one of the bridge's own.
    fn refuse(&mut self, answer: Answer) -> Piece {
        self.endpoint.exchange().usages.add_error(self.holder.allocation, answer.text.len());
        self.end(Piece::Answer(answer))
    }

    /// Sends a call that came back to the next child. The answer, if there is none.
    async fn try_again(&mut self) -> Option<Answer> {
        while let Some(Returned { call, until, .. }) = &self.returned {
            if let Err(down) = self.endpoint.up(*until, call.allocation).await {
                return Some(down.answer(&call.client_id));
            }
            let Some(Returned { mut call, until, .. }) = self.returned.take() else {
                break;
            };
            self.mailbox.reopen();
            call.mailbox = Some(Arc::clone(&self.mailbox));
            let taken = self.endpoint.exchange().submit(call);
            match taken {
                Ok(()) => {}
                Err(NotTaken::NoChild(call)) => match Returned::new(&self.holder, call, until) {
                    Ok(returned) => self.returned = Some(returned),
                    Err(answer) => return Some(answer),
                },
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
