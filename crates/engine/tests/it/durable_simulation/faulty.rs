//! A journal that fails as planned.

use cortex_core::Cluster;
use cortex_journal::{Journal, JournalEntry, JournalError, Recovered};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;

/// How the next commit fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    FailBefore,
    FailAfter,
    CrashBefore,
    CrashAfter,
}

/// The planned failures.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) commit: Option<Fault>,
    /// The number of loads that fail before one succeeds.
    pub(crate) loads: u32,
    /// Whether the process crashes before the journal is closed.
    pub(crate) crashes_at_end: bool,
}

/// The plan, and the notification of a crash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults(Arc<(Mutex<Plan>, Notify)>);

impl Faults {
    pub(crate) fn plan(&self) -> MutexGuard<'_, Plan> {
        self.0.0.lock().expect("no panic while the plan is locked")
    }

    /// Waits for the planned crash.
    pub(crate) async fn crash(&self) {
        self.0.1.notified().await;
    }

    /// Notifies of the crash. The receiver drops the engine, so this never returns.
    async fn never(&self) -> ! {
        self.0.1.notify_one();
        std::future::pending().await
    }
}

pub(crate) struct Faulty<J> {
    pub(crate) inner: J,
    pub(crate) faults: Faults,
}

fn injected(action: &'static str) -> JournalError {
    JournalError::System { path: "injected".into(), action, source: std::io::Error::other("injected") }
}

impl<J: Journal + Sync> Journal for Faulty<J> {
    const IS_DURABLE: bool = J::IS_DURABLE;

    async fn load(&mut self) -> Result<Recovered, JournalError> {
        if self.fails_to_load() {
            return Err(injected("read"));
        }
        self.inner.load().await
    }

    fn append(&mut self, entries: &mut Vec<JournalEntry>) {
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

    async fn close(self, cluster: Cluster, within: Duration) {
        if !self.faults.plan().crashes_at_end {
            self.inner.close(cluster, within).await;
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
