//! The `launch` subcommand: sets limits and the working directory of its own process, which `exec` preserves, and then
//! becomes the command.
//!
//! Invariant: the command never runs without all that its [`SpawnSpec`] asks for. If something cannot be set, the
//! process ends with a line on standard error and an exit code of its own.

use std::{
    env,
    io::ErrorKind,
    os::unix::process::{CommandExt, parent_id},
    process::{Command, ExitCode},
};

use super::{
    open_files,
    spawn_spec::SpawnSpec,
    subcommand::{LIMIT_REFUSED_EXIT_CODE, NOT_STARTED_EXIT_CODE, fail},
};

/// Becomes the command. Returns only if that fails.
pub(super) fn run(spec: &SpawnSpec) -> ExitCode {
    if let Err(error) = follow_guardian() {
        return fail(&format_args!("the child cannot be tied to its guardian ({error})"), NOT_STARTED_EXIT_CODE);
    }
    // A guardian that ended before the call above does not take this process along.
    if spec.guardian.is_some_and(|guardian| guardian != parent_id()) {
        return fail(&"the guardian ended before the command was started", NOT_STARTED_EXIT_CODE);
    }
    if let Err(error) = spec.limit.apply() {
        let limit = &spec.limit;
        let advice = "remove memory_mb from its catalog entry";
        return fail(&format_args!("{limit} cannot be set ({error}): {advice}"), LIMIT_REFUSED_EXIT_CODE);
    }
    if let Some(count) = spec.open_files
        && let Err(error) = open_files::restore(count)
    {
        return fail(&format_args!("the limit of {count} open files cannot be set ({error})"), LIMIT_REFUSED_EXIT_CODE);
    }
    if let Some(folder) = &spec.folder
        && let Err(error) = env::set_current_dir(folder)
    {
        let folder = folder.display();
        return fail(&format_args!("the folder {folder} cannot be used ({error}): create it"), NOT_STARTED_EXIT_CODE);
    }
    let error = Command::new(&spec.command).args(&spec.arguments).exec();
    let command = spec.command.display();
    let advice = match error.kind() {
        ErrorKind::NotFound if !spec.command.as_encoded_bytes().contains(&b'/') => {
            "it is not in a folder of PATH: install it, or give its full path"
        }
        ErrorKind::NotFound => "check its path, and the interpreter in its first line if it is a script",
        ErrorKind::PermissionDenied => "make it executable for this user",
        _ => "run it in a terminal to see why",
    };
    fail(&format_args!("{command} cannot be started ({error}): {advice}"), NOT_STARTED_EXIT_CODE)
}

/// Has the system kill this process when its guardian ends, since a guardian that is killed cannot end its tree.
#[cfg(target_os = "linux")]
fn follow_guardian() -> std::io::Result<()> {
    use rustix::process::{Signal, set_parent_process_death_signal};
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// Does nothing: this system cannot tie a process to its parent. The manager ends the tree by its marker.
#[cfg(not(target_os = "linux"))]
fn follow_guardian() -> std::io::Result<()> {
    Ok(())
}
