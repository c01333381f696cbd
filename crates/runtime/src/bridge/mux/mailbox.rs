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

use super::answer::Answer;
use crate::bridge::limits::account::{Charge, Holder};

/// The most notices that wait for a reader.
pub(crate) const NOTICES_MAX: usize = 256;

/// The most bytes of notices that wait for a reader; a single longer one is let in where nothing else waits.
pub(crate) const NOTICE_BYTES_MAX: usize = 4 << 20;

/// A notice on its way to one reader.
#[derive(Debug)]
pub(crate) struct Notice {
    pub(crate) text: Bytes,
    /// What it takes of the endpoint's account.
    pub(crate) charge: Option<Charge>,
}

/// What a reader takes out.
#[derive(Debug)]
pub(crate) enum Event {
    Notice(Notice),
    End(End),
}

/// The last thing a reader takes out.
#[derive(Debug)]
pub(crate) enum End {
    /// The answer.
    Answer(Answer),
    /// Nothing more comes: the call was cancelled, or the stream ends.
    Silence,
}

/// Shared by whoever writes and the one who reads.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    /// Whose account notices count in. None for what the bridge itself reads.
    holder: Option<Holder>,
    content: Mutex<Content>,
}

#[derive(Debug, Default)]
struct Content {
    notices: VecDeque<Notice>,
    notice_bytes: usize,
    end: Option<End>,
    ended: bool,
    reader: Option<Waker>,
}

impl Mailbox {
    /// A mailbox of a client.
    pub(crate) fn of(holder: Holder) -> Arc<Self> {
        Arc::new(Self { holder: Some(holder), content: Mutex::default() })
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a notice in. Whether there was room: one that finds none is dropped.
    pub(crate) fn notice(&self, text: Bytes) -> bool {
        let mut content = self.content();
        let fits = content.notices.is_empty()
            || content.notices.len() < NOTICES_MAX && content.notice_bytes + text.len() <= NOTICE_BYTES_MAX;
        if !fits {
            return false;
        }
        if content.ended {
            return true;
        }
        let charge = self.holder.as_ref().map(|holder| holder.message(text.len()));
        if matches!(charge, Some(None)) {
            return false;
        }
        content.notice_bytes += text.len();
        content.notices.push_back(Notice { text, charge: charge.flatten() });
        content.wake();
        true
    }

    /// Ends it, unless it has ended before.
    pub(crate) fn finish(&self, end: End) {
        let mut content = self.content();
        if !content.ended {
            content.ended = true;
            content.end = Some(end);
            content.wake();
        }
    }

    /// Ends it without what still waits.
    pub(crate) fn abort(&self) {
        let mut content = self.content();
        content.notices = VecDeque::new();
        content.notice_bytes = 0;
        drop(content);
        self.finish(End::Silence);
    }

    pub(crate) fn poll_next(&self, context: &mut Context<'_>) -> Poll<Event> {
        let mut content = self.content();
        if let Some(notice) = content.notices.pop_front() {
            content.notice_bytes -= notice.text.len();
            return Poll::Ready(Event::Notice(notice));
        }
        if content.ended {
            return Poll::Ready(Event::End(content.end.take().unwrap_or(End::Silence)));
        }
        match &mut content.reader {
            Some(reader) => reader.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Takes the next thing out, once there is one.
    pub(crate) async fn next(&self) -> Event {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }
}

impl Content {
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
            assert!(mailbox.notice(Bytes::from_static(b"n")));
        }
        assert!(!mailbox.notice(Bytes::from_static(b"n")), "full");
        mailbox.finish(End::Silence);
        for _ in 0..NOTICES_MAX {
            assert!(matches!(mailbox.next().await, Event::Notice(_)));
        }
        assert!(matches!(mailbox.next().await, Event::End(End::Silence)));
        assert!(mailbox.notice(Bytes::from_static(b"n")), "dropped without a word");
        assert!(matches!(mailbox.next().await, Event::End(End::Silence)));
    }

    #[tokio::test]
    async fn bytes_are_bounded_too() {
        let mailbox = Mailbox::default();
        assert!(mailbox.notice(vec![b' '; 2 * NOTICE_BYTES_MAX].into()), "alone");
        assert!(!mailbox.notice(Bytes::from_static(b"n")));
        mailbox.abort();
        assert!(matches!(mailbox.next().await, Event::End(End::Silence)));
    }
}
