//! The health of a server that runs elsewhere: it is spoken to as a client would.
//!
//! The first check opens a session, later ones ask within it, and its end is told. Invariants: a check takes no longer than
//! it may, and reads a bounded part of each answer; checks have no more than a few threads together; and no reason has the
//! text of a header, a URL or a body.

mod answer;
mod exchange;
mod session;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

use exchange::Target;
use session::{Checked, END_TIMEOUT, Session};

/// How many threads check at once. A server that hangs keeps its thread for all of a check, which is 10 s while it runs and as
/// often as it is checked: so many may hang before others are checked later than they should be. Those that answer do so in a
/// fraction of a second, so that a whole catalog of them takes turns.
const THREADS_MAX: usize = 32;

/// The threads of all checks of this process.
static THREADS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(THREADS_MAX)));

/// A server that runs elsewhere, and the session with it.
pub struct Remote {
    target: Arc<Target>,
    session: Option<Session>,
    /// Who may have a thread.
    threads: Arc<Semaphore>,
}

impl Remote {
    /// The server at `url`, to which these headers are sent. Nothing is sent yet.
    #[must_use]
    pub fn new(url: &str, headers: &BTreeMap<String, String>) -> Self {
        Self { target: Arc::new(Target::new(url, headers)), session: None, threads: Arc::clone(&THREADS) }
    }

    /// Whether the server answers within `within`, from when there is a thread to ask it. Answering that it refuses is
    /// answering, too.
    ///
    /// # Errors
    /// It does not answer, or not as a server of MCP: why, in words that go on after its name.
    pub async fn check(&mut self, within: Duration) -> Result<(), String> {
        // Waiting for others is no fault of this one.
        let Ok(permit) = Arc::clone(&self.threads).acquire_owned().await else { return Ok(()) };
        let (target, session) = (Arc::clone(&self.target), self.session.take());
        let (tell, told) = oneshot::channel();
        spawn(permit, move || {
            let checked = Checked::now(&target, session, Instant::now() + within);
            if let Err(Checked { session: Some(session), .. }) = tell.send(checked) {
                // Nobody waits any more, and so nobody would end it later.
                session.end(&target);
            }
        })
        .map_err(|error| format!("cannot be checked, since no thread can be had ({error})"))?;
        let checked = told.await.map_err(|_| "cannot be checked, since the check panicked".to_owned())?;
        self.session = checked.session;
        checked.health.map_err(|failure| failure.in_words(within))
    }

    /// Tells the server that nobody will ask any more, and waits until it knows, but not for long.
    pub async fn close(mut self) {
        let Some(session) = self.session.take() else { return };
        let target = Arc::clone(&self.target);
        let permit = timeout(END_TIMEOUT, Arc::clone(&self.threads).acquire_owned()).await;
        // A server that is not told forgets the session in time.
        let Ok(Ok(permit)) = permit else { return };
        let (tell, told) = oneshot::channel();
        let spawned = spawn(permit, move || {
            session.end(&target);
            let _ = tell.send(());
        });
        if spawned.is_ok() {
            let _ = told.await;
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            let target = Arc::clone(&self.target);
            // A server that is not told forgets the session in time.
            if let Ok(permit) = Arc::clone(&self.threads).try_acquire_owned() {
                let _ = spawn(permit, move || session.end(&target));
            }
        }
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Remote").field("has_session", &self.session.is_some()).finish_non_exhaustive()
    }
}

/// Runs what blocks on a thread of its own: those of the runtime would be waited for when that ends. The permit is given back
/// when the thread has ended, also if nobody waits for it any more.
fn spawn(permit: OwnedSemaphorePermit, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let work = move || {
        work();
        drop(permit);
    };
    thread::Builder::new().name("remote".to_owned()).spawn(work).map(drop)
}
