//! A caller's hold on its call.
//!
//! Invariant: a call of a client without a session is cancelled when nobody holds it any more; any other runs on.

use std::sync::Arc;

use super::{
    call::Call,
    mailbox::{Completion, Mailbox, MailboxItem, Notification},
    protocol::ProtocolMode,
    rpc_response::RpcResponse,
};
use crate::bridge::endpoint::Endpoint;

/// The next thing that a caller hears.
#[derive(Debug)]
pub(crate) enum StreamItem {
    Notification(Notification),
    Response(RpcResponse),
    /// There is no answer: the client said that it wants none.
    NoResponse,
}

#[derive(Debug)]
pub(crate) struct CallHandle {
    endpoint: Arc<Endpoint>,
    mailbox: Arc<Mailbox>,
    number: u64,
    mode: ProtocolMode,
    ended: bool,
}

impl CallHandle {
    /// Takes a call in.
    ///
    /// # Errors
    /// The answer says why it was refused.
    pub(crate) fn submit(endpoint: &Arc<Endpoint>, mut call: Box<Call>) -> Result<Self, RpcResponse> {
        let mailbox = Mailbox::of(endpoint.memory_budget.for_lease(call.allocation));
        call.mailbox = Some(Arc::clone(&mailbox));
        let (number, mode) = (call.number, call.mode);
        endpoint.multiplexer().submit(call)?;
        Ok(Self { endpoint: Arc::clone(endpoint), mailbox, number, mode, ended: false })
    }

    /// The next thing, once there is one. Nothing is lost if this is given up and asked again.
    pub(crate) async fn next(&mut self) -> StreamItem {
        let end = match self.mailbox.next().await {
            MailboxItem::Notification(notice) => return StreamItem::Notification(notice),
            MailboxItem::Completion(end) => end,
        };
        self.ended = true;
        match end {
            Completion::Response(response) => StreamItem::Response(response),
            Completion::NoResponse => StreamItem::NoResponse,
        }
    }
}

impl Drop for CallHandle {
    fn drop(&mut self) {
        if !self.ended && self.mode == ProtocolMode::Stateless {
            let number = self.number;
            let mut multiplexer = self.endpoint.multiplexer();
            multiplexer.cancel("the client has gone", |call| call.number == number, |_| Completion::NoResponse);
        }
    }
}
