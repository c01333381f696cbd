//! The signals that stop the process.

use std::io;

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The signals that stop the process.
#[cfg(unix)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

#[cfg(unix)]
impl Signals {
    /// Installs the handlers. From now on the signals no longer end the process by default.
    ///
    /// # Errors
    /// The system refuses the handlers.
    fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// The signals that stop the process.
#[cfg(not(unix))]
pub struct Signals;

#[cfg(not(unix))]
impl Signals {
    /// Creates the receiver; never fails.
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        // Without a handler the system ends the process, which is acceptable too.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Signals {
    /// Returns a token that the first signal cancels, for an orderly stop. The second signal ends the process
    /// immediately.
    ///
    /// # Errors
    /// The system refuses the handlers.
    pub fn stop() -> io::Result<CancellationToken> {
        let (mut signals, stop) = (Self::new()?, CancellationToken::new());
        let cancelled = stop.clone();
        tokio::spawn(async move {
            signals.next().await;
            tracing::info!("stop signal received");
            cancelled.cancel();
            signals.next().await;
            std::process::exit(0);
        });
        Ok(stop)
    }
}
