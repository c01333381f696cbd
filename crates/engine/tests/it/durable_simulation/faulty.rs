//! A journal that fails as it is told.

use cortex_core::Cluster;
use cortex_journal::{Entry, Journal, JournalError, Recovered};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;

/// What the next commit comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    FailBefore,
    FailAfter,
    CrashBefore,
    CrashAfter,
}

/// What is to fail.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) commit: Option<Fault>,
    /// So many loads fail before one does not.
    pub(crate) loads: u32,
    /// The process ends before the journal does.
    pub(crate) crashes_at_end: bool,
}

/// The plan, and the way to tell of a crash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults(Arc<(Mutex<Plan>, Notify)>);

impl Faults {
    pub(crate) fn plan(&self) -> MutexGuard<'_, Plan> {
        self.0.0.lock().expect("nobody panics with the plan in hand")
    }

    /// Waits until the process is to crash.
    pub(crate) async fn crash(&self) {
        self.0.1.notified().await;
    }

    /// Whoever is told of a crash drops the engine, so that nothing more happens here.
    async fn never(&self) -> ! {
        self.0.1.notify_one();
        std::future::pending().await
    }
}

pub(crate) struct Faulty<J> {
    pub(crate) inner: J,
    pub(crate) faults: Faults,
}

fn injected(doing: &'static str) -> JournalError {
    JournalError::System { path: "injected".into(), doing, source: std::io::Error::other("injected") }
}

impl<J: Journal + Sync> Journal for Faulty<J> {
    const IS_DURABLE: bool = J::IS_DURABLE;

    async fn load(&mut self) -> Result<Recovered, JournalError> {
        if self.fails_to_load() {
            return Err(injected("read"));
        }
        self.inner.load().await
    }

    fn append(&mut self, entries: &mut Vec<Entry>) {
        self.inner.append(entries);
    }

    async fn commit(&mut self) -> Result<(), JournalError> {
        let fault = self.faults.plan().commit.take();
        match fault {
            None => self.inner.commit().await,
            Some(Fault::FailBefore) => Err(injected("written")),
            Some(Fault::FailAfter) => {
                self.inner.commit().await?;
                Err(injected("written"))
            }
            Some(Fault::CrashBefore) => self.faults.never().await,
            Some(Fault::CrashAfter) => {
                self.inner.commit().await?;
                self.faults.never().await
            }
        }
    }

    async fn close(self, books: Cluster, within: Duration) {
        if !self.faults.plan().crashes_at_end {
            self.inner.close(books, within).await;
        }
    }
}

impl<J> Faulty<J> {
    fn fails_to_load(&self) -> bool {
        let mut plan = self.faults.plan();
        let fails = plan.loads > 0;
        plan.loads = plan.loads.saturating_sub(1);
        fails
    }
}
