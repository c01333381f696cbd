//! Why a service does not run.
//!
//! Invariant: a reason has nothing of what the process wrote to its standard error. Those lines may hold secrets of the
//! process, so that they go to the client that requested it, and neither to the log nor to the state.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use super::super::bridge::{HandshakeError, LinkError};
use super::super::remote::CheckError;
use super::super::worker::{Ready, WORKER_START_TIMEOUT};
use super::ProcessEnd;
use crate::process::child::ExitReason;
use cortex_core::ports::Port;
use cortex_managed::ProcessState;

/// The most last lines of standard error that a failure has.
const STDERR_LINES_MAX: usize = 10;

/// The most characters of them together in its text.
const STDERR_CHARACTERS_MAX: usize = 2_000;

/// The failure of a service. `Display` is the reason alone.
#[derive(Debug)]
pub(in super::super) struct Failure {
    reason: FailureReason,
    /// The last lines of its standard error, at most [`STDERR_LINES_MAX`].
    stderr_lines: Vec<String>,
}

/// Why a server or worker does not run. `Display` continues a sentence that begins with its name, and says what failed,
/// why, and what to do.
#[derive(Debug, Error)]
pub(in super::super) enum FailureReason {
    #[error("a restart was requested")]
    RestartRequested,
    #[error("it was ended before it was ready")]
    Stopped,
    #[error("it is still {} after {} s", state.as_str(), within.as_secs())]
    StillNotRunning { state: ProcessState, within: Duration },
    #[error("it did not run again within {} s; the restart continues", .0.as_secs())]
    RestartContinues(Duration),
    #[error("another process on this machine uses its port {0}: end that process, or release it and request it again")]
    PortInUse(Port),
    /// It was removed from the catalog while allocations hold it.
    #[error("it was removed from the catalog: restore its entry and restart it, or release it")]
    Removed,
    /// It is started as a server of this machine and its entry has a URL, or the other way round.
    #[error("its catalog entry changed between a local and a remote server: release it and request it again")]
    OtherKind,
    #[error("its folder {} cannot be created ({error}): create its parent folder", folder.display())]
    OwnFolder { folder: PathBuf, error: io::Error },
    /// Its guardian could not be started.
    #[error("it could not be started ({0})")]
    NotSpawned(io::Error),
    #[error("it has no pipes")]
    NoPipes,
    /// Its command could not be started. The last line says why, and may come from the process too, since a shell exits
    /// with the same code.
    #[error("it could not be started")]
    NotStarted,
    /// Its limits could not be set. The last line says why.
    #[error("it could not be started: its limits were refused")]
    LimitRefused,
    #[error("it {ended} before {milestone}")]
    EndedEarly { ended: ExitReason, milestone: Milestone },
    #[error("it {ended} before {milestone}, and wrote nothing: run its command in a terminal to see why")]
    EndedSilently { ended: ExitReason, milestone: Milestone },
    #[error(transparent)]
    Handshake(HandshakeError),
    #[error(
        "it did not answer within {} s: {}",
        within.as_secs(),
        if *has_invalid_output {
            "its standard output is not MCP: start it as a server with the stdio transport"
        } else {
            "if it needs more time, such as for a download, set a larger start_timeout_seconds in its entry"
        }
    )]
    NoAnswer { within: Duration, has_invalid_output: bool },
    /// It did not become ready in time.
    #[error("it was not ready within {} s: {}", WORKER_START_TIMEOUT.as_secs(), missing(ready, *port))]
    NotReady { ready: Ready, port: Port },
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("it {0}")]
    Remote(#[from] CheckError),
    /// Health checks failed, the last one for this reason.
    #[error("{last}, {checks} times in a row")]
    Unhealthy { last: Box<Self>, checks: u32 },
    /// It ended after it was ready.
    #[error("it {0}")]
    Ended(ExitReason),
    /// It failed, and then it ended or was ended.
    #[error("{failed}; it {ended}")]
    FailedAndEnded { failed: Box<Self>, ended: ExitReason },
    #[error("it failed {failures} times in a row; the last reason: {last}")]
    CrashLooping { failures: u32, last: Box<Self> },
}

/// What a process has to reach to be ready.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Milestone {
    /// A server has answered the handshake.
    Answered,
    /// A worker has passed its readiness check.
    Ready,
}

impl fmt::Display for Milestone {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Answered => "it answered",
            Self::Ready => "it was ready",
        })
    }
}

impl Failure {
    /// Returns a failure of a process that wrote these lines last.
    pub(super) fn of_process(reason: FailureReason, lines: &[String]) -> Self {
        let last = &lines[lines.len().saturating_sub(STDERR_LINES_MAX)..];
        Self { reason, stderr_lines: last.to_vec() }
    }

    /// Returns the failure of a run that was ready before and then ended, if it had a process.
    pub(super) fn of_run(reason: FailureReason, ended: Option<ProcessEnd>) -> Self {
        match ended {
            None => reason.into(),
            Some(ProcessEnd { exit_reason, lines }) => Self::of_process(reason.and_ended(exit_reason), &lines),
        }
    }

