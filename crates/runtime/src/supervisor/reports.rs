//! How servers stand, in words for whoever asks.

use std::collections::BTreeSet;

use super::super::bridge::Usage;
use super::super::catalog::{Entry, Program};
use super::super::leases::Run;
use super::super::service::Status;
use super::holds::Held;
use super::{HeldWorker, Supervisor};
use crate::process::tree::ProcessTree;
use cortex_core::ids::{AgentId, AllocationId, JobId, ServerName};
use cortex_core::ports::Port;
use cortex_managed::{CallStats, ProcessState, ServerReport, WorkerReport};

/// How much is told of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    /// What a list shows.
    Brief,
    /// All, its last lines and what it takes included.
    Full,
}

/// A report, and the processes that are still to be looked at for it.
pub(super) type Report = (ServerReport, Option<ProcessTree>);

impl Supervisor {
    /// How every server of the catalog stands, and those that run though the catalog has them no more.
    pub(super) fn all_servers(&self) -> Vec<Report> {
        let catalog = self.known();
        let known = catalog.iter().flat_map(|catalog| catalog.entries.keys());
        let names: BTreeSet<&ServerName> = known.chain(self.runs.keys().map(|run| &run.name)).collect();
        names.iter().flat_map(|name| self.server(name, None, Detail::Brief)).collect()
    }

    /// How each run of a server stands, or only that which an allocation holds; one that nobody runs is told of too. None, if
    /// there is no such server or run.
    pub(super) fn server(&self, name: &ServerName, holder: Option<AllocationId>, detail: Detail) -> Vec<Report> {
        let runs: Vec<Report> = self.named(name, holder).map(|(run, held)| self.report(run, held, detail)).collect();
        if !runs.is_empty() || holder.is_some() {
            return runs;
        }
        let catalog = self.known();
        let entry = catalog.as_ref().and_then(|catalog| catalog.entries.get(name));
        entry.map(|entry| (unheld(name, entry), None)).into_iter().collect()
    }

    /// The runs of a server, or only that which an allocation holds.
    pub(super) fn named<'a>(
        &'a self,
        name: &'a ServerName,
        holder: Option<AllocationId>,
    ) -> impl Iterator<Item = (&'a Run, &'a Held)> {
        let is_meant = move |held: &Held| holder.is_none_or(|allocation| held.holders.contains(&allocation));
        self.runs.iter().filter(move |(run, held)| run.name == *name && is_meant(held))
    }

    fn report(&self, run: &Run, held: &Held, detail: Detail) -> Report {
        let (report, tree) = held.report(run, detail);
        let owner = run.owner.and_then(|owner| Some((owner, self.allocations.get(&owner)?.job.clone())));
        (ServerReport { owner, ..report }, tree)
    }

    /// How all workers stand.
    pub(super) fn all_workers(&self) -> Vec<WorkerReport> {
        let agents = self.pool.iter().flat_map(|pool| &pool.agents);
        let agents = agents.map(|(id, agent)| worker_report(id.as_str(), None, agent.port, &agent.service.status()));
        self.workers.iter().map(|(id, held)| held.report(id)).chain(agents).collect()
    }

    /// How a worker stands, with its processes.
    pub(super) fn worker(&self, id: &str) -> Option<(WorkerReport, Option<ProcessTree>)> {
        let (report, status) = match self.workers.get(id) {
            Some(held) => (held.report(id), held.service.status()),
            None => {
                let agent = self.pool.as_ref()?.agents.get(&AgentId::new(id).ok()?)?;
                let status = agent.service.status();
                (worker_report(id, None, agent.port, &status), status)
            }
        };
        Some((WorkerReport { last_lines: status.lines.last(), ..report }, status.tree))
    }

    /// How the workers stand that an allocation holds.
    pub(super) fn workers_of(&self, allocation: AllocationId) -> Vec<WorkerReport> {
        let ids = self.allocations.get(&allocation).map_or(&[][..], |part| &part.workers);
        ids.iter().filter_map(|id| Some(self.workers.get(id)?.report(id))).collect()
    }

    /// How the servers stand that an allocation holds.
    pub(super) fn servers_of(&self, allocation: AllocationId) -> Vec<Report> {
        let Some(part) = self.allocations.get(&allocation) else { return Vec::new() };
        let held = part.runs.iter().filter_map(|run| Some((run, self.runs.get(run)?)));
        held.map(|(run, held)| self.report(run, held, Detail::Brief)).collect()
    }
}

impl Held {
    fn report(&self, run: &Run, detail: Detail) -> Report {
        let Status { state, reason, running_since, restarts, lines, tree, memory_limit, .. } = self.server.status();
        let unserved = self.unserved().filter(|_| !self.holders.is_empty());
        let endpoint = self.endpoint.as_ref();
        let is_full = detail == Detail::Full;
        let report = ServerReport {
            // The catalog may say something else by now.
            sharing: run.sharing(),
            endpoint: endpoint.map_or_else(|| url(&self.entry), |_| Some(self.port.endpoint())),
            port: endpoint.map(|_| self.port),
            state: if unserved.is_some() { ProcessState::Failed } else { state },
            reason: unserved.or(reason),
            holders: self.holders.iter().copied().collect(),
            running_since,
            restarts,
            memory_limit,
            calls: endpoint.map(|endpoint| figures(&endpoint.total_usage())).unwrap_or_default(),
            calls_by_holder: endpoint
                .filter(|_| is_full)
                .map(|endpoint| self.holders.iter().map(|id| (*id, figures(&endpoint.usage(*id)))).collect())
                .unwrap_or_default(),
            last_lines: if is_full { lines.last() } else { Vec::new() },
            ..unheld(&run.name, &self.entry)
        };
        (report, tree.filter(|_| is_full))
    }
}

impl HeldWorker {
    fn report(&self, id: &str) -> WorkerReport {
        worker_report(id, Some((self.allocation, &self.job)), self.port, &self.service.status())
    }
}

fn worker_report(id: &str, lease: Option<(AllocationId, &JobId)>, port: Port, status: &Status) -> WorkerReport {
    WorkerReport {
        worker: id.to_owned(),
        allocation: lease.map(|(allocation, _)| allocation),
        job: lease.map(|(_, job)| job.clone()),
        port,
        state: status.state,
        reason: status.reason.clone(),
        running_since: status.running_since,
        restarts: status.restarts,
        memory: None,
        last_lines: Vec::new(),
    }
}

/// A server that nobody runs.
fn unheld(name: &ServerName, entry: &Entry) -> ServerReport {
    let headers = match &entry.program {
        Program::Command { .. } | Program::Missing => Vec::new(),
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

/// Where a server is that runs elsewhere.
pub(super) fn url(entry: &Entry) -> Option<String> {
    match &entry.program {
        Program::Command { .. } | Program::Missing => None,
        Program::Remote { url, .. } => Some(url.clone()),
    }
}

fn figures(usage: &Usage) -> CallStats {
    CallStats {
        calls: usage.calls,
        errors: usage.errors,
        bytes_in: usage.bytes_in,
        bytes_out: usage.bytes_out,
        busy_ms: u64::try_from(usage.busy.as_millis()).unwrap_or(u64::MAX),
    }
}
