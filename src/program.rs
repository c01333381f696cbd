//! This program, as a path by which it can be started again.

use std::{env, path::PathBuf};

/// This program. One that was replaced on disk since is still the running one through the system's own link.
pub(crate) fn path() -> PathBuf {
    match env::current_exe() {
        Ok(path) if path.is_file() => path,
        _ => PathBuf::from("/proc/self/exe"),
    }
}
