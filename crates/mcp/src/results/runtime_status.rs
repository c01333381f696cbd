//! The runtime status of the managed servers and workers of an allocation. The state of the cluster does not have it.

use super::access::{McpConfig, public_url};
use super::{reason, server_status};
use cortex_core::allocation::{ServerHold, State};
use cortex_core::ids::ServerName;
use cortex_core::view::AllocationView;
use cortex_managed::{RuntimeError, RuntimeHandle, RuntimeRequest, ServerReport, WorkerReport};
use std::collections::BTreeMap;

/// The status of an allocation's servers and workers, and for its holder the access to them.
pub(crate) struct RuntimeStatus {
    servers: BTreeMap<ServerName, ServerReport>,
    workers: BTreeMap<String, WorkerReport>,
    /// Whether the caller holds the allocation and gets access to its servers.
    has_credentials: bool,
    access_token: Option<String>,
}

impl RuntimeStatus {
    /// Reads the status of an allocation for its holder; nothing if the allocation has ended.
    ///
    /// # Errors
    /// The manager of servers and workers has stopped.
    pub(crate) async fn with_credentials(
        managed: &RuntimeHandle,
        view: &AllocationView,
    ) -> Result<Option<Self>, RuntimeError> {
        let reservation = &view.allocation.reservation;
        let Some(mut runtime_status) = Self::without_credentials(managed, view).await? else { return Ok(None) };
        if view.allocation.state() == State::Active && !view.is_expired() {
            runtime_status.has_credentials = true;
            runtime_status.access_token = managed.access_token(reservation.allocation, reservation.fencing_token);
        }
        Ok(Some(runtime_status))
    }

    /// Reads the status of an allocation for other callers, without anything that gives access.
    ///
    /// # Errors
    /// The manager of servers and workers has stopped.
    pub(crate) async fn without_credentials(
        managed: &RuntimeHandle,
        view: &AllocationView,
    ) -> Result<Option<Self>, RuntimeError> {
        if !view.allocation.state().is_live() {
            return Ok(None);
        }
        let allocation = view.allocation.reservation.allocation;
        let (servers, workers) = managed.request(|reply| RuntimeRequest::Allocation(allocation, reply)).await?;
        Ok(Some(Self {
            servers: servers.into_iter().map(|report| (report.name.clone(), report)).collect(),
            workers: workers.into_iter().map(|report| (report.worker.clone(), report)).collect(),
            has_credentials: false,
            access_token: None,
        }))
    }

    /// Returns the report on a worker, if it is managed.
    pub(crate) fn worker(&self, worker_id: &str) -> Option<&WorkerReport> {
        self.workers.get(worker_id)
    }

    /// Returns the bearer token for the endpoints, if the holder gets one.
    pub(crate) fn access_token(&self) -> Option<&str> {
        self.access_token.as_deref()
    }

    /// Returns the client configuration for the holder.
    pub(crate) fn mcp_config(&self, servers: &[ServerHold]) -> Option<McpConfig> {
        let servers = servers.iter().map(|hold| (hold, self.servers.get(&hold.name)));
        if self.has_credentials { McpConfig::new(servers, self.access_token()) } else { None }
    }
}

/// The address and status of one server of an allocation.
pub(crate) struct ServerStatus {
    pub(crate) endpoint: String,
    pub(crate) status: &'static str,
    pub(crate) reason: Option<String>,
}

impl ServerStatus {
    /// Takes the status from the report on a managed server, or else from the state of the allocation.
    pub(crate) fn new(hold: &ServerHold, state: State, runtime_status: Option<&RuntimeStatus>) -> Self {
        let Some((runtime_status, report)) = runtime_status.and_then(|all| Some((all, all.servers.get(&hold.name)?)))
        else {
            return Self { endpoint: hold.port.endpoint(), status: server_status(state), reason: None };
        };
        let endpoint = match &report.endpoint {
            Some(url) if report.is_remote && runtime_status.has_credentials => url.clone(),
            Some(url) if report.is_remote => public_url(url),
            _ => hold.port.endpoint(),
        };
        Self { endpoint, status: report.state.as_str(), reason: reason(&report.reason) }
    }
}