    /// Returns the failure of a process that ended before a milestone.
    pub(super) fn ended_early(ended: ExitReason, milestone: Milestone, lines: &[String]) -> Self {
        let reason = match ended {
            ExitReason::NotStarted => FailureReason::NotStarted,
            ExitReason::LimitRefused => FailureReason::LimitRefused,
            ended if lines.is_empty() => FailureReason::EndedSilently { ended, milestone },
            ended => FailureReason::EndedEarly { ended, milestone },
        };
        Self::of_process(reason, lines)
    }

    /// Returns the failure of a service that is not restarted after so many failures in a row, of which this is the
    /// last.
    pub(super) fn crash_looping(self, failures: u32) -> Self {
        Self { reason: FailureReason::CrashLooping { failures, last: Box::new(self.reason) }, ..self }
    }

    /// Returns the reason and the last lines of standard error, for the client that requested the service.
    pub(in super::super) fn with_stderr(&self) -> String {
        let Self { reason, stderr_lines } = self;
        match stderr_lines.last() {
            None => reason.to_string(),
            Some(cause) if reason.is_not_started() => format!("{reason}: {}", end_of(cause)),
            Some(_) => {
                format!("{reason}; the last lines of its standard error: {}", end_of(&stderr_lines.join("\n")))
            }
        }
    }
}

impl From<FailureReason> for Failure {
    fn from(reason: FailureReason) -> Self {
        Self { reason, stderr_lines: Vec::new() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(formatter)
    }
}

impl FailureReason {
    /// Adds how the process ended, unless that is the reason already.
    fn and_ended(self, ended: ExitReason) -> Self {
        match self {
            Self::Ended(_) => self,
            failed => Self::FailedAndEnded { failed: Box::new(failed), ended },
        }
    }

    /// Returns whether the last line is the cause.
    fn is_not_started(&self) -> bool {
        match self {
            Self::NotStarted => true,
            Self::CrashLooping { last, .. } => last.is_not_started(),
            _ => false,
        }
    }
}

/// Returns what the readiness check of a worker missed.
fn missing(ready: &Ready, port: Port) -> String {
    match ready {
        Ready::Immediately => "it was not started".to_owned(),
        Ready::Tcp => format!("nothing listens on its port {port}, which it gets as CORTEX_PORT"),
        Ready::Http(path) => {
            format!("nothing answers GET {path} with 2xx on its port {port}, which it gets as CORTEX_PORT")
        }
    }
}

fn end_of(text: &str) -> &str {
    let cut = text.char_indices().rev().nth(STDERR_CHARACTERS_MAX - 1).map_or(0, |(at, _)| at);
    &text[cut..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_has_the_last_lines_and_no_more() {
        let ended = |lines: &[String]| Failure::of_process(FailureReason::Ended(ExitReason::Exited(3)), lines);
        assert_eq!(ended(&[]).with_stderr(), "it exited with code 3");
        let lines: Vec<String> = (1..=12).map(|line| format!("line {line}")).collect();
        let failure = ended(&lines);
        assert_eq!(
            (failure.stderr_lines.as_slice(), failure.to_string().as_str()),
            (&lines[2..], "it exited with code 3")
        );
        let text = failure.with_stderr();
        let start = "it exited with code 3; the last lines of its standard error: line 3\nline 4\n";
        assert!(text.starts_with(start) && text.ends_with("line 12"), "{text}");
        let text = ended(&["é".repeat(5_000)]).with_stderr();
        assert!(text.chars().count() < 2_100 && text.ends_with('é'), "{} characters", text.chars().count());
    }

    #[test]
    fn the_reason_of_an_early_end_says_what_to_do_and_has_no_lines() {
        let check = |failure: Failure, with_stderr: &str, reason: &str| {
            assert_eq!((failure.with_stderr().as_str(), failure.to_string().as_str()), (with_stderr, reason));
        };
        let ended = |ended: ExitReason, lines: &[&str]| {
            let lines: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
            Failure::ended_early(ended, Milestone::Answered, &lines)
        };
        let exited = "it exited with code 3 before it answered";
        let lines = format!("{exited}; the last lines of its standard error: no data");
        check(ended(ExitReason::Exited(3), &["no data"]), &lines, exited);
        let nothing =
            "it exited with code 0 before it answered, and wrote nothing: run its command in a terminal to see why";
        check(ended(ExitReason::Exited(0), &[]), nothing, nothing);
        let not_started = "it could not be started";
        let refused = || ended(ExitReason::NotStarted, &["x", "sh: secret"]);
        check(refused(), "it could not be started: sh: secret", not_started);
        check(ended(ExitReason::NotStarted, &[]), not_started, not_started);
        check(
            refused().crash_looping(6),
            "it failed 6 times in a row; the last reason: it could not be started: sh: secret",
            "it failed 6 times in a row; the last reason: it could not be started",
        );
        let limits = "it could not be started: its limits were refused";
        let lines = format!("{limits}; the last lines of its standard error: why");
        check(ended(ExitReason::LimitRefused, &["why"]), &lines, limits);
    }
}
