//! This program: its name, its version, and the path of its executable.

#[cfg(unix)]
use std::{env, path::PathBuf};

/// The name of the program, of its folders and of its MCP server.
pub const NAME: &str = "cortex-resource-manager";

/// The description of the program, in one sentence.
pub const DESCRIPTION: &str =
    "An MCP server that leases workers, CPU, memory and shared MCP servers to the jobs of AI agents";

/// The version of the program and of all its crates.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The subcommand that runs the daemon. A process that finds no daemon starts this program with it.
pub const DAEMON: &str = "daemon";

/// Returns the path of the running program. If its file was replaced, `/proc/self/exe` still refers to the running one.
#[cfg(unix)]
#[must_use]
pub fn path() -> PathBuf {
    match env::current_exe() {
        Ok(path) if path.is_file() => path,
        _ => PathBuf::from("/proc/self/exe"),
    }
}
