//! What is run for leases, as the settings say.

use super::{Unusable, state_path};
use crate::config::{EndpointAuth, Settings};
use crate::engine::EngineHandle;
use crate::lock::OwnerRecord;
use crate::runtime::{Host, HostError, HostOptions, Prepared};
use std::path::{Path, PathBuf};

/// Gets ready to run servers and workers; nothing, where none are to be real. The state is owned by now.
pub(super) fn prepare(settings: &Settings, owner: &OwnerRecord) -> Result<Option<Prepared>, Unusable> {
    let Some(catalog) = &settings.catalog else { return Ok(None) };
    let state = settings.state.as_deref().map(state_path).transpose()?;
    // A process that serves by itself and keeps nothing leaves no record: its guardians end what it ran.
    let beside = state.as_deref().or(owner.socket.as_deref());
    let options = HostOptions {
        record: beside.map(|path| with_ending(path, "children")),
        // Leases that end with the process need no key that outlives it.
        key: state.as_deref().map(|path| with_ending(path, "key")),
        asks_for_token: settings.endpoint_auth == EndpointAuth::Token,
        ..HostOptions::new(catalog.clone())
    };
    Prepared::prepare(options).map(Some).map_err(unusable)
}

/// Begins to run what the books hold.
pub(super) async fn start(prepared: Option<Prepared>, engine: &EngineHandle) -> Result<Option<Host>, Unusable> {
    match prepared {
        Some(prepared) => prepared.start(engine.clone()).await.map(Some).map_err(unusable),
        None => Ok(None),
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(".");
    path.push(ending);
    path.into()
}

/// In one line, with what caused it.
fn unusable(error: HostError) -> Unusable {
    Unusable::new(format!("{:#}", anyhow::Error::from(error)))
}
