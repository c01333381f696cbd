//! The state of the fleet as plain data: what a snapshot holds of it.
//!
//! Agents and tasks are stored as JSON, as in events, so that whatever can be read in an event can be read here.
//! Heartbeats are not part of it.

use super::super::cluster::Cluster;
use super::super::ids::{AgentId, AgentType, JobId, TaskNumber};
use super::super::image::InvalidImage;
use super::super::sequence_index::LiveFilter;
use super::super::time::{Millis, Timestamp};
use super::agent::{Agent, FinishedTask, Registration};
use super::settings::FleetSettings;
use super::task::{Complexity, Task};
use super::task_stats::KindStats;
use super::view::BudgetUsage;
use super::{Fleet, queue};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// The state of the fleet without agents and tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetOutline {
    settings: FleetSettings,
    registered: u64,
    quota: Option<u64>,
    quotas: Vec<(AgentType, u64)>,
    next_task: TaskNumber,
    tokens: BudgetOutline,
    job_tokens: Vec<(JobId, BudgetOutline)>,
    window: Millis,
    window_anchor: i64,
    settled_since: Option<i64>,
    kinds: Vec<(Option<AgentType>, Complexity, KindStats)>,
    reported: u64,
    reported_tokens: u128,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct BudgetOutline {
    total: u64,
    settled: u64,
    reserved: u64,
    overrun: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AgentImage {
    registration: Arc<Registration>,
    number: u64,
    registered_at: Timestamp,
    ended: Vec<FinishedTask>,
}

impl BudgetOutline {
    const fn of(budget: &BudgetUsage) -> Self {
        Self { total: budget.total, settled: budget.settled, reserved: budget.reserved, overrun: budget.overrun }
    }

    const fn budget(self) -> BudgetUsage {
        BudgetUsage { total: self.total, settled: self.settled, reserved: self.reserved, overrun: self.overrun }
    }
}

impl Cluster {
    /// Returns the state without agents and tasks; `None` if the fleet was never used.
    #[must_use]
    pub fn fleet_outline(&self) -> Option<FleetOutline> {
        let fleet = &self.fleet;
        if *fleet == Fleet::default() {
            return None;
        }
        let kinds = fleet.task_stats.kinds.iter();
        Some(FleetOutline {
            settings: fleet.settings,
            registered: fleet.registered,
            quota: fleet.quota,
            quotas: fleet.quotas.iter().map(|(agent_type, agents)| (agent_type.clone(), *agents)).collect(),
            next_task: fleet.next_task,
            tokens: BudgetOutline::of(&fleet.budgets.all),
            job_tokens: fleet
                .budgets
                .jobs
                .iter()
                .map(|(job, tokens)| (job.clone(), BudgetOutline::of(tokens)))
                .collect(),
            window: fleet.budgets.window,
            window_anchor: fleet.budgets.window_anchor.as_millis(),
            settled_since: fleet.budgets.settled_since.map(Timestamp::as_millis),
            kinds: kinds.map(|((agent_type, complexity), stats)| (agent_type.clone(), *complexity, *stats)).collect(),
            reported: fleet.task_stats.reported,
            reported_tokens: fleet.task_stats.reported_tokens,
        })
    }

    /// Returns the agents as JSON, in the order of registration.
    pub fn agent_images(&self) -> impl Iterator<Item = String> {
        let mut agents: Vec<&Agent> = self.fleet.agents_by_id.values().map(|slot| &self.fleet.agents[*slot]).collect();
        agents.sort_by_key(|agent| agent.number);
        agents.into_iter().map(|agent| {
            let image = AgentImage {
                registration: Arc::clone(&agent.registration),
                number: agent.number,
                registered_at: agent.registered_at,
                ended: agent.recent_tasks.iter().copied().collect(),
            };
            text(&image)
        })
    }

    /// Returns the tasks as JSON: the ended ones in the order in which they ended, then the open ones in the order of
    /// submission.
    pub fn task_images(&self) -> impl Iterator<Item = String> {
        let ended = self.fleet.ended.iter();
        let open = self.fleet.tasks_by_number.iter(LiveFilter::LIVE).map(|(_, slot)| slot);
        ended.copied().chain(open).map(|slot| text(&self.fleet.tasks[slot].task))
    }

    /// Replaces the fleet with an empty one that has the outline's settings and figures.
    pub(in super::super) fn restore_fleet(&mut self, outline: FleetOutline) {
        let mut fleet = Fleet {
            settings: outline.settings,
            registered: outline.registered,
            quota: outline.quota,
            quotas: outline.quotas.into_iter().collect(),
            next_task: outline.next_task,
            queue: queue::Queue::new(outline.settings.priority_aging_ms),
            ..Fleet::default()
        };
        fleet.budgets.all = outline.tokens.budget();
        fleet.budgets.jobs = outline.job_tokens.into_iter().map(|(job, tokens)| (job, tokens.budget())).collect();
        fleet.budgets.window = outline.window;
        fleet.budgets.window_anchor = Timestamp::from_millis(outline.window_anchor);
        fleet.budgets.settled_since = outline.settled_since.map(Timestamp::from_millis);
        let kinds = outline.kinds.into_iter();
        fleet.task_stats.kinds =
            kinds.map(|(agent_type, complexity, stats)| ((agent_type, complexity), stats)).collect();
        fleet.task_stats.reported = outline.reported;
        fleet.task_stats.reported_tokens = outline.reported_tokens;
        self.fleet = fleet;
    }

    /// Restores an agent. Agents must follow the allocations, in the order of [`Cluster::agent_images`].
    pub(in super::super) fn restore_agent(&mut self, image: &str) -> Result<(), InvalidImage> {
        let image: AgentImage = read(image)?;
        let (id, registration) = (image.registration.request.agent.clone(), image.registration);
        if self.fleet.agents.find(&id).is_some() {
            return Err(InvalidImage::FleetTwice(format!("agent {id}")));
        }
        if let Some(size) = registration.takes {
            let node = self.nodes.get_mut(&registration.node);
            let node = node.ok_or_else(|| InvalidImage::FleetAlone(format!("agent {id}")))?;
            node.leased += super::super::units::Resources::of_workers(1, size);
        }
        let last_heartbeat_at = image.registered_at;
        let agent = Agent {
            registration,
            number: image.number,
            registered_at: image.registered_at,
            tasks: BTreeSet::new(),
            recent_tasks: VecDeque::from(image.ended),
        };
        self.fleet.insert_agent(agent, last_heartbeat_at);
        Ok(())
    }

    /// Restores a task. Tasks must follow the agents, in the order of [`Cluster::task_images`].
    pub(in super::super) fn restore_task(&mut self, image: &str) -> Result<(), InvalidImage> {
        let mut task: Task = read(image)?;
        // Shares the texts of ids: otherwise each attempt would have its own copy, although one agent may have made
        // them all.
        let mut known: BTreeSet<AgentId> = BTreeSet::new();
        for attempt in &mut task.attempts {
            let own = self.fleet.agents.find(&attempt.agent).map(|slot| &self.fleet.agents[slot].request().agent);
            match own.or_else(|| known.get(&attempt.agent)).cloned() {
                Some(shared) => attempt.agent = shared,
                None => drop(known.insert(attempt.agent.clone())),
            }
        }
        let id = &task.spec.task;
        let number_taken = self.fleet.tasks_by_number.get(task.spec.number).is_some();
        if number_taken || self.fleet.tasks.find(id).is_some() {
            return Err(InvalidImage::FleetTwice(format!("task {id}")));
        }
        if task.lease().is_some_and(|lease| self.fleet.agents.find(&lease.agent).is_none()) {
            return Err(InvalidImage::FleetAlone(format!("task {id}")));
        }
        if task.is_open() {
            self.fleet.insert_open(task);
        } else {
            self.fleet.insert_ended(task);
        }
        Ok(())
    }
}

fn text(image: &impl Serialize) -> String {
    // Agents and tasks consist of types that can always be serialized.
    serde_json::to_string(image).unwrap_or_default()
}

fn read<'a, T: Deserialize<'a>>(image: &'a str) -> Result<T, InvalidImage> {
    serde_json::from_str(image).map_err(|error| InvalidImage::FleetUnreadable(error.to_string()))
}
