//! What the supervisor answers to those who ask how servers and workers stand, or want something of one.

use super::super::leases::Run;
use super::super::service::Order;
use super::Supervisor;
use super::reports::{Detail, Report};
use crate::core::{AgentId, AllocationId, ServerName};
use crate::managed::{Ask, AskError, ServerReport, WorkerReport};
use tokio::sync::oneshot;

impl Supervisor {
    /// Answers a question. Whoever asked and has gone does not want the answer.
    pub(super) fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Servers(reply) => drop(reply.send(plain(self.all_servers()))),
            Ask::Server(name, holder, reply) => {
                measured(self.server(&name, holder, Detail::Full), reply, |reports| reports);
            }
            Ask::Allocation(allocation, reply) => {
                drop(reply.send((plain(self.servers_of(allocation)), self.workers_of(allocation))));
            }
            Ask::RestartServer(name, allocation, reply) => match self.restart(&name, allocation) {
                Ok(reports) => measured(reports, reply, Ok),
                Err(error) => drop(reply.send(Err(error))),
            },
            Ask::Workers(reply) => drop(reply.send(self.all_workers())),
            Ask::Worker(id, reply) => {
                let found = self.worker(&id);
                tokio::task::spawn_blocking(move || {
                    let measured = found.map(|(report, tree)| {
                        let usage = tree.and_then(|tree| tree.usage().ok());
                        WorkerReport { memory: usage.map(|usage| usage.memory), ..report }
                    });
                    drop(reply.send(measured));
                });
            }
            Ask::DrainWorker(worker, reply) => {
                drop(reply.send(self.drain_worker(worker)));
            }
        }
    }

    fn drain_worker(&mut self, worker: String) -> Result<WorkerReport, AskError> {
        if let Some(held) = self.workers.get(&worker) {
            return Err(AskError::Leased { worker, allocation: held.allocation });
        }
        let agents = self.pool.as_mut().map(|pool| &mut pool.agents);
        let id = AgentId::new(&worker).ok();
        let agent = agents.zip(id).and_then(|(agents, id)| agents.get_mut(&id));
        match agent {
            Some(agent) => (agent.is_draining, agent.is_asked_to_go) = (true, true),
            None => return Err(AskError::NoWorker { worker }),
        }
        let report = self.worker(&worker).map(|(report, _)| report);
        report.ok_or(AskError::NoWorker { worker })
    }

    fn restart(&mut self, name: &ServerName, allocation: Option<AllocationId>) -> Result<Vec<Report>, AskError> {
        let meant: Vec<Run> = self.named(name, allocation).map(|(run, _)| run.clone()).collect();
        if meant.is_empty() {
            let is_known = self.known().is_some_and(|catalog| catalog.entries.contains_key(name));
            let name = name.to_string();
            return Err(match allocation {
                Some(allocation) => AskError::NotHeld { name, allocation },
                None if is_known => AskError::NotRunning { name },
                None => AskError::NoServer { name },
            });
        }
        meant.iter().for_each(|run| self.renew_entry(run));
        self.named(name, allocation).for_each(|(_, held)| held.server.order(Order::Restart));
        Ok(self.server(name, allocation, Detail::Full))
    }
}

fn plain(reports: Vec<Report>) -> Vec<ServerReport> {
    reports.into_iter().map(|(report, _)| report).collect()
}

/// Answers once it is seen what the processes take, which is slow where a machine has many.
fn measured<T: Send + 'static>(
    reports: Vec<Report>,
    reply: oneshot::Sender<T>,
    answer: impl FnOnce(Vec<ServerReport>) -> T + Send + 'static,
) {
    tokio::task::spawn_blocking(move || {
        let measure = |(report, tree): Report| {
            let usage = tree.and_then(|tree| tree.usage().ok());
            ServerReport {
                memory: usage.map(|usage| usage.memory),
                processes: usage.map(|usage| usage.processes as u64),
                ..report
            }
        };
        drop(reply.send(answer(reports.into_iter().map(measure).collect())));
    });
}
