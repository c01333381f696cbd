//! This program: what it is called, and how it can be started again.

#[cfg(unix)]
use std::{env, path::PathBuf};

/// The name of the program, of its folders and of its server.
pub const NAME: &str = "cortex-resource-manager";

/// What the program is, in a sentence.
pub const DESCRIPTION: &str =
    "An MCP server that leases workers, CPU, memory and shared MCP servers to the jobs of AI agents";

/// The version of the program, which all its crates share.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The command that starts the daemon. A process that finds none gives it to this program.
pub const DAEMON: &str = "daemon";

/// This program. One that was replaced on disk since is still the running one through the system's own link.
#[cfg(unix)]
#[must_use]
pub fn path() -> PathBuf {
    match env::current_exe() {
        Ok(path) if path.is_file() => path,
        _ => PathBuf::from("/proc/self/exe"),
    }
}
