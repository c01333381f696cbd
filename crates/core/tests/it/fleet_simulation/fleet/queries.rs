//! Queries of the model: each answer is computed from the lists of agents and tasks.

use super::Fleet;
use super::agents::{Agent, mean_duration};
use super::budgets::deferral;
use super::leases::is_eligible;
use cortex_core::fleet::command::Deferral;
use cortex_core::fleet::task::{Selector, Task, TaskPhase, TaskState};
use cortex_core::fleet::view::{
    AgentFilter, AgentMetrics, AgentUsage, AgentView, ConservationView, FleetMetrics, FleetSummary, HeldTask,
    QueueUsage, TaskFilter, TaskView, TokenUsage, TypeUsage, UnservedTasks, UsageView, WaitingTasks,
};
use cortex_core::ids::{AgentId, AgentType, FencingToken, TaskId, TaskNumber};
use cortex_core::priority::Priority;
use cortex_core::time::{Millis, Timestamp};
use cortex_core::units::WorkerSize;

impl Fleet {
    pub(crate) fn agent(&self, now: Timestamp, id: &AgentId) -> Option<AgentView> {
        self.agent_with(id).map(|agent| self.agent_view(now, agent))
    }

    /// The agents that the filter admits, by id.
    pub(crate) fn agents(&self, now: Timestamp, filter: &AgentFilter, after: Option<&AgentId>) -> Vec<AgentView> {
        let mut agents: Vec<&Agent> = self.agents.iter().collect();
        agents.sort_by(|a, b| a.id().cmp(b.id()));
        agents
            .into_iter()
            .filter(|agent| after.is_none_or(|after| agent.id() > after))
            .filter(|agent| filter.state.is_none_or(|state| state == self.state_of(now, agent)))
            .filter(|agent| filter.agent_type.as_ref().is_none_or(|wanted| *wanted == agent.request().agent_type))
            .map(|agent| self.agent_view(now, agent))
            .collect()
    }

    pub(crate) fn task(&self, now: Timestamp, id: &TaskId) -> Option<TaskView> {
        let deferrals = self.deferrals();
        self.task_with(id).map(|task| self.task_view(now, task, &deferrals))
    }

    /// The tasks that the filter admits, in the order of submission.
    pub(crate) fn tasks(&self, now: Timestamp, filter: &TaskFilter, after: TaskNumber) -> Vec<TaskView> {
        let deferrals = self.deferrals();
        let holder = |task: &Task| task.lease().map(|lease| lease.agent.clone());
        self.tasks
            .iter()
            .map(|entry| &entry.task)
            .filter(|task| task.spec.number > after)
            .filter(|task| filter.job.is_none() || task.spec.request.job == filter.job)
            .filter(|task| filter.agent.is_none() || holder(task) == filter.agent)
            .map(|task| self.task_view(now, task, &deferrals))
            .filter(|view| filter.state.is_none_or(|state| state == view.state))
            .collect()
    }

    pub(crate) fn usage(&self, now: Timestamp, size: WorkerSize) -> UsageView {
        UsageView {
            at: now,
            agents: self.agent_usage(now, size),
            tokens: self.token_usage(now),
            queue: self.queue_usage(now),
            conservation: self.conservation(),
        }
    }

    pub(crate) fn figures(&self, now: Timestamp, size: WorkerSize) -> FleetMetrics {
        let mut agents: Vec<AgentMetrics> = Vec::new();
        for agent in &self.agents {
            let recent = agent.recent(now);
            if !recent.is_empty() {
                agents.push(AgentMetrics {
                    agent: agent.id().clone(),
                    tasks: recent.len() as u64,
                    successes: recent.iter().filter(|ended| ended.is_success).count() as u64,
                    duration_mean: mean_duration(&recent),
                });
            }
        }
        agents.sort_by(|a, b| a.agent.cmp(&b.agent));
        FleetMetrics { usage: self.usage(now, size), agents, unserved: self.unserved() }
    }

