//! The last steps before a child is its command: what must be set by the process itself, and lasts beyond `exec`.
//!
//! Invariant: the command never runs without what its orders ask for. What cannot be set ends the process with a line on
//! standard error and a code that says so.

use std::{
    env,
    io::ErrorKind,
    os::unix::process::{CommandExt, parent_id},
    process::{Command, ExitCode},
};

use super::{
    open_files,
    orders::Orders,
    subcommand::{LIMIT_REFUSED_EXIT_CODE, NOT_STARTED_EXIT_CODE, fail},
};

/// Becomes the command; comes back only if that fails.
pub(super) fn run(orders: &Orders) -> ExitCode {
    if let Err(error) = follow_guardian() {
        return fail(&format_args!("the child cannot be tied to its guardian ({error})"), NOT_STARTED_EXIT_CODE);
    }
    // One that died before the tie was made does not take this process along.
    if orders.guardian.is_some_and(|guardian| guardian != parent_id()) {
        return fail(&"the guardian ended before the command was started", NOT_STARTED_EXIT_CODE);
    }
    if let Err(error) = orders.limit.apply() {
        let limit = &orders.limit;
        return fail(&format_args!("{limit} cannot be set ({error}): leave memory_mb out"), LIMIT_REFUSED_EXIT_CODE);
    }
    if let Some(count) = orders.open_files
        && let Err(error) = open_files::restore(count)
    {
        return fail(&format_args!("{count} open files cannot be set as its limit ({error})"), LIMIT_REFUSED_EXIT_CODE);
    }
    if let Some(folder) = &orders.folder
        && let Err(error) = env::set_current_dir(folder)
    {
        let folder = folder.display();
        return fail(&format_args!("the folder {folder} cannot be used ({error}): make it"), NOT_STARTED_EXIT_CODE);
    }
    let error = Command::new(&orders.command).args(&orders.arguments).exec();
    let command = orders.command.display();
    let advice = match error.kind() {
        ErrorKind::NotFound if !orders.command.as_encoded_bytes().contains(&b'/') => {
            "it is in no folder of PATH: install it, or give its whole path"
        }
        ErrorKind::NotFound => "look at its path, and at what its first line names if it is a script",
        ErrorKind::PermissionDenied => "make it executable for this user",
        _ => "run it in a terminal",
    };
    fail(&format_args!("{command} cannot be started ({error}): {advice}"), NOT_STARTED_EXIT_CODE)
}

/// From now on this process is killed when its guardian ends: a guardian that is killed itself can end nothing.
#[cfg(target_os = "linux")]
fn follow_guardian() -> std::io::Result<()> {
    use rustix::process::{Signal, set_parent_process_death_signal};
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// Nothing ties a process to its parent here: the manager ends the tree by its marker.
#[cfg(not(target_os = "linux"))]
fn follow_guardian() -> std::io::Result<()> {
    Ok(())
}
