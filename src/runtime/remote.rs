//! The health of a server that runs elsewhere: it is spoken to as a client would.
//!
//! The first check opens a session, later ones ask within it, and its end is told. Invariants: a check takes no longer than
//! it may, and reads a bounded part of each answer; and no reason has the text of a header, a URL or a body.

mod answer;
mod exchange;
mod session;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use exchange::Target;
use session::{Checked, Session};

/// A server that runs elsewhere, and the session with it.
pub struct Remote {
    target: Arc<Target>,
    session: Option<Session>,
}

impl Remote {
    /// The server at `url`, to which these headers are sent. Nothing is sent yet.
    #[must_use]
    pub fn new(url: &str, headers: &BTreeMap<String, String>) -> Self {
        Self { target: Arc::new(Target::new(url, headers)), session: None }
    }

    /// Whether the server answers within `timeout`. Answering that it refuses is answering, too.
    ///
    /// # Errors
    /// It does not answer, or not as a server of MCP: why, in words that go on after its name.
    pub async fn check(&mut self, timeout: Duration) -> Result<(), String> {
        let (target, session) = (Arc::clone(&self.target), self.session.take());
        let (tell, told) = oneshot::channel();
        spawn(move || {
            let checked = Checked::now(&target, session, Instant::now() + timeout);
            if let Err(Checked { session: Some(session), .. }) = tell.send(checked) {
                // Nobody waits any more, and so nobody would end it later.
                session.end(&target);
            }
        })
        .map_err(|error| format!("cannot be checked, since no thread can be had ({error})"))?;
        let checked = told.await.map_err(|_| "cannot be checked, since the check panicked".to_owned())?;
        self.session = checked.session;
        checked.health.map_err(|failure| failure.in_words(timeout))
    }

    /// Tells the server that nobody will ask any more, and waits until it knows, but not for long.
    pub async fn close(mut self) {
        let Some(session) = self.session.take() else { return };
        let target = Arc::clone(&self.target);
        let (tell, told) = oneshot::channel();
        let spawned = spawn(move || {
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
            let _ = spawn(move || session.end(&target));
        }
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Remote").field("has_session", &self.session.is_some()).finish_non_exhaustive()
    }
}

/// Runs what blocks on a thread of its own: those of the runtime would be waited for when that ends.
fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name("remote".to_owned()).spawn(work).map(drop)
}
