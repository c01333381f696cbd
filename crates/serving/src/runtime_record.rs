//! What was really run for the leases of a state, remembered beside it.
//!
//! Without it whoever starts next, and names no catalog, would go on with leases whose servers nobody runs any more.

use super::StartupError;
use cortex_config::Settings;
use cortex_core::view::CapacityView;
use cortex_util::atomic_file;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What was run at last. It is there while leases may need it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeRecord {
    /// The file of the catalog, if servers were real.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    catalog: Option<PathBuf>,
    /// The program of workers, if they were. Its arguments may be secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    worker_program: Option<String>,
}

impl RuntimeRecord {
    /// What these settings have run; nothing if all is only in the books.
    fn of(settings: &Settings) -> Option<Self> {
        let record = Self {
            catalog: settings.catalog.as_deref().map(absolute),
            worker_program: settings.worker_command.first().cloned(),
        };
        (record.catalog.is_some() || record.worker_program.is_some()).then_some(record)
    }

    /// The record of a state, if there is one.
    fn read(state: &Path) -> io::Result<Option<Self>> {
        match fs::read(path_of(state)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the last owner of the state ran something that is not named now. What cannot be read is for the next owner to
    /// tell of.
    pub fn has_more_than(state: &Path, names_catalog: bool, names_worker: bool) -> bool {
        Self::read(state)
            .ok()
            .flatten()
            .is_some_and(|was| was.catalog.is_some() && !names_catalog || was.worker_program.is_some() && !names_worker)
    }

    /// Checks that what the live leases of a state hold is run on by these settings, and remembers what is.
    ///
    /// # Errors
    /// It is not, or the record cannot be written.
    pub(super) fn take_over(settings: &Settings, state: &Path, books: &CapacityView) -> Result<(), StartupError> {
        let needs_catalog = settings.catalog.is_none() && !books.running_servers.is_empty();
        let needs_worker = settings.worker_command.is_empty() && books.leased.workers > 0;
        let refused = |hold: &str, way_out: &str| {
            let (state, record) = (state.display(), path_of(state));
            let record = record.display();
            Err(StartupError::new(format!(
                "live leases of the state {state} hold {hold}: {way_out}, or remove {record} to keep them only in the books"
            )))
        };
        match Self::read(state) {
            Ok(Some(Self { catalog: Some(catalog), .. })) if needs_catalog => {
                let catalog = catalog.display();
                return refused(
                    &format!("MCP servers of the catalog {catalog}"),
                    &format!("start with --catalog {catalog}"),
                );
            }
            Ok(Some(Self { worker_program: Some(program), .. })) if needs_worker => {
                return refused(
                    &format!("workers that run {program}"),
                    "start with the --worker-command that ran them",
                );
            }
            Err(error) if needs_catalog || needs_worker => {
                return refused(
                    &format!("what may have been really run, and what that was cannot be read ({error})"),
                    "start with the --catalog or the --worker-command that they need, which is then written down anew",
                );
            }
            Ok(Some(Self { catalog: Some(before), .. })) => {
                let now = settings.catalog.as_deref().map(absolute);
                if now.as_ref().is_some_and(|now| *now != before) && !books.running_servers.is_empty() {
                    tracing::warn!(
                        ?before,
                        ?now,
                        "live leases hold servers of another catalog: those that this one lacks fail"
                    );
                }
            }
            _ => {}
        }
        let written = match Self::of(settings) {
            Some(record) => serde_json::to_vec(&record)
                .map_err(io::Error::from)
                .and_then(|text| atomic_file::replace(&path_of(state), &text)),
            None => remove(state),
        };
        written.map_err(|error| StartupError::new(format!("{} cannot be written ({error})", path_of(state).display())))
    }

    /// Forgets what was run, if no lease is live that may need it.
    pub(super) fn give_up(state: &Path, books: &CapacityView) {
        if books.live_allocations > books.expired_allocations {
            return;
        }
        if let Err(error) = remove(state) {
            tracing::warn!(%error, "the record of what was run cannot be removed");
        }
    }
}

/// The path as it is from anywhere.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn path_of(state: &Path) -> PathBuf {
    super::with_ending(state, "real")
}

fn remove(state: &Path) -> io::Result<()> {
    match fs::remove_file(path_of(state)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
