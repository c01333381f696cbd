//! One request in flight, as its handler sees it.
//!
//! The transport decides at one point whether a request was answered or cancelled, so a handler
//! that granted something asks it, and not the cancellation token, what to do with the grant.
//! Invariant: a call is answered or cancelled at most once, never both, and its undo runs exactly
//! if it was cancelled.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rmcp::model::RequestId;

use super::connection::Connection;

/// What takes back the effect of a cancelled call.
type Undo = Box<dyn FnOnce() + Send>;

/// A request in flight. The transport puts one into the extensions of every request it delivers:
/// `context.extensions.get::<Call>()`.
#[derive(Clone)]
pub struct Call(Arc<Handed>);

impl Call {
    pub(super) fn new(id: RequestId, is_listen: bool, fate: Arc<Fate>, connection: Weak<Connection>) -> Self {
        Self(Arc::new(Handed { id, is_listen, fate, connection }))
    }

    /// Registers what to do if the client cancels this call before its reply is handed over.
    ///
    /// If the call is cancelled already, `undo` runs before this returns; if it is answered,
    /// `undo` is dropped. `undo` runs on the thread that reads the client's messages, so it must
    /// neither block nor panic. If it is called twice, both run, the later one first.
    pub fn undo_if_cancelled(&self, undo: impl FnOnce() + Send + 'static) {
        let mut progress = self.0.fate.lock();
        match &mut progress.stage {
            Stage::Open(slot) => {
                *slot = Some(match slot.take() {
                    None => Box::new(undo),
                    Some(earlier) => Box::new(move || {
                        undo();
                        earlier();
                    }),
                });
            }
            Stage::Cancelled => {
                drop(progress);
                undo();
            }
            Stage::Answered => {}
        }
    }

    /// Whether the client cancelled this call before it was answered.
    pub fn is_cancelled(&self) -> bool {
        matches!(self.0.fate.lock().stage, Stage::Cancelled)
    }
}

/// What the handler's clones of a [`Call`] share. It is dropped with the last of them.
struct Handed {
    id: RequestId,
    is_listen: bool,
    fate: Arc<Fate>,
    connection: Weak<Connection>,
}

impl Drop for Handed {
    /// Comes once the handler is done. A handler that panics takes its call down with it, and rmcp
    /// then never answers: only here can it be seen, so the client gets its error. A handler that
    /// catches its own panics keeps a clone outside of what may panic. And a cancelled call takes
    /// up its place in flight until here: a client that cancels all it sends must not fill the
    /// memory with handlers that have not run.
    fn drop(&mut self) {
        let Some(connection) = self.connection.upgrade() else { return };
        if std::thread::panicking() {
            connection.abandon(&self.id, &self.fate);
        }
        if self.fate.leave() {
            connection.free_place(self.is_listen);
        }
    }
}

/// How far a call has come, shared by the transport and the handler.
pub(super) struct Fate(Mutex<Progress>);

struct Progress {
    stage: Stage,
    /// Whether the handler is done.
    has_left: bool,
}

enum Stage {
    Open(Option<Undo>),
    Cancelled,
    Answered,
}

impl Fate {
    pub(super) fn open() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Progress { stage: Stage::Open(None), has_left: false })))
    }

    /// Settles the call as answered. An undo that was registered is dropped without running.
    pub(super) fn answer(&self) {
        self.settle(Stage::Answered);
    }

    /// Settles the call as cancelled and runs its undo, if it has one. The caller holds no lock
    /// that an undo may want. Says whether the handler is done, so that the call's place in flight
    /// is free; otherwise it is when the handler is.
    pub(super) fn cancel(&self) -> bool {
        let (undo, has_left) = self.settle(Stage::Cancelled);
        if let Some(undo) = undo {
            undo();
        }
        has_left
    }

    /// Notes that the handler is done, and says whether the call was cancelled before.
    fn leave(&self) -> bool {
        let mut progress = self.lock();
        progress.has_left = true;
        matches!(progress.stage, Stage::Cancelled)
    }

    fn settle(&self, end: Stage) -> (Option<Undo>, bool) {
        let mut progress = self.lock();
        let undo = match &mut progress.stage {
            Stage::Open(undo) => undo.take(),
            Stage::Cancelled | Stage::Answered => return (None, progress.has_left),
        };
        progress.stage = end;
        (undo, progress.has_left)
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
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

    /// Runs `steps` on a fresh call and says how many undos ran.
    #[track_caller]
    fn check(steps: &[Step], undone: usize, cancelled: bool) {
        let fate = Fate::open();
        let call = Call::new(RequestId::Number(1), false, fate.clone(), Weak::new());
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
                    fate.cancel();
                }
                Step::Answer => fate.answer(),
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
