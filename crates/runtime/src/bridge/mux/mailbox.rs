//! What waits for one reader: notices in their order, then the end.
//!
//! Invariants: it holds at most [`NOTICES_MAX`] notices and little over [`NOTICE_BYTES_MAX`] of them, and no more than its
//! lease has room for; nothing follows the end, and the end is never lost, also where notices were.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use hyper::body::Bytes;

use super::rpc_response::RpcResponse;
use crate::bridge::limits::memory_budget::{LeaseMemory, MemoryReservation};

/// The most notices that wait for a reader.
pub(crate) const NOTICES_MAX: usize = 256;

/// The most bytes of notices that wait for a reader; a single longer one is let in where nothing else waits.
pub(crate) const NOTICE_BYTES_MAX: usize = 4 << 20;

/// A notice on its way to one reader.
#[derive(Debug)]
pub(crate) struct Notification {
    pub(crate) text: Bytes,
    /// What it takes of the endpoint's account.
    pub(crate) reservation: Option<MemoryReservation>,
}

/// What a reader takes out.
#[derive(Debug)]
pub(crate) enum MailboxItem {
    Notification(Notification),
    Completion(Completion),
}

/// The last thing a reader takes out.
#[derive(Debug)]
pub(crate) enum Completion {
    /// The answer.
    Response(RpcResponse),
    /// Nothing more comes: the call was cancelled, or the stream ends.
    NoResponse,
}

/// Shared by whoever writes and the one who reads.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    /// Whose account notices count in. None for what the bridge itself reads.
    memory: Option<LeaseMemory>,
    state: Mutex<MailboxState>,
}

#[derive(Debug, Default)]
struct MailboxState {
    notices: VecDeque<Notification>,
    notice_bytes: usize,
    end: Option<Completion>,
    ended: bool,
    reader: Option<Waker>,
}

impl Mailbox {
    /// A mailbox of a client.
    pub(crate) fn of(memory: LeaseMemory) -> Arc<Self> {
        Arc::new(Self { memory: Some(memory), state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, MailboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a notice in. Whether there was room: one that finds none is dropped.
    pub(crate) fn push(&self, text: Bytes) -> bool {
        let mut state = self.state();
        let fits = state.notices.is_empty()
            || state.notices.len() < NOTICES_MAX && state.notice_bytes + text.len() <= NOTICE_BYTES_MAX;
        if !fits {
            return false;
        }
        if state.ended {
            return true;
        }
        let reservation = self.memory.as_ref().map(|memory| memory.reserve_message(text.len()));
        if matches!(reservation, Some(None)) {
            return false;
        }
        state.notice_bytes += text.len();
        state.notices.push_back(Notification { text, reservation: reservation.flatten() });
        state.wake();
        true
    }

    /// Ends it, unless it has ended before.
    pub(crate) fn finish(&self, end: Completion) {
        let mut state = self.state();
        if !state.ended {
            state.ended = true;
            state.end = Some(end);
            state.wake();
        }
    }

    /// Ends it without what still waits.
    pub(crate) fn abort(&self) {
        let mut state = self.state();
        state.notices = VecDeque::new();
        state.notice_bytes = 0;
        drop(state);
        self.finish(Completion::NoResponse);
    }

    pub(crate) fn poll_next(&self, context: &mut Context<'_>) -> Poll<MailboxItem> {
        let mut state = self.state();
        if let Some(notice) = state.notices.pop_front() {
            state.notice_bytes -= notice.text.len();
            return Poll::Ready(MailboxItem::Notification(notice));
        }
        if state.ended {
            return Poll::Ready(MailboxItem::Completion(state.end.take().unwrap_or(Completion::NoResponse)));
        }
        match &mut state.reader {
            Some(reader) => reader.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Takes the next thing out, once there is one.
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
    async fn notices_are_bounded_and_the_end_is_not_lost() {
        let mailbox = Mailbox::default();
        for _ in 0..NOTICES_MAX {
            assert!(mailbox.push(Bytes::from_static(b"n")));
        }
        assert!(!mailbox.push(Bytes::from_static(b"n")), "full");
        mailbox.finish(Completion::NoResponse);
        for _ in 0..NOTICES_MAX {
            assert!(matches!(mailbox.next().await, MailboxItem::Notification(_)));
        }
        assert!(matches!(mailbox.next().await, MailboxItem::Completion(Completion::NoResponse)));
        assert!(mailbox.push(Bytes::from_static(b"n")), "dropped without a word");
        assert!(matches!(mailbox.next().await, MailboxItem::Completion(Completion::NoResponse)));
    }

    #[tokio::test]
    async fn bytes_are_bounded_too() {
        let mailbox = Mailbox::default();
        assert!(mailbox.push(vec![b' '; 2 * NOTICE_BYTES_MAX].into()), "alone");
        assert!(!mailbox.push(Bytes::from_static(b"n")));
        mailbox.abort();
        assert!(matches!(mailbox.next().await, MailboxItem::Completion(Completion::NoResponse)));
    }
}
