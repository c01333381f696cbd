//! The pool: agents that are run because the planner wants them, and ended when it does not.
//!
//! How many there should be stands in the books, with the last scaling. Agents that others run count too. One that is to go
//! is given no more tasks, and ended when it has none; then its id is free again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;

use tokio::task::JoinHandle;

use super::super::service::{Kind, Service};
use super::super::worker::{PoolOptions, WorkerCommand};
use super::Supervisor;
use cortex_core::fleet::view::AgentFilter;
use cortex_core::ids::AgentId;
use cortex_core::ports::{Port, SERVER_PORTS};
use cortex_engine::AgentListing;

/// How many agents are started with one look, so that a large step does not start all at the same moment.
const STARTS_MAX: usize = 8;

/// How many agents the books are asked for at once.
const PAGE: usize = 1_000;

/// How often another port is looked for where one is for servers.
const PORT_TRIES_MAX: usize = 200;

/// The agents that are run.
pub(in super::super) struct Pool {
    options: PoolOptions,
    command: Arc<WorkerCommand>,
    /// What their ids begin with: those of another run of the manager may still be known.
    prefix: String,
    started: u64,
    pub(super) agents: BTreeMap<AgentId, PoolAgent>,
    /// Agents that are being ended.
    ending: BTreeMap<AgentId, JoinHandle<()>>,
}

/// An agent that is run.
pub(super) struct PoolAgent {
    pub(super) service: Service,
    pub(super) port: Port,
    /// Whether it is to go.
    pub(super) is_draining: bool,
    /// Whether that was asked for, whatever the planner wants.
    pub(super) is_asked_to_go: bool,
}

/// What the books say of the fleet.
struct Fleet {
    /// How many tasks each agent holds.
    tasks: BTreeMap<AgentId, usize>,
    /// How many agents there should be.
    wanted: u64,
    /// How many more workers there is room for.
    free_workers: u64,
}

impl Pool {
    pub(in super::super) fn new(options: PoolOptions, command: Arc<WorkerCommand>, prefix: String) -> Self {
        Self { options, command, prefix, started: 0, agents: BTreeMap::new(), ending: BTreeMap::new() }
    }

    /// How many processes it has.
    pub(super) fn processes(&self) -> usize {
        self.agents.len() + self.ending.len()
    }

    /// Ends all of it.
    pub(super) fn end(self) -> impl Iterator<Item = JoinHandle<()>> {
        self.agents.into_values().map(|agent| agent.service.end()).chain(self.ending.into_values())
    }

    /// How many of its own agents there should be.
    fn wanted(&self, fleet: &Fleet) -> usize {
        let others = fleet.tasks.keys().filter(|agent| !self.agents.contains_key(*agent)).count() as u64;
        let registered = self.agents.keys().filter(|agent| fleet.tasks.contains_key(*agent)).count() as u64;
        // One that finds no worker when it registers would be started in vain.
        let room = registered + fleet.free_workers;
        let wanted = fleet.wanted.saturating_sub(others).min(room);
        usize::try_from(wanted).unwrap_or(usize::MAX).min(self.options.agents_max)
    }

    fn serving(&self) -> usize {
        self.agents.values().filter(|agent| !agent.is_draining).count()
    }
}

impl Supervisor {
    /// Has the agents that are run follow what the planner wants, and lets those go that are to.
    pub(super) async fn tend_pool(&mut self) {
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
            // It cannot register any more.
            let _ = self.engine.drain_agent(agent, false).await;
        }
        self.pool = Some(pool);
    }

    fn scale(&self, pool: &mut Pool, fleet: &Fleet, wanted: usize) {
        let mut missing = wanted.saturating_sub(pool.serving());
        // One that is not gone yet is the first to stay.
        for agent in pool.agents.values_mut().filter(|agent| agent.is_draining && !agent.is_asked_to_go) {
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
        // Those that do nothing, the newest first: one that holds a task goes on.
        let idle = |agent: &AgentId| fleet.tasks.get(agent).is_none_or(|tasks| *tasks == 0);
        let going: BTreeSet<AgentId> = pool
            .agents
            .iter()
            .rev()
            .filter(|(id, agent)| !agent.is_draining && idle(id))
            .take(surplus)
            .map(|(id, _)| id.clone())
            .collect();
        for id in going {
            tracing::info!(agent = %id, "an agent is not needed any more");
            if let Some(agent) = pool.agents.get_mut(&id) {
                agent.is_draining = true;
            }
        }
    }

    fn start_agent(&self, pool: &mut Pool) {
        let Some(port) = unused_port() else {
            return tracing::warn!("no agent is started: there is no port for it");
        };
        pool.started += 1;
        let name = format!("{}-{:04}", pool.prefix, pool.started);
        let Ok(id) = AgentId::new(&name) else { return };
        let worker = pool.command.agent(name.clone(), port, &pool.options);
        tracing::info!(agent = %id, "an agent is started, as planned");
        let with = (Arc::clone(&self.spawner), self.timing);
        let service = Service::start(name, Kind::Worker(worker), with, None);
        pool.agents.insert(id, PoolAgent { service, port, is_draining: false, is_asked_to_go: false });
    }

    /// Lets those that are to go have nothing more, and ends those that have nothing left.
    async fn drain(&self, pool: &mut Pool) {
        let draining: Vec<AgentId> =
            pool.agents.iter().filter(|(_, agent)| agent.is_draining).map(|(id, _)| id.clone()).collect();
        for id in draining {
            // Said again each time, since a new start of the books forgets it.
            let Ok(held) = self.engine.drain_agent(id.clone(), true).await else { continue };
            if held.unwrap_or(0) > 0 {
                continue;
            }
            if held.is_some() {
                // Whatever it says, it has no task.
                let _ = self.engine.unregister_agent(id.clone()).await;
            }
            if let Some(agent) = pool.agents.remove(&id) {
                pool.ending.insert(id, agent.service.end());
            }
        }
    }

    /// What the books say; nothing while the planner never said how many agents there should be, since none are run then.
    async fn fleet(&self) -> Option<Fleet> {
        let (scalings, _) = self.engine.scalings(1).await.ok()?;
        let wanted = scalings.first()?.scaling.agents_to;
        let mut tasks = BTreeMap::new();
        let mut after = None;
        loop {
            let listing = AgentListing { filter: AgentFilter::default(), after, limit: PAGE };
            let page = self.engine.agents(listing).await.ok()?;
            let held = |view: &cortex_core::fleet::view::AgentView| {
                (view.registration.request.agent.clone(), view.tasks.len())
            };
            tasks.extend(page.entries.iter().map(held));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let capacity = self.engine.capacity().await.ok()?.value;
        let free_workers = capacity.total.workers.saturating_sub(capacity.leased.workers);
        Some(Fleet { tasks, wanted, free_workers })
    }
}

/// A port that nobody listens at, and that is none of the servers'.
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
