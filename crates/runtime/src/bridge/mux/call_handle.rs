//! The caller's handle to its call.
//!
//! Invariant: dropping the handle cancels a call of a client without a session. Any other call continues.

use std::sync::Arc;

use super::{
    call::Call,
    mailbox::{Completion, Mailbox, MailboxItem, Notification},
    protocol::ProtocolMode,
    rpc_response::RpcResponse,
};
use crate::bridge::endpoint::Endpoint;

/// The next item for a caller.
#[derive(Debug)]
pub(crate) enum StreamItem {
    Notification(Notification),
    Response(RpcResponse),
    /// There is no response: the client cancelled the call.
    NoResponse,
}

#[derive(Debug)]
pub(crate) struct CallHandle {
    endpoint: Arc<Endpoint>,
    mailbox: Arc<Mailbox>,
    number: u64,
    mode: ProtocolMode,
    is_completed: bool,
}

impl CallHandle {
    /// Submits a call.
    ///
    /// # Errors
    /// Returns the response to a call that was rejected.
    pub(crate) fn submit(endpoint: &Arc<Endpoint>, mut call: Box<Call>) -> Result<Self, RpcResponse> {
        let mailbox = Mailbox::for_client(endpoint.memory_budget.for_lease(call.allocation));
        call.mailbox = Some(Arc::clone(&mailbox));
        let (number, mode) = (call.number, call.mode);
        endpoint.multiplexer().submit(call)?;
        Ok(Self { endpoint: Arc::clone(endpoint), mailbox, number, mode, is_completed: false })
    }

    /// Returns the next item. Cancel-safe: no item is lost.
    pub(crate) async fn next(&mut self) -> StreamItem {
        let completion = match self.mailbox.next().await {
            MailboxItem::Notification(notification) => return StreamItem::Notification(notification),
            MailboxItem::Completion(completion) => completion,
        };
        self.is_completed = true;
        match completion {
            Completion::Response(response) => StreamItem::Response(response),
            Completion::NoResponse => StreamItem::NoResponse,
        }
    }
}

impl Drop for CallHandle {
    fn drop(&mut self) {
        if !self.is_completed && self.mode == ProtocolMode::Stateless {
            let number = self.number;
            let mut multiplexer = self.endpoint.multiplexer();
            multiplexer.cancel("the client disconnected", |call| call.number == number, |_| Completion::NoResponse);
        }
    }
}
