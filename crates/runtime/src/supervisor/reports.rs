//! Reports on servers and workers.

use std::collections::BTreeSet;

use super::super::bridge::Usage;
use super::super::catalog::{CatalogEntry, Program};
use super::super::leases::InstanceKey;
use super::super::service::ServiceStatus;
use super::instances::ServerInstance;
use super::{LeasedWorker, Supervisor};
use crate::process::tree::ProcessTree;
use cortex_core::ids::{AgentId, AllocationId, JobId, ServerName};
use cortex_core::ports::Port;
use cortex_managed::{CallStats, ProcessState, ServerReport, WorkerReport};

/// The detail of a report on a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    /// For a list.
    Brief,
    /// Including its last lines, its process tree to measure, and the calls of each holder.
    Full,
}

/// A report, and the process tree that is still to be measured for it.
pub(super) type Report = (ServerReport, Option<ProcessTree>);

impl Supervisor {
    /// Reports all servers of the catalog, and those that still run after they were removed from it.
    pub(super) fn all_servers(&self) -> Vec<Report> {
        let catalog = self.current_catalog();
        let known = catalog.iter().flat_map(|catalog| catalog.entries.keys());
        let names: BTreeSet<&ServerName> = known.chain(self.instances.keys().map(|key| &key.name)).collect();
        names.iter().flat_map(|name| self.server(name, None, Detail::Brief)).collect()
    }

    /// Reports each instance of a server, or only the one that `holder` holds. Without `holder`, a server of the
    /// catalog that does not run is reported as stopped.
    pub(super) fn server(&self, name: &ServerName, holder: Option<AllocationId>, detail: Detail) -> Vec<Report> {
        let instances = self.named(name, holder);
        let reports: Vec<Report> = instances.map(|(key, instance)| self.report(key, instance, detail)).collect();
        if !reports.is_empty() || holder.is_some() {
            return reports;
        }
        let catalog = self.current_catalog();
        let entry = catalog.as_ref().and_then(|catalog| catalog.entries.get(name));
        entry.map(|entry| (stopped(name, entry), None)).into_iter().collect()
    }

    /// Returns the instances of a server, or only the one that `holder` holds.
    pub(super) fn named<'a>(
        &'a self,
        name: &'a ServerName,
        holder: Option<AllocationId>,
    ) -> impl Iterator<Item = (&'a InstanceKey, &'a ServerInstance)> {
        let is_held = move |instance: &ServerInstance| holder.is_none_or(|holder| instance.holders.contains(&holder));
        self.instances.iter().filter(move |(key, instance)| key.name == *name && is_held(instance))
    }

    fn report(&self, key: &InstanceKey, instance: &ServerInstance, detail: Detail) -> Report {
        let (report, tree) = instance.report(key, detail);
        let owner = key.owner.and_then(|owner| Some((owner, self.allocations.get(&owner)?.job.clone())));
        (ServerReport { owner, ..report }, tree)
    }

    /// Reports all workers and the agents of the pool.
    pub(super) fn all_workers(&self) -> Vec<WorkerReport> {
        let agents = self.pool.iter().flat_map(|pool| &pool.agents);
        let agents = agents.map(|(id, agent)| worker_report(id.as_str(), None, agent.port, &agent.service.status()));
        self.workers.iter().map(|(id, worker)| worker.report(id)).chain(agents).collect()
    }

    /// Reports a worker or an agent of the pool, with its last lines and its process tree.
    pub(super) fn worker(&self, id: &str) -> Option<(WorkerReport, Option<ProcessTree>)> {
        let (report, status) = match self.workers.get(id) {
            Some(worker) => (worker.report(id), worker.service.status()),
            None => {
                let agent = self.pool.as_ref()?.agents.get(&AgentId::new(id).ok()?)?;
                let status = agent.service.status();
                (worker_report(id, None, agent.port, &status), status)
            }
        };
        Some((WorkerReport { last_lines: status.lines.last(), ..report }, status.tree))
    }

    /// Reports the workers of an allocation.
    pub(super) fn workers_of(&self, allocation: AllocationId) -> Vec<WorkerReport> {
        let ids = self.allocations.get(&allocation).map_or(&[][..], |state| &state.workers);
        ids.iter().filter_map(|id| Some(self.workers.get(id)?.report(id))).collect()
    }

    /// Reports the servers that an allocation holds.
    pub(super) fn servers_of(&self, allocation: AllocationId) -> Vec<Report> {
        let Some(state) = self.allocations.get(&allocation) else { return Vec::new() };
        let instances = state.instances.iter().filter_map(|key| Some((key, self.instances.get(key)?)));
        instances.map(|(key, instance)| self.report(key, instance, Detail::Brief)).collect()
    }
}

