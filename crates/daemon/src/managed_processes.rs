//! The managed processes in the status: one line for each server and worker.

use std::fmt;

use serde::{Deserialize, Serialize};

use cortex_managed::{ProcessState, RuntimeHandle, RuntimeRequest, ServerReport, WorkerReport};

/// The maximum size of the listed processes as JSON, in bytes: about half of the handshake's limit.
const SHOWN_BYTES_MAX: usize = 32_768;

/// The managed processes of a daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ManagedProcesses {
    servers: u64,
    workers: u64,
    /// As many of the processes as fit, servers first.
    shown: Vec<ProcessSummary>,
}

/// A managed server or worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ProcessSummary {
    /// `server` or `worker`.
    kind: String,
    name: String,
    /// The allocation that the process is dedicated to, if any.
    allocation_id: Option<String>,
    state: String,
    /// The number of allocations that hold a server; `None` for a worker.
    holders: Option<u64>,
    /// `None` for a remote server.
    port: Option<u16>,
    restarts: u64,
}

impl ManagedProcesses {
    /// Reads the processes from their host; `None` if the host is ending.
    pub(super) async fn read(managed: &RuntimeHandle) -> Option<Self> {
        let reports =
            tokio::try_join!(managed.request(RuntimeRequest::Servers), managed.request(RuntimeRequest::Workers));
        reports.ok().map(|(servers, workers)| Self::of(&servers, &workers))
    }

    /// Selects the servers that run or should run, and all workers.
    fn of(servers: &[ServerReport], workers: &[WorkerReport]) -> Self {
        let servers: Vec<ProcessSummary> =
            servers.iter().filter(|report| report.state != ProcessState::Stopped).map(ProcessSummary::from).collect();
        let counts = (servers.len() as u64, workers.len() as u64);
        let mut bytes = 0;
        let fits = |process: &ProcessSummary| {
            bytes += serde_json::to_string(process).map_or(0, |text| text.len() + 1);
            bytes <= SHOWN_BYTES_MAX
        };
        let shown = servers.into_iter().chain(workers.iter().map(ProcessSummary::from)).take_while(fits).collect();
        Self { servers: counts.0, workers: counts.1, shown }
    }
}

impl From<&ServerReport> for ProcessSummary {
    fn from(report: &ServerReport) -> Self {
        Self {
            kind: "server".to_owned(),
            name: report.name.to_string(),
            allocation_id: report.owner.as_ref().map(|(allocation, _)| allocation.to_string()),
            state: report.state.as_str().to_owned(),
            holders: Some(report.holders.len() as u64),
            port: report.port.map(|port| port.0),
            restarts: report.restarts,
        }
    }
}

impl From<&WorkerReport> for ProcessSummary {
    fn from(report: &WorkerReport) -> Self {
        Self {
            kind: "worker".to_owned(),
            name: report.worker.clone(),
            allocation_id: report.allocation.map(|allocation| allocation.to_string()),
            state: report.state.as_str().to_owned(),
            holders: None,
            port: Some(report.port.0),
            restarts: report.restarts,
        }
    }
}

impl fmt::Display for ManagedProcesses {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { servers, workers, shown } = self;
        writeln!(formatter, "run: {}, {}", counted(*servers, "server"), counted(*workers, "worker"))?;
        shown.iter().try_for_each(|process| process.fmt(formatter))?;
        match (servers + workers).saturating_sub(shown.len() as u64) {
            0 => Ok(()),
            more => writeln!(formatter, "not shown: {more} more"),
        }
    }
}

impl fmt::Display for ProcessSummary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, allocation_id, state, holders, port, restarts } = self;
        write!(formatter, "{kind} {name}")?;
        allocation_id.iter().try_for_each(|allocation| write!(formatter, " of {allocation}"))?;
        write!(formatter, ": {state}")?;
        holders.iter().try_for_each(|holders| write!(formatter, ", {}", counted(*holders, "holder")))?;
        match port {
            Some(port) => write!(formatter, ", port {port}")?,
            None => formatter.write_str(", remote")?,
        }
        writeln!(formatter, ", {}", counted(*restarts, "restart"))
    }
}

pub(super) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(kind: &str, name: &str) -> ProcessSummary {
        ProcessSummary {
            kind: kind.to_owned(),
            name: name.to_owned(),
            allocation_id: None,
            state: "running".to_owned(),
            holders: None,
            port: Some(8_000),
            restarts: 1,
        }
    }

    #[test]
    fn each_process_is_a_line() {
        let server = |name, port| ProcessSummary { holders: Some(2), port, restarts: 0, ..summary("server", name) };
        let own = ProcessSummary {
            allocation_id: Some("alloc-1".to_owned()),
            holders: Some(1),
            ..summary("server", "memory")
        };
        let shown = vec![server("a", Some(9_000)), server("far", None), own, summary("worker", "worker-x-000")];
        let text = ManagedProcesses { servers: 3, workers: 3, shown }.to_string();
        let expected = "run: 3 servers, 3 workers\n\
                        server a: running, 2 holders, port 9000, 0 restarts\n\
                        server far: running, 2 holders, remote, 0 restarts\n\
                        server memory of alloc-1: running, 1 holder, port 8000, 1 restart\n\
                        worker worker-x-000: running, port 8000, 1 restart\n\
                        not shown: 2 more\n";
        assert_eq!(text, expected);
        assert_eq!(ManagedProcesses::default().to_string(), "run: 0 servers, 0 workers\n");
    }

    #[test]
    fn the_list_of_processes_has_a_bound() {
        use cortex_core::ports::Port;
        let worker = |number| WorkerReport {
            worker: format!("worker-{}-{number}", "\"".repeat(250)),
            allocation: None,
            job: None,
            port: Port(8_000),
            state: ProcessState::Running,
            reason: None,
            running_since: None,
            restarts: 0,
            memory: None,
            last_lines: Vec::new(),
        };
        let workers: Vec<WorkerReport> = (0..1_000).map(worker).collect();
        let running = ManagedProcesses::of(&[], &workers);
        assert_eq!(running.workers, 1_000);
        assert!(running.shown.len() > 10 && serde_json::to_string(&running).expect("JSON").len() < 33_000);
    }
}
