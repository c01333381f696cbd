//! Starting daemons, and hearing how each start went.
//!
//! Invariant: one start at a time, and at most [`MUTE_STARTS_MAX`] that come to nothing without a word.

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

use super::{log, process::Started, runtime_directory::Place};
use cortex_serving::StartupError;
use cortex_util::program;
use cortex_util::program::DAEMON;

/// How many daemons may end without a word before no more are started. Some may be killed at their start; one that cannot
/// even read its settings never says a word.
const MUTE_STARTS_MAX: u32 = 5;

/// How long nothing is started after the first that ended without a word; after each further one twice as long.
const MUTE_START_PAUSE: Duration = Duration::from_millis(50);

/// The longest line that says how a start went, in bytes.
const STARTED_BYTES_MAX: u64 = 65_536;

/// What becomes of a start.
enum Outcome {
    Told(Started),
    /// The daemon ended without a word; how, if the system says.
    Mute(Option<ExitStatus>),
}

/// The daemons that were started for one attempt to find one.
pub(super) struct Starts {
    /// The one of which nothing was heard yet.
    underway: Option<oneshot::Receiver<Outcome>>,
    mute: u32,
    next_at: Instant,
}

impl Starts {
    pub(super) fn new() -> Self {
        Self { underway: None, mute: 0, next_at: Instant::now() }
    }

    /// Whether another may be started now.
    ///
    /// # Errors
    /// The last one says why there can be none, or too many have ended without a word.
    pub(super) fn may_start(&mut self, place: &Place) -> Result<bool, StartupError> {
        if let Some(underway) = &mut self.underway {
            match underway.try_recv() {
                Err(TryRecvError::Empty) => return Ok(false),
                Ok(Outcome::Told(Started::Failed { error, held: false, .. })) => return Err(StartupError::new(error)),
                // It is found, unless it was lost since; or another was faster.
                Ok(Outcome::Told(_)) => {}
                Ok(Outcome::Mute(status)) => self.note_mute(place, status)?,
                Err(TryRecvError::Closed) => self.note_mute(place, None)?,
            }
            self.underway = None;
        }
        Ok(Instant::now() >= self.next_at)
    }

    fn note_mute(&mut self, place: &Place, status: Option<ExitStatus>) -> Result<(), StartupError> {
        self.next_at = Instant::now() + MUTE_START_PAUSE * (1 << self.mute);
        self.mute += 1;
        if self.mute < MUTE_STARTS_MAX {
            return Ok(());
        }
        let status = status.map_or_else(String::new, |status| format!(", the last with {status}"));
        Err(StartupError::new(format!(
            "{MUTE_STARTS_MAX} daemons were started and ended without a word{status}: see the log {}",
            place.log.display()
        )))
    }

    /// Starts a daemon with the settings of this process.
    ///
    /// # Errors
    /// It cannot be started, or its log not be written.
    pub(super) fn start(&mut self, place: &Place) -> Result<(), StartupError> {
        let failed = |error: io::Error| StartupError::new(format!("the daemon cannot be started ({error})"));
        let log = log::open(&place.log).map_err(|error| {
            StartupError::new(format!("the daemon's log {} cannot be written ({error})", place.log.display()))
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
        let (tell, underway) = oneshot::channel();
        // The thread collects the daemon's exit status, however long that takes; it does not keep this process from ending.
        thread::Builder::new().name("daemon".to_owned()).spawn(move || listen(child, tell)).map_err(failed)?;
        self.underway = Some(underway);
        Ok(())
    }
}

/// Tells what the daemon says of its start, and waits for its end.
fn listen(mut child: Child, tell: oneshot::Sender<Outcome>) {
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        // What cannot be read is no word.
        let _ = BufReader::new(output.take(STARTED_BYTES_MAX)).read_line(&mut line);
    }
    if let Ok(started) = serde_json::from_str(&line) {
        let _ = tell.send(Outcome::Told(started));
        let _ = child.wait();
    } else {
        let _ = tell.send(Outcome::Mute(child.wait().ok()));
    }
}
