//! The limit on open files of this process: each server takes about eight, and each of its clients one.

use std::sync::OnceLock;

use rustix::{
    io,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

/// The highest limit that this process sets: 100 endpoints with 256 connections each, doubled, with some to spare. Some
/// systems refuse higher ones.
const OPEN_FILES_MAX: u64 = 65_536;

/// Raises the limit of this process to what the system allows, up to [`OPEN_FILES_MAX`], and returns the earlier limit
/// if it was lower. Children get the earlier limit: programs that use `select` break with more than 1,024 open files.
pub(super) fn raise() -> Option<u64> {
    static BEFORE: OnceLock<Option<u64>> = OnceLock::new();
    *BEFORE.get_or_init(|| {
        let limit = getrlimit(Resource::Nofile);
        let most = limit.maximum.unwrap_or(OPEN_FILES_MAX).min(OPEN_FILES_MAX);
        let before = limit.current.filter(|before| *before < most)?;
        match setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..limit }) {
            Ok(()) => Some(before),
            Err(error) => {
                tracing::warn!(%error, before, "limit on open files could not be raised: it may be too low");
                None
            }
        }
    })
}

/// Sets the limit that the manager had before [`raise`], in the process that becomes a child's command.
pub(super) fn restore(before: u64) -> io::Result<()> {
    setrlimit(Resource::Nofile, Rlimit { current: Some(before), ..getrlimit(Resource::Nofile) })
}
