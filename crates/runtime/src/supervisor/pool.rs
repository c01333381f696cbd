//! The pool of agents: scales the running agents to the number that the planner decided on.
//!
//! That number is the target of the last scaling in the state. Agents that registered from outside of the pool count as
//! well. A surplus agent is drained: it is given no more tasks, and ended when it has none. Then its id can be used
//! again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;

use tokio::task::JoinHandle;

use super::super::service::{Service, ServiceKind};
use super::super::worker::{PoolOptions, WorkerCommand};
use super::Supervisor;
use cortex_core::command::Command;
use cortex_core::fleet::command::FleetCommand;
use cortex_core::fleet::view::{AgentFilter, AgentView};
use cortex_core::ids::AgentId;
use cortex_core::ports::{Port, SERVER_PORTS};

/// The most agents that one reconciliation starts, so that a large step does not start all of them at the same moment.
const STARTS_MAX: usize = 8;

/// The agents of one page of a listing.
const PAGE: usize = 1_000;

/// The most tries to find a port that is not in the range of servers.
const PORT_TRIES_MAX: usize = 200;

/// The agents of the pool.
pub(in super::super) struct Pool {
    options: PoolOptions,
    command: Arc<WorkerCommand>,
    /// The prefix of their ids, unique to this run of the manager: agents of an earlier run may still be registered.
    prefix: String,
    /// The number of agents started so far.
    started: u64,
    pub(super) agents: BTreeMap<AgentId, PoolAgent>,
    /// Agents that are being ended.
    ending: BTreeMap<AgentId, JoinHandle<()>>,
}

/// An agent of the pool.
pub(super) struct PoolAgent {
    pub(super) service: Service,
    pub(super) port: Port,
    /// Whether it is given no more tasks, and ended when it has none.
    pub(super) is_draining: bool,
    /// Whether a request drained it, so that no scaling keeps it.
    pub(super) is_drain_requested: bool,
}

/// The registered agents and the target of the last scaling, from the state.
struct Fleet {
    /// The number of tasks that each agent holds.
    tasks: BTreeMap<AgentId, usize>,
    /// The target number of agents.
    agents_wanted: u64,
    /// The number of workers that are not leased.
    free_workers: u64,
}

impl Pool {
    pub(in super::super) fn new(options: PoolOptions, command: Arc<WorkerCommand>, prefix: String) -> Self {
        Self { options, command, prefix, started: 0, agents: BTreeMap::new(), ending: BTreeMap::new() }
    }

    /// Returns the number of its agents, including those that are ending.
    pub(super) fn processes(&self) -> usize {
        self.agents.len() + self.ending.len()
    }

    /// Ends all agents. The returned tasks end when their processes have.
    pub(super) fn end(self) -> impl Iterator<Item = JoinHandle<()>> {
        self.agents.into_values().map(|agent| agent.service.end()).chain(self.ending.into_values())
    }

    /// Returns the number of agents that the pool should have.
    fn wanted(&self, fleet: &Fleet) -> usize {
        let others = fleet.tasks.keys().filter(|agent| !self.agents.contains_key(*agent)).count() as u64;
        let registered = self.agents.keys().filter(|agent| fleet.tasks.contains_key(*agent)).count() as u64;
        // An agent takes a worker when it registers, so that one without a free worker would be started for nothing.
        let available = registered + fleet.free_workers;
        let wanted = fleet.agents_wanted.saturating_sub(others).min(available);
        usize::try_from(wanted).unwrap_or(usize::MAX).min(self.options.agents_max)
    }

    fn serving(&self) -> usize {
        self.agents.values().filter(|agent| !agent.is_draining).count()
    }
}

impl Supervisor {
    /// Scales the pool to the target of the planner, and ends drained agents.
    pub(super) async fn reconcile_pool(&mut self) {
        let Some(mut pool) = self.pool.take() else { return };
        if let Some(fleet) = self.fleet().await {
            let wanted = pool.wanted(&fleet);
            self.scale(&mut pool, &fleet, wanted);
            self.drain(&mut pool).await;
        }
        let ended: Vec<AgentId> =
            pool.ending.iter().filter(|(_, end)| end.is_finished()).map(|(agent, _)| agent.clone()).collect();
        for agent in ended {
            pool.ending.remove(&agent);
            // Its process has ended and can no longer register, so that the id need not be drained.
            let _ = self.engine.drain_agent(agent, false).await;
        }
        self.pool = Some(pool);
    }

