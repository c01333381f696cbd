//! The handle by which everybody else reaches the engine.

use super::message::{Change, Demand, EngineError, Grant, Listing, Message, Page, Reading, Record, Released, Ticket};
use crate::core::{AllocationId, AllocationView, CapacityView, FencingToken, Request, TtlSeconds};
use std::sync::Arc;
use tokio::sync::{broadcast, mpsc, oneshot};

/// How many ids of expired leases one answer names; all are counted.
pub(super) const EXPIRED_NAMED_MAX: usize = 10_000;

/// A way to the engine. Messages of one handle take effect in the order in which they are sent.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    messages: mpsc::Sender<Message>,
    changes: broadcast::Sender<Arc<Change>>,
}

/// What a sweep ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// The leases, the longest overdue first; at most 10,000.
    pub named: Vec<AllocationId>,
    /// How many there were.
    pub count: u64,
}

impl EngineHandle {
    pub(super) const fn new(messages: mpsc::Sender<Message>, changes: broadcast::Sender<Arc<Change>>) -> Self {
        Self { messages, changes }
    }

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T, EngineError> {
        let (reply, answer) = oneshot::channel();
        self.messages.send(message(reply)).await.map_err(|_| EngineError::Stopped)?;
        // An engine that is there and gives no answer has dropped it with the batch that it could not commit.
        let lost = |_| if self.messages.is_closed() { EngineError::Stopped } else { EngineError::NotCommitted };
        answer.await.map_err(lost)
    }

    /// Asks for a lease. With the ticket the request can be called off from anywhere, before and after it is decided on.
    ///
    /// # Errors
    /// [`EngineError::Refused`] if there is no room, [`EngineError::Denied`] if the request id was used for another request,
    /// [`EngineError::CalledOff`] if it was called off by then.
    pub async fn request(&self, request: Request, ticket: Ticket) -> Result<Grant, EngineError> {
        let request = Box::new(request);
        self.ask(|reply| Message::Request { request, ticket, reply }).await?
    }

    /// Gives a lease back.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if there is no such allocation.
    pub async fn release(&self, allocation: AllocationId) -> Result<Released, EngineError> {
        self.ask(|reply| Message::Release { allocation, reply }).await?
    }

    /// Calls a request off whose caller will not hear of its grant, without waiting: it is not granted any more, or what
    /// was granted is rolled back before anything that is sent from now on. A grant to an earlier request with the same
    /// request id stays.
    pub fn call_off(&self, ticket: Ticket) {
        ticket.call_off();
        let message = Message::CallOff { ticket };
        if let Err(mpsc::error::TrySendError::Full(message)) = self.messages.try_send(message) {
            // A task of its own waits for room; the grant that it undoes is already behind it in the books.
            let messages = self.messages.clone();
            tokio::spawn(async move { drop(messages.send(message).await) });
        }
    }

    /// Lets a lease run anew from now.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if it is unknown, has ended or expired, or the token is not its own.
    pub async fn renew(
        &self,
        allocation: AllocationId,
        ttl_seconds: Option<TtlSeconds>,
        fencing_token: Option<FencingToken>,
    ) -> Result<AllocationView, EngineError> {
        self.ask(|reply| Message::Renew { allocation, ttl_seconds, fencing_token, reply }).await?
    }

    /// Records the expiry of every lease past its deadline, in batches between which others are served, and forgets
    /// records that are too old.
    ///
    /// # Errors
    /// [`EngineError`] if the engine has a fault or has ended.
    pub async fn sweep(&self) -> Result<Expired, EngineError> {
        let mut expired = Expired::default();
        loop {
            let (batch, more) = self.ask(|reply| Message::Sweep { reply }).await??;
            expired.count += batch.len() as u64;
            let room = EXPIRED_NAMED_MAX - expired.named.len();
            expired.named.extend(batch.into_iter().take(room));
            if !more {
                break;
            }
            // Without a pause the runtime would look at its input only every so many batches.
            tokio::task::yield_now().await;
        }
        self.messages.send(Message::TrimHistory).await.map_err(|_| EngineError::Stopped)?;
        Ok(expired)
    }

    /// Gives the node so many worker slots.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if more are leased.
    pub async fn set_workers(&self, workers: u64) -> Result<(), EngineError> {
        self.ask(|reply| Message::SetWorkers { workers, reply }).await?
    }

    /// The capacity.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has ended, [`EngineError::NotCommitted`] if a batch failed meanwhile.
    pub async fn capacity(&self) -> Result<Reading<CapacityView>, EngineError> {
        self.ask(|reply| Message::Capacity { reply }).await
    }

    /// The capacity, and how much was asked for.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has ended, [`EngineError::NotCommitted`] if a batch failed meanwhile.
    pub async fn demand(&self) -> Result<Reading<Demand>, EngineError> {
        self.ask(|reply| Message::Demand { reply }).await
    }

    /// What is on record under this id.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has ended, [`EngineError::NotCommitted`] if a batch failed meanwhile.
    pub async fn allocation(&self, allocation: AllocationId) -> Result<Option<Reading<Record>>, EngineError> {
        self.ask(|reply| Message::Allocation { allocation, reply }).await
    }

    /// A page of the list of allocations and refusals.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has ended, [`EngineError::NotCommitted`] if a batch failed meanwhile.
    pub async fn list(&self, listing: Listing) -> Result<Page, EngineError> {
        let listing = Box::new(listing);
        self.ask(|reply| Message::List { listing, reply }).await
    }

    /// The changes from now on, in order. A listener that lags too far behind is told so and misses some.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Arc<Change>> {
        self.changes.subscribe()
    }
}
