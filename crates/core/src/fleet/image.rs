//! The books of the fleet as plain data: what a snapshot holds of them.
//!
//! Agents and tasks are kept as the JSON that events are written in, since what can be read in an event can be read here.
//! When agents were heard of is not part of it.

use super::super::cluster::Cluster;
use super::super::ids::{AgentId, AgentType, JobId, TaskNumber};
use super::super::image::InvalidImage;
use super::super::sequence_index::LiveFilter;
use super::super::time::{Millis, Timestamp};
use super::agent::{Agent, Ended, Registration};
use super::estimate::Seen;
use super::settings::FleetSettings;
use super::task::{Complexity, Task};
use super::view::BudgetUsage;
use super::{Fleet, queue};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// The books of the fleet without agents and tasks.
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
    kinds: Vec<(Option<AgentType>, Complexity, Seen)>,
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
    ended: Vec<Ended>,
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
    /// The books of the fleet without agents and tasks; nothing if there never was anything in them.
    #[must_use]
    pub fn fleet_outline(&self) -> Option<FleetOutline> {
        let fleet = &self.fleet;
        if *fleet == Fleet::default() {
            return None;
        }
        let kinds = fleet.experience.kinds.iter();
        Some(FleetOutline {
            settings: fleet.settings,
            registered: fleet.registered,
            quota: fleet.quota,
            quotas: fleet.quotas.iter().map(|(agent_type, agents)| (agent_type.clone(), *agents)).collect(),
            next_task: fleet.next_task,
            tokens: BudgetOutline::of(&fleet.tokens.all),
            job_tokens: fleet
                .tokens
                .jobs
                .iter()
                .map(|(job, tokens)| (job.clone(), BudgetOutline::of(tokens)))
                .collect(),
            window: fleet.tokens.window,
            window_anchor: fleet.tokens.window_anchor.as_millis(),
            settled_since: fleet.tokens.settled_since.map(Timestamp::as_millis),
            kinds: kinds.map(|((agent_type, complexity), seen)| (agent_type.clone(), *complexity, *seen)).collect(),
            reported: fleet.experience.reported,
            reported_tokens: fleet.experience.reported_tokens,
        })
    }

    /// The agents as JSON, in the order in which they registered.
    pub fn agent_images(&self) -> impl Iterator<Item = String> {
        let mut agents: Vec<&Agent> = self.fleet.agents_by_id.values().map(|slot| &self.fleet.agents[*slot]).collect();
        agents.sort_by_key(|agent| agent.number);
        agents.into_iter().map(|agent| {
            let image = AgentImage {
                registration: Arc::clone(&agent.registration),
                number: agent.number,
                registered_at: agent.registered_at,
                ended: agent.ended.iter().copied().collect(),
            };
            text(&image)
        })
    }

    /// The tasks as JSON: those that have ended in the order in which they did, then the open ones as they came.
    pub fn task_images(&self) -> impl Iterator<Item = String> {
        let ended = self.fleet.ended.iter();
        let open = self.fleet.tasks_by_number.iter(LiveFilter::LIVE).map(|(_, slot)| slot);
        ended.copied().chain(open).map(|slot| text(&self.fleet.tasks[slot].task))
    }

    /// Begins the books of a fleet anew from its outline.
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
        fleet.tokens.all = outline.tokens.budget();
        fleet.tokens.jobs = outline.job_tokens.into_iter().map(|(job, tokens)| (job, tokens.budget())).collect();
        fleet.tokens.window = outline.window;
        fleet.tokens.window_anchor = Timestamp::from_millis(outline.window_anchor);
        fleet.tokens.settled_since = outline.settled_since.map(Timestamp::from_millis);
        let kinds = outline.kinds.into_iter();
        fleet.experience.kinds = kinds.map(|(agent_type, complexity, seen)| ((agent_type, complexity), seen)).collect();
        fleet.experience.reported = outline.reported;
        fleet.experience.reported_tokens = outline.reported_tokens;
        self.fleet = fleet;
    }

    /// Adds an agent; they must come in the order of [`Cluster::agent_images`], after the allocations.
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
        let heard_at = image.registered_at;
        let agent = Agent {
            registration,
            number: image.number,
            registered_at: image.registered_at,
            tasks: BTreeSet::new(),
            ended: VecDeque::from(image.ended),
        };
        self.fleet.insert_agent(agent, heard_at);
        Ok(())
    }

    /// Adds a task; they must come in the order of [`Cluster::task_images`], after the agents.
    pub(in super::super) fn restore_task(&mut self, image: &str) -> Result<(), InvalidImage> {
        let mut task: Task = read(image)?;
        // Otherwise each attempt would have a text of its own for an agent that may have made them all.
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
    // All that agents and tasks are made of has a text.
    serde_json::to_string(image).unwrap_or_default()
}

fn read<'a, T: Deserialize<'a>>(image: &'a str) -> Result<T, InvalidImage> {
    serde_json::from_str(image).map_err(|error| InvalidImage::FleetUnreadable(error.to_string()))
}