    fn scale(&self, pool: &mut Pool, fleet: &Fleet, wanted: usize) {
        let mut missing = wanted.saturating_sub(pool.serving());
        // Keeping a surplus agent that has not ended yet is cheaper than starting another.
        for agent in pool.agents.values_mut().filter(|agent| agent.is_draining && !agent.is_drain_requested) {
            if missing == 0 {
                break;
            }
            agent.is_draining = false;
            missing -= 1;
        }
        for _ in 0..missing.min(STARTS_MAX) {
            self.start_agent(pool);
        }
        let surplus = pool.serving().saturating_sub(wanted);
        // Only idle agents are drained, the newest first.
        let is_idle = |agent: &AgentId| fleet.tasks.get(agent).is_none_or(|tasks| *tasks == 0);
        let drained: BTreeSet<AgentId> = pool
            .agents
            .iter()
            .rev()
            .filter(|(id, agent)| !agent.is_draining && is_idle(id))
            .take(surplus)
            .map(|(id, _)| id.clone())
            .collect();
        for id in drained {
            tracing::info!(agent = %id, "surplus agent started to drain");
            if let Some(agent) = pool.agents.get_mut(&id) {
                agent.is_draining = true;
            }
        }
    }

    fn start_agent(&self, pool: &mut Pool) {
        let Some(port) = unused_port() else {
            return tracing::warn!("agent was not started: no free port was found");
        };
        pool.started += 1;
        let name = format!("{}-{:04}", pool.prefix, pool.started);
        let Ok(id) = AgentId::new(&name) else { return };
        let worker = pool.command.agent(name.clone(), port, &pool.options);
        tracing::info!(agent = %id, "agent started");
        let service = Service::start(name, ServiceKind::Worker(worker), self.services.clone(), None);
        pool.agents.insert(id, PoolAgent { service, port, is_draining: false, is_drain_requested: false });
    }

    /// Tells the engine which agents are draining, and ends those that have no tasks left.
    async fn drain(&self, pool: &mut Pool) {
        let draining: Vec<AgentId> =
            pool.agents.iter().filter(|(_, agent)| agent.is_draining).map(|(id, _)| id.clone()).collect();
        for id in draining {
            // Repeated each time, since the engine forgets it when a batch is not committed.
            let Ok(tasks) = self.engine.drain_agent(id.clone(), true).await else { continue };
            if tasks.unwrap_or(0) > 0 {
                continue;
            }
            if tasks.is_some() {
                // An error does not matter: the agent has no tasks and is ended below.
                let unregister = Command::Fleet(FleetCommand::Unregister { agent: id.clone() });
                let _ = self.engine.execute(unregister, |_, _, _| ()).await;
            }
            if let Some(agent) = pool.agents.remove(&id) {
                pool.ending.insert(id, agent.service.end());
            }
        }
    }

    /// Reads the fleet from the engine; none if there was no scaling yet, since the pool has no agents then.
    async fn fleet(&self) -> Option<Fleet> {
        let read = self.engine.read(|state, now| {
            let agents_wanted = state.cluster.scalings().next()?.scaling.agents_to;
            let capacity = state.cluster.capacity(now);
            Some((agents_wanted, capacity.total.workers.saturating_sub(capacity.leased.workers)))
        });
        let (agents_wanted, free_workers) = read.await.ok()??;
        let mut tasks = BTreeMap::new();
        let mut after = None;
        loop {
            let page = self.engine.read(move |state, now| {
                let page = state.agents(now, &AgentFilter::default(), after.as_ref(), PAGE);
                let tasks_of = |view: &AgentView| (view.registration.request.agent.clone(), view.tasks.len());
                (page.entries.iter().map(tasks_of).collect::<Vec<_>>(), page.next)
            });
            let (entries, next) = page.await.ok()?;
            tasks.extend(entries);
            after = next;
            if after.is_none() {
                break;
            }
        }
        Some(Fleet { tasks, agents_wanted, free_workers })
    }
}

/// Returns a port that is unused and not in the range of servers.
fn unused_port() -> Option<Port> {
    for _ in 0..PORT_TRIES_MAX {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
        let port = listener.local_addr().ok()?.port();
        if !SERVER_PORTS.contains(&port) {
            return Some(Port(port));
        }
    }
    None
}