    pub(crate) fn summary(&self, now: Timestamp) -> FleetSummary {
        let tasks = self.tasks(now, &TaskFilter::default(), TaskNumber::new(0));
        let count = |state| tasks.iter().filter(|task| task.state == state).count() as u64;
        let takes_a_worker = |agent: &&Agent| agent.request().allocation.is_none();
        let tokens = self.usage_of(None, &self.budget);
        FleetSummary {
            agents: self.agents.len() as u64,
            taking_workers: self.agents.iter().filter(takes_a_worker).count() as u64,
            unresponsive: None,
            queued: count(TaskState::Queued),
            deferred: count(TaskState::Deferred),
            running: count(TaskState::Running),
            completed: count(TaskState::Completed),
            failed: count(TaskState::Failed),
            cancelled: count(TaskState::Cancelled),
            tokens_total: tokens.total,
            tokens_settled: tokens.settled,
            tokens_reserved: tokens.reserved,
            refills_at: self.refills_at(now),
        }
    }

    pub(crate) fn agent_ids(&self) -> Vec<AgentId> {
        self.agents.iter().map(|agent| agent.id().clone()).collect()
    }

    /// The ids of the tasks that are open, or of those that have ended.
    pub(crate) fn task_ids(&self, open: bool) -> Vec<TaskId> {
        let tasks = self.tasks.iter().map(|entry| &entry.task).filter(|task| task.is_open() == open);
        tasks.map(|task| task.spec.task.clone()).collect()
    }

    /// The tasks that are held, with their holders and tokens.
    pub(crate) fn held(&self) -> Vec<(TaskId, AgentId, FencingToken)> {
        let held = self.running().into_iter().filter_map(|task| {
            let lease = task.lease()?;
            Some((task.spec.task.clone(), lease.agent.clone(), lease.fencing_token))
        });
        held.collect()
    }

    /// The attempts on record, with their tasks, agents and tokens.
    pub(crate) fn attempts(&self) -> Vec<(TaskId, AgentId, FencingToken)> {
        let tasks = self.tasks.iter().map(|entry| &entry.task);
        let attempts = tasks.flat_map(|task| task.attempts.iter().map(move |attempt| (task, attempt)));
        attempts.map(|(task, attempt)| (task.spec.task.clone(), attempt.agent.clone(), attempt.fencing_token)).collect()
    }

    /// Whether the estimate of any open task was learned from samples.
    pub(crate) fn has_learned(&self) -> bool {
        let requests = self.open().into_iter().map(|task| &task.spec.request);
        requests.filter(|request| request.tokens.given.is_none()).any(|request| self.has_samples(request))
    }

    /// Whether some agent belongs to an allocation.
    pub(crate) fn has_agent_of_allocation(&self) -> bool {
        self.agents.iter().any(|agent| agent.request().allocation.is_some())
    }

    fn agent_view(&self, now: Timestamp, agent: &Agent) -> AgentView {
        let held = self.held_by(agent.id()).into_iter().filter_map(|task| {
            let lease = task.lease()?;
            let expires_at = self.ledger.deadline_with_grace(lease.deadline);
            Some(HeldTask { task: task.spec.task.clone(), fencing_token: lease.fencing_token, expires_at })
        });
        AgentView {
            at: now,
            registration: agent.registration.clone(),
            registered_at: agent.registered_at,
            last_heartbeat_at: agent.last_heartbeat_at(),
            lost_at: self.lost_at(agent),
            state: self.state_of(now, agent),
            tasks: held.collect(),
            health: self.health_of(now, agent),
        }
    }

    fn task_view(&self, now: Timestamp, task: &Task, deferrals: &[(TaskNumber, Deferral)]) -> TaskView {
        let deferral = deferral(task, deferrals);
        let state = match &task.phase {
            TaskPhase::Ended(end) => end.state,
            TaskPhase::Running(_) => TaskState::Running,
            TaskPhase::Queued if deferral.is_some() => TaskState::Deferred,
            TaskPhase::Queued => TaskState::Queued,
        };
        let waits = task.phase == TaskPhase::Queued;
        TaskView {
            at: now,
            task: task.clone(),
            state,
            deferral,
            effective_priority: if waits { self.effective_priority(now, task) } else { task.priority },
            lease_expires_at: task.lease().map(|lease| self.ledger.deadline_with_grace(lease.deadline)),
        }
    }

