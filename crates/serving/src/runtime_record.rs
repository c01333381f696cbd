//! The record of the managed processes that were run for a state, in a file next to it.
//!
//! Without it, the next owner of the state could start without a catalog, and keep leases on servers that are not run.

use super::StartupError;
use cortex_config::Settings;
use cortex_core::view::CapacityView;
use cortex_util::atomic_file;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The catalog and worker command of the last owner. The file exists while leases may need them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeRecord {
    /// The path of the catalog, if servers were managed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    catalog: Option<PathBuf>,
    /// The program of the workers, if they were managed. The arguments are left out, since they may contain secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    worker_program: Option<String>,
}

impl RuntimeRecord {
    /// Creates the record of these settings; `None` if nothing is managed.
    fn of(settings: &Settings) -> Option<Self> {
        let record = Self {
            catalog: settings.catalog.as_deref().map(absolute),
            worker_program: settings.worker_command.first().cloned(),
        };
        (record.catalog.is_some() || record.worker_program.is_some()).then_some(record)
    }

    /// Reads the record of a state, if there is one.
    fn read(state: &Path) -> io::Result<Option<Self>> {
        match fs::read(path_of(state)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns whether the last owner of the state ran servers or workers that are not configured now. An unreadable
    /// record is ignored here: the next owner of the state reports it.
    pub fn has_more_than(state: &Path, has_catalog: bool, has_worker: bool) -> bool {
        Self::read(state).ok().flatten().is_some_and(|record| {
            record.catalog.is_some() && !has_catalog || record.worker_program.is_some() && !has_worker
        })
    }

    /// Checks that these settings still run the servers and workers of live leases, and writes the record.
    ///
    /// # Errors
    /// The settings do not, or the record cannot be written.
    pub(super) fn update(settings: &Settings, state: &Path, capacity: &CapacityView) -> Result<(), StartupError> {
        let needs_catalog = settings.catalog.is_none() && !capacity.running_servers.is_empty();
        let needs_worker = settings.worker_command.is_empty() && capacity.leased.workers > 0;
        let refused = |resource: &str, way_out: &str| {
            let (state, record) = (state.display(), path_of(state));
            let record = record.display();
            Err(StartupError::new(format!(
                "live leases of the state {state} hold {resource}: {way_out}, or remove {record} to keep the leases \
                 without running processes"
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
                    &format!("managed servers or workers, and the record of these cannot be read ({error})"),
                    "start with the --catalog or the --worker-command that they need, which rewrites the record",
                );
            }
            Ok(Some(Self { catalog: Some(before), .. })) => {
                let now = settings.catalog.as_deref().map(absolute);
                if now.as_ref().is_some_and(|now| *now != before) && !capacity.running_servers.is_empty() {
                    tracing::warn!(
                        ?before,
                        ?now,
                        "live leases hold servers of another catalog: servers missing from the new one fail"
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
        written.map_err(|error| StartupError::new(format!("failed to write {} ({error})", path_of(state).display())))
    }

    /// Removes the record if no live lease may need it.
    pub(super) fn remove_if_unused(state: &Path, capacity: &CapacityView) {
        if capacity.live_allocations > capacity.expired_allocations {
            return;
        }
        if let Err(error) = remove(state) {
            tracing::warn!(%error, "failed to remove the record of managed processes");
        }
    }
}

/// Makes a path independent of the working directory.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn path_of(state: &Path) -> PathBuf {
    super::with_suffix(state, "real")
}

fn remove(state: &Path) -> io::Result<()> {
    match fs::remove_file(path_of(state)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
