//! How servers stand, in words for whoever asks.

use std::collections::BTreeSet;

use super::super::bridge::Usage;
use super::super::catalog::{Entry, Program};
use super::super::leases::Run;
use super::super::server::Status;
use super::super::tree::Tree;
use super::{Held, Supervisor};
use crate::core::{AllocationId, ServerName};
use crate::managed::{CallFigures, ProcessState, ServerReport};

/// How much is told of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    /// What a list shows.
    Brief,
    /// All, its last lines and what it takes included.
    Full,
}

/// A report, and the processes that are still to be looked at for it.
pub(super) type Report = (ServerReport, Option<Tree>);

impl Supervisor {
    /// How every server of the catalog stands, and those that run though the catalog has them no more.
    pub(super) fn all_servers(&self, detail: Detail) -> Vec<Report> {
        let catalog = self.catalog.borrow();
        let names: BTreeSet<ServerName> =
            catalog.entries.keys().chain(self.runs.keys().map(|run| &run.name)).cloned().collect();
        drop(catalog);
        names.iter().flat_map(|name| self.server(name, detail)).collect()
    }

    /// How each run of a server stands; one that nobody runs is told of too. None, if there is no such server.
    pub(super) fn server(&self, name: &ServerName, detail: Detail) -> Vec<Report> {
        let runs: Vec<Report> =
            self.runs.iter().filter(|(run, _)| run.name == *name).map(|(run, held)| held.report(run, detail)).collect();
        if !runs.is_empty() {
            return runs;
        }
        let catalog = self.catalog.borrow();
        catalog.entries.get(name).map(|entry| (unheld(name, entry), None)).into_iter().collect()
    }

    /// How the servers stand that an allocation holds.
    pub(super) fn servers_of(&self, allocation: AllocationId) -> Vec<Report> {
        let Some(part) = self.allocations.get(&allocation) else { return Vec::new() };
        let held = part.runs.iter().filter_map(|run| Some((run, self.runs.get(run)?)));
        held.map(|(run, held)| held.report(run, Detail::Brief)).collect()
    }
}

impl Held {
    pub(super) fn report(&self, run: &Run, detail: Detail) -> Report {
        let Status { state, reason, running_since, restarts, lines, tree, memory_limit, .. } = self.server.status();
        let unserved = (self.serving.is_none() && self.server.endpoint.is_some() && !self.holders.is_empty())
            .then(|| format!("something else on this machine holds its port {}", self.port));
        let endpoint = self.server.endpoint.as_ref();
        let is_full = detail == Detail::Full;
        let report = ServerReport {
            endpoint: endpoint.map_or_else(|| url(&self.server.entry), |_| Some(self.port.endpoint())),
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
            ..unheld(&run.name, &self.server.entry)
        };
        (report, tree.filter(|_| is_full))
    }
}

/// A server that nobody runs.
fn unheld(name: &ServerName, entry: &Entry) -> ServerReport {
    let headers = match &entry.program {
        Program::Command { .. } => Vec::new(),
        Program::Remote { headers, .. } => headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
    };
    ServerReport {
        name: name.clone(),
        sharing: entry.sharing,
        is_remote: entry.is_remote(),
        endpoint: url(entry),
        headers,
        state: ProcessState::Stopped,
        reason: None,
        holders: Vec::new(),
        running_since: None,
        restarts: 0,
        memory: None,
        processes: None,
        memory_limit: None,
        calls: CallFigures::default(),
        calls_by_holder: Vec::new(),
        last_lines: Vec::new(),
    }
}

fn url(entry: &Entry) -> Option<String> {
    match &entry.program {
        Program::Command { .. } => None,
        Program::Remote { url, .. } => Some(url.clone()),
    }
}

fn figures(usage: &Usage) -> CallFigures {
    CallFigures {
        calls: usage.calls,
        errors: usage.errors,
        bytes_in: usage.bytes_in,
        bytes_out: usage.bytes_out,
        busy_ms: u64::try_from(usage.busy.as_millis()).unwrap_or(u64::MAX),
    }
}