    fn agent_usage(&self, now: Timestamp, size: WorkerSize) -> AgentUsage {
        let with_quota = self.type_quotas.iter().map(|(agent_type, _)| agent_type);
        let mut types: Vec<&AgentType> =
            with_quota.chain(self.agents.iter().map(|agent| &agent.request().agent_type)).collect();
        types.sort();
        types.dedup();
        let usage = |agent_type: &AgentType| TypeUsage {
            agent_type: agent_type.clone(),
            quota: self.quota_of(agent_type),
            active: self.agents.iter().filter(|agent| agent.request().agent_type == *agent_type).count() as u64,
        };
        AgentUsage {
            quota: self.quota,
            workers: self.ledger.workers(),
            active: self.agents.len() as u64,
            free_workers: self.ledger.worker_capacity(now, size),
            by_type: types.into_iter().map(usage).collect(),
        }
    }

    fn unserved(&self) -> UnservedTasks {
        let waiting = self.waiting();
        let waiting: Vec<&Selector> = waiting
            .iter()
            .filter(|task| !self.agents.iter().any(|agent| is_eligible(agent, task)))
            .map(|task| &task.spec.request.selector)
            .collect();
        let mut selectors: Vec<(Selector, u64)> = Vec::new();
        for selector in &waiting {
            if !selectors.iter().any(|(known, _)| known == *selector) {
                let tasks = waiting.iter().filter(|other| *other == selector).count() as u64;
                selectors.push(((*selector).clone(), tasks));
            }
        }
        selectors.sort();
        selectors.sort_by(|(_, a), (_, b)| b.cmp(a));
        selectors.truncate(UnservedTasks::SELECTORS_MAX);
        UnservedTasks { tasks: waiting.len() as u64, selectors }
    }

    fn token_usage(&self, now: Timestamp) -> TokenUsage {
        let mut jobs: Vec<_> = self
            .job_budgets
            .iter()
            .map(|known| (known.job.clone(), self.usage_of(Some(&known.job), &known.budget)))
            .collect();
        jobs.sort_by(|(a, _), (b, _)| a.cmp(b));
        let sum: u128 = self.reported_tokens.iter().map(|tokens| u128::from(*tokens)).sum();
        let mean = sum.checked_div(self.reported_tokens.len() as u128);
        TokenUsage {
            all: self.usage_of(None, &self.budget),
            window: self.window,
            refills_at: self.refills_at(now),
            mean_per_task: mean.map(|mean| u64::try_from(mean).expect("no more than the largest")),
            jobs,
        }
    }

    fn queue_usage(&self, now: Timestamp) -> QueueUsage {
        let waiting = self.waiting();
        let waits = |priority: Option<Priority>| {
            let counted = waiting.iter().filter(|task| priority.is_none_or(|priority| priority == task.priority));
            let waits: Vec<u64> = counted.map(|task| now.since(task.submitted_at).0).collect();
            let tasks = waits.len() as u64;
            WaitingTasks {
                tasks,
                wait_mean: Millis(waits.iter().sum::<u64>().checked_div(tasks).unwrap_or(0)),
                wait_max: Millis(waits.iter().copied().max().unwrap_or(0)),
            }
        };
        QueueUsage {
            all: waits(None),
            by_priority: Priority::ALL.map(|priority| waits(Some(priority))),
            running: self.running().len() as u64,
            bytes: self.bytes_held(),
        }
    }

    fn conservation(&self) -> ConservationView {
        let deferrals = self.deferrals();
        let waiting = self.waiting();
        let active: Vec<_> = waiting.iter().filter(|task| deferral(task, &deferrals).is_none()).collect();
        ConservationView {
            is_on: self.is_conserving(),
            active_tasks: active.len() as u64,
            deferred_tasks: deferrals.len() as u64,
            estimated_tokens: active.iter().map(|task| task.spec.estimated_tokens).sum(),
            remaining_tokens: self.usage_of(None, &self.budget).remaining(),
        }
    }
}
