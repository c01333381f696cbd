//! How a child ended.

use std::{fmt, os::unix::process::ExitStatusExt, process::ExitStatus};

use rustix::process::Signal as Known;

use crate::process::{
    guardian::SIGNAL_EXIT_CODE,
    subcommand::{LIMIT_REFUSED_EXIT_CODE, NOT_STARTED_EXIT_CODE},
};

/// The largest number of a signal.
const SIGNAL_MAX: i32 = 64;

/// How a child ended. `Display` continues a sentence that begins with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitReason {
    /// It exited with this code.
    Exited(i32),
    /// It was ended by this signal.
    Signalled(i32),
    /// Its command could not be started; its last line has the reason. A shell that does not find its command exits
    /// with the same code.
    NotStarted,
    /// Its limits could not be set; its last line has the reason.
    LimitRefused,
    /// It was killed because its guardian ended first, in this way.
    GuardianLost(String),
}

impl ExitReason {
    /// Reads the guardian's exit code: the child's own, or 128 and the number of the signal that ended it, as in
    /// shells.
    pub(super) fn from_guardian(status: ExitStatus) -> Self {
        let (signals, not_started) = (i32::from(SIGNAL_EXIT_CODE), i32::from(NOT_STARTED_EXIT_CODE));
        let limit_refused = i32::from(LIMIT_REFUSED_EXIT_CODE);
        match status.code() {
            Some(code) if code == not_started => Self::NotStarted,
            Some(code) if code == limit_refused => Self::LimitRefused,
            Some(code) if code > signals && code <= signals + SIGNAL_MAX => Self::Signalled(code - signals),
            Some(code) => Self::Exited(code),
            None => match status.signal() {
                // These end a guardian only before it has started anything.
                Some(signal) if [Known::TERM, Known::INT, Known::HUP].iter().any(|stop| stop.as_raw() == signal) => {
                    Self::Signalled(signal)
                }
                Some(signal) => Self::GuardianLost(format!("was ended by {}", Signal(signal))),
                None => Self::GuardianLost(format!("ended with {status}")),
            },
        }
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::Signalled(signal) => write!(f, "was ended by {}", Signal(*signal)),
            Self::NotStarted => f.write_str("could not be started"),
            Self::LimitRefused => f.write_str("could not be started: its limits were refused"),
            Self::GuardianLost(how) => write!(f, "was killed because its guardian {how}"),
        }
    }
}

/// Displays a signal by its number, and its name if it commonly ends processes.
struct Signal(i32);

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Known::HUP, "HUP"),
            (Known::INT, "INT"),
            (Known::QUIT, "QUIT"),
            (Known::ILL, "ILL"),
            (Known::TRAP, "TRAP"),
            (Known::ABORT, "ABRT"),
            (Known::BUS, "BUS"),
            (Known::FPE, "FPE"),
            (Known::KILL, "KILL"),
            (Known::SEGV, "SEGV"),
            (Known::PIPE, "PIPE"),
            (Known::ALARM, "ALRM"),
            (Known::TERM, "TERM"),
        ];
        write!(f, "signal {}", self.0)?;
        match names.iter().find(|(known, _)| known.as_raw() == self.0) {
            Some((_, name)) => write!(f, " ({name})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(raw: i32, expected: &str) {
        assert_eq!(ExitReason::from_guardian(ExitStatus::from_raw(raw)).to_string(), expected);
    }

    #[test]
    fn exit_reasons_are_readable() {
        check(0, "exited with code 0");
        check(1 << 8, "exited with code 1");
        check(255 << 8, "exited with code 255");
        check(126 << 8, "could not be started: its limits were refused");
        check(127 << 8, "could not be started");
        check(128 << 8, "exited with code 128");
        check(137 << 8, "was ended by signal 9 (KILL)");
        check(143 << 8, "was ended by signal 15 (TERM)");
        check((128 + 64) << 8, "was ended by signal 64");
        check((128 + 65) << 8, "exited with code 193");
        check(15, "was ended by signal 15 (TERM)");
        check(9, "was killed because its guardian was ended by signal 9 (KILL)");
    }
}
