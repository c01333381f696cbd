//! The two lives that this program has on the way to a child: as its guardian, and as the child itself until it becomes the
//! command. They are started by this program alone, and are no part of its help.

use std::{
    ffi::OsString,
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
};

use super::{guardian, launch, orders::Orders};

/// The first argument of a guardian.
pub(super) const GUARDIAN: &str = "guardian";

/// The first argument of what becomes the command.
pub(super) const LAUNCH: &str = "launch";

/// The exit code of orders that cannot be read.
const WRONG_ORDERS_EXIT_CODE: u8 = 2;

/// The exit code of a child whose command cannot be started.
pub(super) const NOT_STARTED_EXIT_CODE: u8 = 127;

/// The exit code of a child whose limits cannot be set.
pub(super) const LIMIT_REFUSED_EXIT_CODE: u8 = 126;

/// Lives such a life, if the arguments (without the program's name) are those of one.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut arguments = arguments.into_iter();
    let subcommand = arguments.next()?;
    let live = match subcommand.to_str() {
        Some(GUARDIAN) => guardian::run,
        Some(LAUNCH) => launch::run,
        _ => return None,
    };
    Some(match Orders::read(arguments) {
        Ok(orders) => live(&orders),
        Err(error) => fail(&error, WRONG_ORDERS_EXIT_CODE),
    })
}

/// Says in one line on standard error what went wrong: it stands among the last lines of the child.
pub(super) fn fail(error: &dyn Display, code: u8) -> ExitCode {
    // If nobody can be told, the exit code has to do.
    let _ = io::stderr().write_all(format!("{error}\n").as_bytes());
    ExitCode::from(code)
}
