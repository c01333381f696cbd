//! Health checks of remote servers, in the role of an MCP client.
//!
//! The first check opens a session, later ones send a request in it, and it is deleted at the end. Invariants: a check
//! keeps its time limit and reads a bounded part of each response; all checks together use a bounded number of threads;
//! and no reason has text of a header, a URL or a body.

mod http;
mod reply;
mod session;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

use http::{ProbeFailure, Target};
use session::{END_TIMEOUT, ProbeResult, ProbeSession};

/// The most concurrent checks, each on a thread. A server that hangs occupies its thread for a whole check, by default
/// 10 s of every 10 s: this many can hang before other checks are delayed. Servers that answer need a fraction of a
/// second, so that a whole catalog of them can share the threads.
const THREADS_MAX: usize = 32;

/// The permits for threads of all checks of this process.
static THREADS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(THREADS_MAX)));

/// Why a check failed. `Display` continues a sentence that begins with the name of the server.
#[derive(Debug, Error)]
pub(crate) enum CheckError {
    #[error("did not answer within {} s", .0.as_secs_f64())]
    Late(Duration),
    #[error(transparent)]
    Probe(ProbeFailure),
    #[error("cannot be checked because no thread can be started ({0})")]
    NoThread(io::Error),
    #[error("cannot be checked because the check panicked")]
    Panicked,
}

/// Checks the health of one remote server.
pub(crate) struct HealthProbe {
    target: Arc<Target>,
    session: Option<ProbeSession>,
    threads: Arc<Semaphore>,
}

impl HealthProbe {
    /// Returns a probe of the server at `url`, which sends these headers. Sends nothing yet.
    #[must_use]
    pub(crate) fn new(url: &str, headers: &BTreeMap<String, String>) -> Self {
        Self { target: Arc::new(Target::new(url, headers)), session: None, threads: Arc::clone(&THREADS) }
    }

    /// Checks that the server answers within `within`, counted from when a thread is free. An MCP error is an answer
    /// too.
    ///
    /// # Errors
    /// It does not answer, or not with MCP.
    pub(crate) async fn check(&mut self, within: Duration) -> Result<(), CheckError> {
        // Fails only if the semaphore is closed, which it never is.
        let Ok(permit) = Arc::clone(&self.threads).acquire_owned().await else { return Ok(()) };
        let (target, session) = (Arc::clone(&self.target), self.session.take());
        let (sender, receiver) = oneshot::channel();
        spawn(permit, move || {
            let checked = ProbeResult::of(&target, session, Instant::now() + within);
            if let Err(ProbeResult { session: Some(session), .. }) = sender.send(checked) {
                // The check was abandoned, so that nothing else would end the session later.
                session.end(&target);
            }
        })
        .map_err(CheckError::NoThread)?;
        let checked = receiver.await.map_err(|_| CheckError::Panicked)?;
        self.session = checked.session;
        checked.health.map_err(|failure| match failure {
            ProbeFailure::Late => CheckError::Late(within),
            failure => CheckError::Probe(failure),
        })
    }

    /// Deletes the session at the server, and waits for that up to [`END_TIMEOUT`].
    pub(crate) async fn close(mut self) {
        let Some(session) = self.session.take() else { return };
        let target = Arc::clone(&self.target);
        let permit = timeout(END_TIMEOUT, Arc::clone(&self.threads).acquire_owned()).await;
        // If no thread is free, the server drops the session when it expires.
        let Ok(Ok(permit)) = permit else { return };
        let (sender, receiver) = oneshot::channel();
        let spawned = spawn(permit, move || {
            session.end(&target);
            let _ = sender.send(());
        });
        if spawned.is_ok() {
            let _ = receiver.await;
        }
    }
}

impl Drop for HealthProbe {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            let target = Arc::clone(&self.target);
            // If no thread is free, the server drops the session when it expires.
            if let Ok(permit) = Arc::clone(&self.threads).try_acquire_owned() {
                let _ = spawn(permit, move || session.end(&target));
            }
        }
    }
}

impl fmt::Debug for HealthProbe {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("HealthProbe").field("has_session", &self.session.is_some()).finish_non_exhaustive()
    }
}

/// Runs blocking work on a thread of its own. The end of the runtime would wait for its own threads. The permit is
/// released when the work is done, even if the check was abandoned.
fn spawn(permit: OwnedSemaphorePermit, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let work = move || {
        work();
        drop(permit);
    };
    thread::Builder::new().name("remote".to_owned()).spawn(work).map(drop)
}