impl ServerInstance {
    fn report(&self, key: &InstanceKey, detail: Detail) -> Report {
        let ServiceStatus { state, reason, running_since, restarts, lines, tree, memory_limit, .. } =
            self.server.status();
        let unserved = self.unserved().filter(|_| !self.holders.is_empty());
        let endpoint = self.endpoint.as_ref();
        let is_full = detail == Detail::Full;
        let report = ServerReport {
            // The current entry of the catalog may have another sharing than the instance.
            sharing: key.sharing(),
            endpoint: endpoint.map_or_else(|| url(&self.entry), |_| Some(self.port.endpoint())),
            port: endpoint.map(|_| self.port),
            state: if unserved.is_some() { ProcessState::Failed } else { state },
            reason: unserved.or(reason).map(|failure| failure.with_stderr()),
            holders: self.holders.iter().copied().collect(),
            running_since,
            restarts,
            memory_limit,
            calls: endpoint.map(|endpoint| call_stats(&endpoint.total_usage())).unwrap_or_default(),
            calls_by_holder: endpoint
                .filter(|_| is_full)
                .map(|endpoint| self.holders.iter().map(|id| (*id, call_stats(&endpoint.usage(*id)))).collect())
                .unwrap_or_default(),
            last_lines: if is_full { lines.last() } else { Vec::new() },
            ..stopped(&key.name, &self.entry)
        };
        (report, tree.filter(|_| is_full))
    }
}

impl LeasedWorker {
    fn report(&self, id: &str) -> WorkerReport {
        worker_report(id, Some((self.allocation, &self.job)), self.port, &self.service.status())
    }
}

fn worker_report(id: &str, lease: Option<(AllocationId, &JobId)>, port: Port, status: &ServiceStatus) -> WorkerReport {
    WorkerReport {
        worker: id.to_owned(),
        allocation: lease.map(|(allocation, _)| allocation),
        job: lease.map(|(_, job)| job.clone()),
        port,
        state: status.state,
        reason: status.reason.as_ref().map(|failure| failure.with_stderr()),
        running_since: status.running_since,
        restarts: status.restarts,
        memory: None,
        last_lines: Vec::new(),
    }
}

/// Returns the report of a server that does not run.
fn stopped(name: &ServerName, entry: &CatalogEntry) -> ServerReport {
    let headers = match &entry.program {
        Program::Command { .. } | Program::Removed => Vec::new(),
        Program::Remote { headers, .. } => headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
    };
    ServerReport {
        name: name.clone(),
        sharing: entry.sharing,
        owner: None,
        is_remote: entry.is_remote(),
        endpoint: url(entry),
        port: None,
        headers,
        state: ProcessState::Stopped,
        reason: None,
        holders: Vec::new(),
        running_since: None,
        restarts: 0,
        memory: None,
        processes: None,
        memory_limit: None,
        calls: CallStats::default(),
        calls_by_holder: Vec::new(),
        last_lines: Vec::new(),
    }
}

/// Returns the URL of a remote server.
pub(super) fn url(entry: &CatalogEntry) -> Option<String> {
    match &entry.program {
        Program::Command { .. } | Program::Removed => None,
        Program::Remote { url, .. } => Some(url.clone()),
    }
}

fn call_stats(usage: &Usage) -> CallStats {
    CallStats {
        calls: usage.calls,
        errors: usage.errors,
        bytes_in: usage.bytes_in,
        bytes_out: usage.bytes_out,
        busy_ms: u64::try_from(usage.busy.as_millis()).unwrap_or(u64::MAX),
    }
}
