//! A stub of the manager of servers and workers: it replies with the given reports.

use std::sync::{Arc, Mutex};

use cortex_core::ids::{AllocationId, ServerName};
use cortex_core::ports::Port;
use cortex_core::provisioning::Sharing;
use cortex_core::time::Timestamp;
use cortex_core::units::MemoryMb;
use cortex_managed::{CallStats, MemoryLimit, ProcessState, RuntimeError, RuntimeRequest, ServerReport, WorkerReport};
use tokio::sync::{mpsc, oneshot};

/// The reports to reply with.
#[derive(Default)]
pub(crate) struct Reports {
    pub(crate) servers: Vec<ServerReport>,
    pub(crate) workers: Vec<WorkerReport>,
    /// The requested restarts.
    pub(crate) restarted: Vec<(String, Option<AllocationId>)>,
    /// The replies to delayed restarts, where restarts are delayed.
    pub(crate) restarts_waiting: Option<Vec<oneshot::Sender<Result<(), RuntimeError>>>>,
}

/// Replies until all senders are gone.
pub(crate) async fn answer(mut requests: mpsc::Receiver<RuntimeRequest>, reports: Arc<Mutex<Reports>>) {
    while let Some(ask) = requests.recv().await {
        let mut reports = reports.lock().expect("no panic");
        let named = |name: &ServerName, of: Option<AllocationId>| {
            let holds = |report: &&ServerReport| of.is_none_or(|allocation| report.holders.contains(&allocation));
            let servers = reports.servers.iter().filter(|report| report.name == *name);
            servers.filter(holds).cloned().collect::<Vec<_>>()
        };
        // The caller may be gone.
        match ask {
            RuntimeRequest::Servers(reply) => drop(reply.send(reports.servers.clone())),
            RuntimeRequest::Server(name, holder, reply) => drop(reply.send(named(&name, holder))),
            RuntimeRequest::Allocation(allocation, reply) => {
                let servers = reports.servers.iter().filter(|server| server.holders.contains(&allocation));
                let workers = reports.workers.iter().filter(|worker| worker.allocation == Some(allocation));
                drop(reply.send((servers.cloned().collect(), workers.cloned().collect())));
            }
            RuntimeRequest::RestartServer(name, allocation, reply) => {
                let runs = named(&name, allocation);
                reports.restarted.push((name.to_string(), allocation));
                let name = name.to_string();
                if let Some(waiting) = &mut reports.restarts_waiting {
                    waiting.push(reply);
                    continue;
                }
                drop(reply.send(match allocation {
                    _ if !runs.is_empty() => Ok(()),
                    Some(allocation) => Err(RuntimeError::NotHeld { name, allocation }),
                    None => Err(RuntimeError::NotRunning { name }),
                }));
            }
            RuntimeRequest::Workers(reply) => drop(reply.send(reports.workers.clone())),
            RuntimeRequest::Worker(worker, reply) => {
                drop(reply.send(reports.workers.iter().find(|report| report.worker == worker).cloned()));
            }
            RuntimeRequest::DrainWorker(worker, reply) => {
                let report = reports.workers.iter().find(|report| report.worker == worker);
                drop(reply.send(match report {
                    None => Err(RuntimeError::UnknownWorker { worker }),
                    Some(WorkerReport { allocation: Some(allocation), .. }) => {
                        Err(RuntimeError::Leased { worker, allocation: *allocation })
                    }
                    Some(report) => Ok(WorkerReport { state: ProcessState::Stopping, ..report.clone() }),
                }));
            }
        }
    }
}

/// A stopped server.
pub(crate) fn stopped(name: &str) -> ServerReport {
    ServerReport {
        name: ServerName::new(name).expect("a name"),
        sharing: Sharing::Shared,
        owner: None,
        is_remote: false,
        endpoint: None,
        port: None,
        headers: Vec::new(),
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

/// A server that runs for these allocations.
pub(crate) fn running(name: &str, holders: &[AllocationId]) -> ServerReport {
    ServerReport {
        endpoint: Some("http://localhost:9000".to_owned()),
        state: ProcessState::Running,
        holders: holders.to_vec(),
        running_since: Some(Timestamp::from_millis(1_765_220_400_000)),
        restarts: 2,
        memory: Some(MemoryMb(48)),
        processes: Some(3),
        memory_limit: Some(MemoryLimit { memory: MemoryMb(512), held_by: "cgroup" }),
        calls: CallStats { calls: 9, errors: 1, bytes_in: 900, bytes_out: 9_000, busy_ms: 18 },
        calls_by_holder: holders.iter().take(1).map(|holder| (*holder, figures(4))).collect(),
        last_lines: (0..30).map(|number| format!("line {number}")).collect(),
        ..stopped(name)
    }
}

/// A remote server, leased to these allocations.
pub(crate) fn remote(name: &str, holders: &[AllocationId]) -> ServerReport {
    ServerReport {
        is_remote: true,
        endpoint: Some("https://me:hidden@search.example/mcp?key=hidden".to_owned()),
        headers: vec![("X-Api-Key".to_owned(), "hidden too".to_owned())],
        state: ProcessState::Running,
        holders: holders.to_vec(),
        ..stopped(name)
    }
}

pub(crate) fn figures(calls: u64) -> CallStats {
    CallStats { calls, ..CallStats::default() }
}

/// A running worker.
pub(crate) fn worker(id: &str, allocation: Option<AllocationId>) -> WorkerReport {
    WorkerReport {
        worker: id.to_owned(),
        allocation,
        job: None,
        port: Port(8000),
        state: ProcessState::Running,
        reason: None,
        running_since: Some(Timestamp::from_millis(1_765_220_400_000)),
        restarts: 0,
        memory: Some(MemoryMb(20)),
        last_lines: (0..300).map(|number| format!("line {number}")).collect(),
    }
}
