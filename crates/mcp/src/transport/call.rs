//! One request in flight, as its handler sees it.
//!
//! The transport decides at one point whether a request is answered or cancelled. A handler that
//! granted something therefore relies on its [`Call`], not on the cancellation token, to undo the
//! grant. Invariant: a call is answered or cancelled at most once, never both, and its undo runs if and
//! only if it is cancelled.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rmcp::model::RequestId;

use super::connection::Connection;

/// Reverts the effect of a cancelled call.
type Undo = Box<dyn FnOnce() + Send>;

/// A request in flight. The transport puts one into the extensions of every request it delivers:
/// `context.extensions.get::<Call>()`.
#[derive(Clone)]
pub struct Call(Arc<HandlerSide>);

impl Call {
    pub(super) fn new(id: RequestId, is_listen: bool, state: Arc<CallState>, connection: Weak<Connection>) -> Self {
        Self(Arc::new(HandlerSide { id, is_listen, state, connection }))
    }

    /// Registers `undo` for the case that the client cancels this call before its reply is sent.
    ///
    /// If the call is already cancelled, `undo` runs before this returns; if it is answered, `undo` is
    /// dropped. `undo` runs on the thread that reads the client's messages, so it must not block or
    /// panic. After two registrations both run, the later one first.
    pub fn undo_if_cancelled(&self, undo: impl FnOnce() + Send + 'static) {
        let mut inner = self.0.state.lock();
        match &mut inner.phase {
            Phase::Open(slot) => {
                *slot = Some(match slot.take() {
                    None => Box::new(undo),
                    Some(earlier) => Box::new(move || {
                        undo();
                        earlier();
                    }),
                });
            }
            Phase::Cancelled => {
                drop(inner);
                undo();
            }
            Phase::Answered => {}
        }
    }

    /// Returns whether the client cancelled this call before it was answered.
    pub fn is_cancelled(&self) -> bool {
        matches!(self.0.state.lock().phase, Phase::Cancelled)
    }
}

/// The shared part of the handler's clones of a [`Call`], dropped with the last of them.
struct HandlerSide {
    id: RequestId,
    is_listen: bool,
    state: Arc<CallState>,
    connection: Weak<Connection>,
}

impl Drop for HandlerSide {
    /// Runs once the handler is done. If the handler panicked, rmcp never replies, and only this drop
    /// detects it, so it sends the client an error. A handler that catches its own panics keeps a
    /// clone outside of the code that may panic. A cancelled call holds its slot in flight until here:
    /// otherwise a client that cancels all that it sends could fill the memory with handlers that have
    /// not run.
    fn drop(&mut self) {
        let Some(connection) = self.connection.upgrade() else { return };
        if std::thread::panicking() {
            connection.fail(&self.id, &self.state);
        }
        if self.state.finish_handler() {
            connection.release_slot(self.is_listen);
        }
    }
}

/// The state of a call, shared by the transport and the handler.
pub(super) struct CallState(Mutex<Inner>);

struct Inner {
    phase: Phase,
    is_handler_done: bool,
}

enum Phase {
    Open(Option<Undo>),
    Cancelled,
    Answered,
}

impl CallState {
    pub(super) fn open() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Inner { phase: Phase::Open(None), is_handler_done: false })))
    }

    /// Settles the call as answered. An undo that was registered is dropped without running.
    pub(super) fn answer(&self) {
        self.settle(Phase::Answered);
    }

    /// Settles the call as cancelled and runs its undo, if it has one. The caller must not hold a lock
    /// that an undo needs. Returns whether the handler is done: if so, the caller releases the call's
    /// slot in flight; otherwise the end of the handler does.
    pub(super) fn cancel(&self) -> bool {
        let (undo, is_handler_done) = self.settle(Phase::Cancelled);
        if let Some(undo) = undo {
            undo();
        }
        is_handler_done
    }

    /// Records that the handler is done, and returns whether the call was cancelled before.
    fn finish_handler(&self) -> bool {
        let mut inner = self.lock();
        inner.is_handler_done = true;
        matches!(inner.phase, Phase::Cancelled)
    }

    fn settle(&self, end: Phase) -> (Option<Undo>, bool) {
        let mut inner = self.lock();
        let undo = match &mut inner.phase {
            Phase::Open(undo) => undo.take(),
            Phase::Cancelled | Phase::Answered => return (None, inner.is_handler_done),
        };
        inner.phase = end;
        (undo, inner.is_handler_done)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Clone, Copy)]
    enum Step {
        Register,
        Cancel,
        Answer,
    }

    /// Runs `steps` on a new call and checks how many undos ran.
    #[track_caller]
    fn check(steps: &[Step], undone: usize, cancelled: bool) {
        let state = CallState::open();
        let call = Call::new(RequestId::Number(1), false, state.clone(), Weak::new());
        let count = Arc::new(AtomicUsize::new(0));
        for step in steps {
            match step {
                Step::Register => {
                    let count = count.clone();
                    call.undo_if_cancelled(move || {
                        count.fetch_add(1, Ordering::Relaxed);
                    });
                }
                Step::Cancel => {
                    state.cancel();
                }
                Step::Answer => state.answer(),
            }
        }
        assert_eq!(count.load(Ordering::Relaxed), undone);
        assert_eq!(call.is_cancelled(), cancelled);
    }

    #[test]
    fn an_undo_runs_exactly_if_the_call_was_cancelled() {
        use Step::{Answer, Cancel, Register};
        check(&[], 0, false);
        check(&[Register], 0, false);
        check(&[Register, Cancel], 1, true);
        check(&[Cancel, Register], 1, true);
        check(&[Register, Cancel, Cancel, Answer], 1, true);
        check(&[Register, Answer, Cancel], 0, false);
        check(&[Answer, Register, Cancel], 0, false);
        check(&[Register, Register, Cancel], 2, true);
        check(&[Register, Cancel, Register], 2, true);
    }
}
