//! How many files this process may have open: each server takes about eight, and each of its clients one.

use std::sync::OnceLock;

use rustix::{
    io,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

/// The most that this process asks for: 100 endpoints of 256 connections, and as much again. Some systems refuse more.
const OPEN_FILES_MAX: u64 = 65_536;

/// Lets this process have as many files open as the system lets it, up to [`OPEN_FILES_MAX`], and gives how many it might before, if
/// that was fewer. Children get that: programs that use `select` break with more than 1,024.
pub(super) fn raise() -> Option<u64> {
    static BEFORE: OnceLock<Option<u64>> = OnceLock::new();
    *BEFORE.get_or_init(|| {
        let limit = getrlimit(Resource::Nofile);
        let most = limit.maximum.unwrap_or(OPEN_FILES_MAX).min(OPEN_FILES_MAX);
        let before = limit.current.filter(|before| *before < most)?;
        match setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..limit }) {
            Ok(()) => Some(before),
            Err(error) => {
                tracing::warn!(%error, before, "no more files can be had: there may be too few for many servers");
                None
            }
        }
    })
}

/// Gives this process, which is about to be a child's, the limit that the manager had before.
///
/// # Errors
/// The system's.
pub(super) fn restore(before: u64) -> io::Result<()> {
    setrlimit(Resource::Nofile, Rlimit { current: Some(before), ..getrlimit(Resource::Nofile) })
}
