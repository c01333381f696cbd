//! The signals that tell the process to end.

use std::io;

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The signals that tell the process to end.
#[cfg(unix)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

#[cfg(unix)]
impl Signals {
    /// From now on the signals no longer end the process by themselves.
    ///
    /// # Errors
    /// The system does not let signals be handled.
    pub fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// The signals that tell the process to end.
#[cfg(not(unix))]
pub struct Signals;

#[cfg(not(unix))]
impl Signals {
    /// From now on the signals no longer end the process by themselves.
    ///
    /// # Errors
    /// Never.
    pub fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        // Without a way to hear of it the process is ended by the system, which is in order too.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Signals {
    /// The token is cancelled at the first signal, to end in order; the second ends the process at once.
    ///
    /// # Errors
    /// The system does not let signals be handled.
    pub fn stop() -> io::Result<CancellationToken> {
        let (mut signals, stop) = (Self::new()?, CancellationToken::new());
        let told = stop.clone();
        tokio::spawn(async move {
            signals.next().await;
            tracing::info!("told to end");
            told.cancel();
            signals.next().await;
            std::process::exit(0);
        });
        Ok(stop)
    }
}
