//! Starts daemon processes and receives their startup reports.
//!
//! Invariant: one start at a time, and at most [`FAILED_STARTS_MAX`] daemons that exit without a report.

use std::{
    env,
    ffi::OsString,
    io::{self, BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use tokio::{
    sync::oneshot::{self, error::TryRecvError},
    time::Instant,
};

use super::{log, process::StartupReport, runtime_directory::DaemonFiles};
use cortex_serving::StartupError;
use cortex_util::program;
use cortex_util::program::DAEMON;

/// The number of daemons that may exit without a report before no more are started. Some may be killed at startup; a
/// daemon that cannot read its settings never reports.
const FAILED_STARTS_MAX: u32 = 5;

/// The pause after the first daemon that exits without a report; it doubles after each further one.
const FAILED_START_PAUSE: Duration = Duration::from_millis(50);

/// The maximum length of a startup report, in bytes.
const REPORT_BYTES_MAX: u64 = 65_536;

/// The outcome of a start.
enum StartOutcome {
    Reported(StartupReport),
    /// The daemon exited without a report, with its exit status if known.
    Exited(Option<ExitStatus>),
}

/// The daemons that one session starts until it is connected.
pub(super) struct Launcher {
    /// The outcome of the daemon that is starting.
    pending: Option<oneshot::Receiver<StartOutcome>>,
    failed: u32,
    next_at: Instant,
}

impl Launcher {
    pub(super) fn new() -> Self {
        Self { pending: None, failed: 0, next_at: Instant::now() }
    }

    /// Returns whether another daemon may be started now.
    ///
    /// # Errors
    /// The last daemon reported why it cannot start, or too many daemons exited without a report.
    pub(super) fn may_start(&mut self, files: &DaemonFiles) -> Result<bool, StartupError> {
        if let Some(pending) = &mut self.pending {
            match pending.try_recv() {
                Err(TryRecvError::Empty) => return Ok(false),
                Ok(StartOutcome::Reported(StartupReport::Failed { error, held: false, .. })) => {
                    return Err(StartupError::new(error));
                }
                // The session connects to this daemon, or to one that acquired the lock before.
                Ok(StartOutcome::Reported(_)) => {}
                Ok(StartOutcome::Exited(status)) => self.note_exit(files, status)?,
                Err(TryRecvError::Closed) => self.note_exit(files, None)?,
            }
            self.pending = None;
        }
        Ok(Instant::now() >= self.next_at)
    }

    fn note_exit(&mut self, files: &DaemonFiles, status: Option<ExitStatus>) -> Result<(), StartupError> {
        self.next_at = Instant::now() + FAILED_START_PAUSE * (1 << self.failed);
        self.failed += 1;
        if self.failed < FAILED_STARTS_MAX {
            return Ok(());
        }
        let status = status.map_or_else(String::new, |status| format!(", the last with {status}"));
        Err(StartupError::new(format!(
            "{FAILED_STARTS_MAX} daemons exited at startup without reporting an error{status}: see the log {}",
            files.log.display()
        )))
    }

    /// Starts a daemon with the settings of this process.
    ///
    /// # Errors
    /// The daemon cannot be started, or its log cannot be written.
    pub(super) fn start(&mut self, files: &DaemonFiles) -> Result<(), StartupError> {
        let failed = |error: io::Error| StartupError::new(format!("failed to start the daemon ({error})"));
        let log = log::open(&files.log).map_err(|error| {
            StartupError::new(format!("failed to open the daemon's log {} ({error})", files.log.display()))
        })?;
        let mut arguments: Vec<OsString> = vec![DAEMON.into()];
        arguments.extend(env::args_os().skip(1));
        let child = Command::new(program::path())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(failed)?;
        let (sender, pending) = oneshot::channel();
        // The thread collects the daemon's exit status. It does not keep this process from ending.
        thread::Builder::new()
            .name("daemon".to_owned())
            .spawn(move || report_outcome(child, sender))
            .map_err(failed)?;
        self.pending = Some(pending);
        Ok(())
    }
}

/// Sends the daemon's startup report, and waits for the end of the daemon.
fn report_outcome(mut child: Child, sender: oneshot::Sender<StartOutcome>) {
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        // A read error counts as no report.
        let _ = BufReader::new(output.take(REPORT_BYTES_MAX)).read_line(&mut line);
    }
    if let Ok(started) = serde_json::from_str(&line) {
        let _ = sender.send(StartOutcome::Reported(started));
        let _ = child.wait();
    } else {
        let _ = sender.send(StartOutcome::Exited(child.wait().ok()));
    }
}
