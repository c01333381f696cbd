//! The messages that wait for one reader: notifications in their order, then the completion.
//!
//! Invariants: a mailbox holds at most [`NOTIFICATIONS_MAX`] notifications with at most [`NOTIFICATION_BYTES_MAX`]
//! bytes, unless a single one is longer, and no more than its lease's memory budget allows; nothing follows the
//! completion; and the completion is never dropped, even if notifications were.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use hyper::body::Bytes;

use super::rpc_response::RpcResponse;
use crate::bridge::limits::memory_budget::{LeaseMemory, MemoryReservation};

/// The most notifications that wait for a reader.
pub(crate) const NOTIFICATIONS_MAX: usize = 256;

/// The most bytes of notifications that wait for a reader. A longer one is accepted if no other waits.
pub(crate) const NOTIFICATION_BYTES_MAX: usize = 4 << 20;

/// A notification that waits for one reader.
#[derive(Debug)]
pub(crate) struct Notification {
    pub(crate) text: Bytes,
    /// The bytes reserved for it.
    pub(crate) reservation: Option<MemoryReservation>,
}

/// An item that a reader takes out.
#[derive(Debug)]
pub(crate) enum MailboxItem {
    Notification(Notification),
    Completion(Completion),
}

/// The last item that a reader takes out.
#[derive(Debug)]
pub(crate) enum Completion {
    /// The response.
    Response(RpcResponse),
    /// There is no response: the call was cancelled, or the stream ended.
    NoResponse,
}

/// A queue with several writers and one reader.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    /// The budget for notifications. `None` if the bridge itself reads.
    memory: Option<LeaseMemory>,
    state: Mutex<MailboxState>,
}

#[derive(Debug, Default)]
struct MailboxState {
    notifications: VecDeque<Notification>,
    notification_bytes: usize,
    completion: Option<Completion>,
    is_completed: bool,
    reader: Option<Waker>,
}

impl Mailbox {
    /// Returns a mailbox whose notifications count against this memory budget.
    pub(crate) fn for_client(memory: LeaseMemory) -> Arc<Self> {
        Arc::new(Self { memory: Some(memory), state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, MailboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a notification. Returns false if a limit does not allow it, so that it was dropped.
    pub(crate) fn push(&self, text: Bytes) -> bool {
        let mut state = self.state();
        let fits = state.notifications.is_empty()
            || state.notifications.len() < NOTIFICATIONS_MAX
                && state.notification_bytes + text.len() <= NOTIFICATION_BYTES_MAX;
        if !fits {
            return false;
        }
        if state.is_completed {
            return true;
        }
        let reservation = self.memory.as_ref().map(|memory| memory.reserve_message(text.len()));
        if matches!(reservation, Some(None)) {
            return false;
        }
        state.notification_bytes += text.len();
        state.notifications.push_back(Notification { text, reservation: reservation.flatten() });
        state.wake();
        true
    }

    /// Completes the mailbox, unless it is completed.
    pub(crate) fn finish(&self, completion: Completion) {
        let mut state = self.state();
        if !state.is_completed {
            state.is_completed = true;
            state.completion = Some(completion);
            state.wake();
        }
    }

    /// Completes the mailbox and drops the notifications that wait.
    pub(crate) fn abort(&self) {
        let mut state = self.state();
        state.notifications = VecDeque::new();
        state.notification_bytes = 0;
        drop(state);
        self.finish(Completion::NoResponse);
    }

    pub(crate) fn poll_next(&self, context: &mut Context<'_>) -> Poll<MailboxItem> {
        let mut state = self.state();
        if let Some(notification) = state.notifications.pop_front() {
            state.notification_bytes -= notification.text.len();
            return Poll::Ready(MailboxItem::Notification(notification));
        }
        if state.is_completed {
            return Poll::Ready(MailboxItem::Completion(state.completion.take().unwrap_or(Completion::NoResponse)));
        }
        match &mut state.reader {
            Some(reader) => reader.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Takes out the next item. Cancel-safe.
    pub(crate) async fn next(&self) -> MailboxItem {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }
}

impl MailboxState {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn notifications_are_bounded_and_the_completion_is_not_lost() {
        let mailbox = Mailbox::default();
        for _ in 0..NOTIFICATIONS_MAX {
            assert!(mailbox.push(Bytes::from_static(b"n")));
        }
        assert!(!mailbox.push(Bytes::from_static(b"n")), "full");
        mailbox.finish(Completion::NoResponse);
        for _ in 0..NOTIFICATIONS_MAX {
            assert!(matches!(mailbox.next().await, MailboxItem::Notification(_)));
        }
        assert!(matches!(mailbox.next().await, MailboxItem::Completion(Completion::NoResponse)));
        assert!(mailbox.push(Bytes::from_static(b"n")), "dropped after the completion");
        assert!(matches!(mailbox.next().await, MailboxItem::Completion(Completion::NoResponse)));
    }

    #[tokio::test]
    async fn bytes_are_bounded_too() {
        let mailbox = Mailbox::default();
        assert!(mailbox.push(vec![b' '; 2 * NOTIFICATION_BYTES_MAX].into()), "alone");
        assert!(!mailbox.push(Bytes::from_static(b"n")));
        mailbox.abort();
        assert!(matches!(mailbox.next().await, MailboxItem::Completion(Completion::NoResponse)));
    }
}
