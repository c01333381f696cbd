//! What the supervisor answers to those who ask how servers and workers stand, or want something of one.

use super::super::leases::Run;
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
    /// Answers a question. Whoever asked and has gone does not want the answer.
    pub(super) fn answer(&mut self, ask: RuntimeRequest) {
        match ask {
            RuntimeRequest::Servers(reply) => drop(reply.send(plain(self.all_servers()))),
            RuntimeRequest::Server(name, holder, reply) => {
                let reports = self.server(&name, holder, Detail::Full);
                self.look(reply, move || reports.into_iter().map(measured).collect());
            }
            RuntimeRequest::Allocation(allocation, reply) => {
                drop(reply.send((plain(self.servers_of(allocation)), self.workers_of(allocation))));
            }
            RuntimeRequest::RestartServer(name, allocation, reply) => {
                let restarts = self.restart(&name, allocation);
                // It goes on whether or not somebody waits for it.
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
                self.look(reply, move || {
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

    /// Answers with what `look` finds, which looks at processes: that is slow where a machine has many. It has a thread, once
    /// one of the few is free, and is not done for one who has gone by then.
    fn look<T: Send + 'static>(&self, reply: oneshot::Sender<T>, look: impl FnOnce() -> T + Send + 'static) {
        let looks = Arc::clone(&self.looks);
        tokio::spawn(async move {
            let Ok(_permit) = looks.acquire().await else { return };
            if reply.is_closed() {
                return;
            }
            if let Ok(found) = tokio::task::spawn_blocking(look).await {
                drop(reply.send(found));
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
            Some(agent) => (agent.is_draining, agent.is_asked_to_go) = (true, true),
            None => return Err(RuntimeError::UnknownWorker { worker }),
        }
        let report = self.worker(&worker).map(|(report, _)| report);
        report.ok_or(RuntimeError::UnknownWorker { worker })
    }

    /// Begins to restart a server, each run of it or only that of an allocation. What is given back waits until they run.
    fn restart(
        &mut self,
        name: &ServerName,
        allocation: Option<AllocationId>,
    ) -> Result<impl Future<Output = Result<(), RuntimeError>> + use<>, RuntimeError> {
        let meant: Vec<Run> = self.named(name, allocation).map(|(run, _)| run.clone()).collect();
        if meant.is_empty() {
            let is_known = self.known().is_some_and(|catalog| catalog.entries.contains_key(name));
            let name = name.to_string();
            return Err(match allocation {
                Some(allocation) => RuntimeError::NotHeld { name, allocation },
                None if is_known => RuntimeError::NotRunning { name },
                None => RuntimeError::UnknownServer { name },
            });
        }
        meant.iter().for_each(|run| self.renew_entry(run, true));
        let restarts = self.named(name, allocation).map(|(run, held)| {
            let number = held.server.restart();
            // Whoever runs has its grace to end, and so has one that does not answer in time, before it has failed.
            let within = held.entry.start_timeout + 3 * SERVER_GRACE;
            let restarted = wait_until_restarted(held.server.watch(), number, within);
            let server = match run.owner {
                Some(owner) => format!("{:?} of {owner}", name.as_str()),
                None => format!("{:?}", name.as_str()),
            };
            let unserved = held.unserved();
            async move {
                let why = match (restarted.await, unserved) {
                    (Ok(()), None) => return Ok(()),
                    (Ok(()), Some(why)) | (Err(why), _) => why,
                };
                Err(RuntimeError::NotRestarted { server, why })
            }
        });
        let restarts: Vec<_> = restarts.collect();
        // All of them come to something before the first that failed is told.
        Ok(join_all(restarts).map(|restarted| restarted.into_iter().collect()))
    }
}

fn plain(reports: Vec<Report>) -> Vec<ServerReport> {
    reports.into_iter().map(|(report, _)| report).collect()
}

/// A report with what the processes take.
fn measured((report, tree): Report) -> ServerReport {
    let usage = tree.and_then(|tree| tree.usage().ok());
    ServerReport {
        memory: usage.map(|usage| usage.memory),
        processes: usage.map(|usage| usage.processes as u64),
        ..report
    }
}
