//! The hidden subcommands of this program that stand between the manager and a child's command: `guardian`, and
//! `launch`, which becomes the command. Only this program starts them, and its help does not show them.

use std::{
    ffi::OsString,
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
};

use super::{guardian, launch, spawn_spec::SpawnSpec};

/// The first argument of a guardian. It is visible in process lists.
pub(super) const GUARDIAN: &str = "guardian";

/// The first argument of a process that is about to become a child's command.
pub(super) const LAUNCH: &str = "launch";

/// The exit code for arguments that are not a spawn spec.
const INVALID_SPAWN_SPEC_EXIT_CODE: u8 = 2;

/// The exit code of a child whose command cannot be started, the same as in shells.
pub(super) const NOT_STARTED_EXIT_CODE: u8 = 127;

/// The exit code of a child whose limits cannot be set.
pub(super) const LIMIT_REFUSED_EXIT_CODE: u8 = 126;

/// Runs the hidden subcommand that the arguments name. Returns none if they name none. `arguments` are without the
/// program's name.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut arguments = arguments.into_iter();
    let subcommand = arguments.next()?;
    let run = match subcommand.to_str() {
        Some(GUARDIAN) => guardian::run,
        Some(LAUNCH) => launch::run,
        _ => return None,
    };
    Some(match SpawnSpec::read(arguments) {
        Ok(spec) => run(&spec),
        Err(error) => fail(&error, INVALID_SPAWN_SPEC_EXIT_CODE),
    })
}

/// Writes an error as one line to standard error, where it becomes one of the child's last lines.
pub(super) fn fail(error: &dyn Display, code: u8) -> ExitCode {
    // If it cannot be written, the exit code remains.
    let _ = io::stderr().write_all(format!("{error}\n").as_bytes());
    ExitCode::from(code)
}
