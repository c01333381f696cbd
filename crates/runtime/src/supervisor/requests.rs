//! Handles the requests for reports, restarts and drains.

use super::super::leases::InstanceKey;
use super::super::service::{SERVER_GRACE, wait_until_restarted};
use super::Supervisor;
use super::reports::{Detail, Report};
use cortex_core::ids::{AgentId, AllocationId, ServerName};
use cortex_managed::{RuntimeError, RuntimeRequest, ServerReport, WorkerReport};
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::sync::oneshot;

impl Supervisor {
    /// Handles a request. A reply whose receiver was dropped is discarded.
    pub(super) fn handle_request(&mut self, request: RuntimeRequest) {
        match request {
            RuntimeRequest::Servers(reply) => drop(reply.send(plain(self.all_servers()))),
            RuntimeRequest::Server(name, holder, reply) => {
                let reports = self.server(&name, holder, Detail::Full);
                self.measure(reply, move || reports.into_iter().map(measured).collect());
            }
            RuntimeRequest::Allocation(allocation, reply) => {
                drop(reply.send((plain(self.servers_of(allocation)), self.workers_of(allocation))));
            }
            RuntimeRequest::RestartServer(name, allocation, reply) => {
                let restarts = self.restart(&name, allocation);
                // In a task of its own, so that the restart continues even if the request is abandoned.
                tokio::spawn(async move {
                    let restarted = match restarts {
                        Ok(restarts) => restarts.await,
                        Err(error) => Err(error),
                    };
                    drop(reply.send(restarted));
                });
            }
            RuntimeRequest::Workers(reply) => drop(reply.send(self.all_workers())),
            RuntimeRequest::Worker(id, reply) => {
                let found = self.worker(&id);
                self.measure(reply, move || {
                    found.map(|(report, tree)| {
                        let usage = tree.and_then(|tree| tree.usage().ok());
                        WorkerReport { memory: usage.map(|usage| usage.memory), ..report }
                    })
                });
            }
            RuntimeRequest::DrainWorker(worker, reply) => {
                drop(reply.send(self.drain_worker(worker)));
            }
        }
    }

    /// Replies with the result of `measure`, which reads the process table and is slow on a machine with many
    /// processes. Runs it on a thread when a permit is free, unless the receiver was dropped by then.
    fn measure<T: Send + 'static>(&self, reply: oneshot::Sender<T>, measure: impl FnOnce() -> T + Send + 'static) {
        let permits = Arc::clone(&self.measurements);
        tokio::spawn(async move {
            let Ok(_permit) = permits.acquire().await else { return };
            if reply.is_closed() {
                return;
            }
            if let Ok(measured) = tokio::task::spawn_blocking(measure).await {
                drop(reply.send(measured));
            }
        });
    }

    fn drain_worker(&mut self, worker: String) -> Result<WorkerReport, RuntimeError> {
        if let Some(held) = self.workers.get(&worker) {
            return Err(RuntimeError::Leased { worker, allocation: held.allocation });
        }
        let agents = self.pool.as_mut().map(|pool| &mut pool.agents);
        let id = AgentId::new(&worker).ok();
        let agent = agents.zip(id).and_then(|(agents, id)| agents.get_mut(&id));
        match agent {
            Some(agent) => (agent.is_draining, agent.is_drain_requested) = (true, true),
            None => return Err(RuntimeError::UnknownWorker { worker }),
        }
        let report = self.worker(&worker).map(|(report, _)| report);
        report.ok_or(RuntimeError::UnknownWorker { worker })
    }

    /// Restarts each instance of a server, or only that of an allocation. The returned future waits until they run
    /// again.
    fn restart(
        &mut self,
        name: &ServerName,
        allocation: Option<AllocationId>,
    ) -> Result<impl Future<Output = Result<(), RuntimeError>> + use<>, RuntimeError> {
        let keys: Vec<InstanceKey> = self.named(name, allocation).map(|(key, _)| key.clone()).collect();
        if keys.is_empty() {
            let is_known = self.current_catalog().is_some_and(|catalog| catalog.entries.contains_key(name));
            let name = name.to_string();
            return Err(match allocation {
                Some(allocation) => RuntimeError::NotHeld { name, allocation },
                None if is_known => RuntimeError::NotRunning { name },
                None => RuntimeError::UnknownServer { name },
            });
        }
        keys.iter().for_each(|key| self.renew_entry(key, true));
        let restarts = self.named(name, allocation).map(|(key, instance)| {
            let number = instance.server.restart();
            // The running process has its grace to end, and so has the new one if it does not answer in time.
            let within = instance.entry.start_timeout + 3 * SERVER_GRACE;
            let restarted = wait_until_restarted(instance.server.watch(), number, within);
            let server = match key.owner {
                Some(owner) => format!("{:?} of {owner}", name.as_str()),
                None => format!("{:?}", name.as_str()),
            };
            let unserved = instance.unserved();
            async move {
                match restarted.await.and_then(|()| unserved.map_or(Ok(()), Err)) {
                    Ok(()) => Ok(()),
                    Err(failure) => Err(RuntimeError::NotRestarted { server, why: failure.with_stderr() }),
                }
            }
        });
        let restarts: Vec<_> = restarts.collect();
        // All restarts complete before the first error is returned.
        Ok(join_all(restarts).map(|restarted| restarted.into_iter().collect()))
    }
}

fn plain(reports: Vec<Report>) -> Vec<ServerReport> {
    reports.into_iter().map(|(report, _)| report).collect()
}

/// Adds the measured memory and number of processes to a report.
fn measured((report, tree): Report) -> ServerReport {
    let usage = tree.and_then(|tree| tree.usage().ok());
    ServerReport {
        memory: usage.map(|usage| usage.memory),
        processes: usage.map(|usage| usage.processes as u64),
        ..report
    }
}
