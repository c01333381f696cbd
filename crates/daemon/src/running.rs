//! What is really run, for the status: each server and worker on a line.

use std::fmt;

use serde::{Deserialize, Serialize};

use cortex_managed::{Ask, Managed, ProcessState, ServerReport, WorkerReport};

/// How many bytes of JSON all that is told of takes at most: about half of what an answer may have.
const SHOWN_BYTES_MAX: usize = 32_768;

/// What is run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Running {
    servers: u64,
    workers: u64,
    /// As many of them as there is room for, servers first.
    shown: Vec<Run>,
}

/// A server or worker that is run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    /// `server` or `worker`.
    kind: String,
    name: String,
    /// The allocation whose own it is.
    allocation_id: Option<String>,
    state: String,
    /// How many allocations hold a server.
    holders: Option<u64>,
    /// Nothing for a server that runs elsewhere.
    port: Option<u16>,
    restarts: u64,
}

impl Running {
    /// What whoever runs it tells; nothing if it is ending.
    pub(super) async fn told_by(managed: &Managed) -> Option<Self> {
        let reports = tokio::try_join!(managed.ask(Ask::Servers), managed.ask(Ask::Workers));
        reports.ok().map(|(servers, workers)| Self::of(&servers, &workers))
    }

    /// What runs of these, or should.
    fn of(servers: &[ServerReport], workers: &[WorkerReport]) -> Self {
        let servers: Vec<Run> =
            servers.iter().filter(|report| report.state != ProcessState::Stopped).map(Run::from).collect();
        let counts = (servers.len() as u64, workers.len() as u64);
        let mut bytes = 0;
        let fits = |run: &Run| {
            bytes += serde_json::to_string(run).map_or(0, |text| text.len() + 1);
            bytes <= SHOWN_BYTES_MAX
        };
        let shown = servers.into_iter().chain(workers.iter().map(Run::from)).take_while(fits).collect();
        Self { servers: counts.0, workers: counts.1, shown }
    }
}

impl From<&ServerReport> for Run {
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

impl From<&WorkerReport> for Run {
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

impl fmt::Display for Running {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { servers, workers, shown } = self;
        writeln!(formatter, "run: {}, {}", counted(*servers, "server"), counted(*workers, "worker"))?;
        shown.iter().try_for_each(|run| run.fmt(formatter))?;
        match (servers + workers).saturating_sub(shown.len() as u64) {
            0 => Ok(()),
            more => writeln!(formatter, "not shown: {more} more"),
        }
    }
}

impl fmt::Display for Run {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, allocation_id, state, holders, port, restarts } = self;
        write!(formatter, "{kind} {name}")?;
        allocation_id.iter().try_for_each(|allocation| write!(formatter, " of {allocation}"))?;
        write!(formatter, ": {state}")?;
        holders.iter().try_for_each(|holders| write!(formatter, ", {}", counted(*holders, "holder")))?;
        match port {
            Some(port) => write!(formatter, ", port {port}")?,
            None => formatter.write_str(", elsewhere")?,
        }
        writeln!(formatter, ", {}", counted(*restarts, "restart"))
    }
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(kind: &str, name: &str) -> Run {
        Run {
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
    fn each_run_is_a_line() {
        let server = |name, port| Run { holders: Some(2), port, restarts: 0, ..run("server", name) };
        let own = Run { allocation_id: Some("alloc-1".to_owned()), holders: Some(1), ..run("server", "memory") };
        let shown = vec![server("a", Some(9_000)), server("far", None), own, run("worker", "worker-x-000")];
        let text = Running { servers: 3, workers: 3, shown }.to_string();
        let expected = "run: 3 servers, 3 workers\n\
                        server a: running, 2 holders, port 9000, 0 restarts\n\
                        server far: running, 2 holders, elsewhere, 0 restarts\n\
                        server memory of alloc-1: running, 1 holder, port 8000, 1 restart\n\
                        worker worker-x-000: running, port 8000, 1 restart\n\
                        not shown: 2 more\n";
        assert_eq!(text, expected);
        assert_eq!(Running::default().to_string(), "run: 0 servers, 0 workers\n");
    }

    #[test]
    fn what_is_told_has_a_bound() {
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
        let running = Running::of(&[], &workers);
        assert_eq!(running.workers, 1_000);
        assert!(running.shown.len() > 10 && serde_json::to_string(&running).expect("JSON").len() < 33_000);
    }
}
