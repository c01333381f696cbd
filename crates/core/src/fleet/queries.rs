//! Queries of the fleet at a moment.

use super::super::cluster::Cluster;
use super::super::ids::{AgentId, JobId, TaskId, TaskNumber};
use super::super::sequence_index::LiveFilter;
use super::super::table::Slot;
use super::super::time::{Millis, Timestamp};
use super::super::units::WorkerSize;
use super::Fleet;
use super::agent::HEALTH_WINDOW;
use super::conservation::walk_by_efficiency;
use super::health;
use super::queue::PRIORITY_COUNT;
use super::settings::FleetSettings;
use super::task::{Selector, Task, TaskPhase, TaskRecord, TaskState};
use super::view::{
    AgentFilter, AgentMetrics, AgentState, AgentUsage, AgentView, ConservationView, FleetLoad, FleetMetrics,
    FleetSummary, HeldTask, QueueUsage, TaskFilter, TaskView, TokenUsage, TypeUsage, UnservedTasks, UsageView,
    WaitingTasks,
};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

impl Cluster {
    /// Records that an agent is alive; does nothing if it is not registered. A heartbeat is not an event: it is lost
    /// with the process.
    pub fn record_heartbeat(&mut self, now: Timestamp, agent: &AgentId) {
        if let Some(slot) = self.fleet.agents.find(agent) {
            self.fleet.record_heartbeat(slot, now);
        }
    }

    /// Sets whether an agent is draining. A draining agent gets no further tasks and cannot register again. Like
    /// heartbeats, this is not durable. Returns how many tasks the agent holds, if it is registered.
    pub fn set_draining(&mut self, now: Timestamp, agent: &AgentId, is_draining: bool) -> Option<usize> {
        let draining = &mut self.fleet.heartbeats.0.draining;
        if is_draining {
            draining.insert(agent.clone());
        } else {
            draining.remove(agent);
        }
        let slot = self.fleet.agents.find(agent)?;
        self.fleet.update_weight(slot, now);
        Some(self.fleet.agents[slot].tasks.len())
    }

    /// Counts all agents as seen at `now`, because heartbeats could not be received before, as after a restart.
    pub fn presume_alive(&mut self, now: Timestamp) {
        self.fleet.presume_alive(now);
    }

    #[must_use]
    pub const fn fleet_settings(&self) -> FleetSettings {
        self.fleet.settings
    }

    /// Returns an agent at `now`.
    #[must_use]
    pub fn agent(&self, now: Timestamp, agent: &AgentId) -> Option<AgentView> {
        self.fleet.agents.find(agent).map(|slot| self.agent_view(now, slot))
    }

    /// Returns the agents that the filter admits and whose id is greater than `after`, by id.
    pub fn agents<'a>(
        &'a self,
        now: Timestamp,
        filter: &'a AgentFilter,
        after: Option<&AgentId>,
    ) -> Box<dyn Iterator<Item = AgentView> + 'a> {
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.clone()));
        let slots = self.fleet.agents_by_id.range((from, Bound::Unbounded)).map(|(_, slot)| *slot);
        let admitted = slots.filter(move |slot| self.fleet.admits_agent(now, *slot, filter));
        Box::new(admitted.map(move |slot| self.agent_view(now, slot)))
    }

    /// Returns the number of agents that the filter admits.
    #[must_use]
    pub fn count_agents(&self, now: Timestamp, filter: &AgentFilter) -> u64 {
        self.fleet.agents_by_id.values().filter(|slot| self.fleet.admits_agent(now, **slot, filter)).count() as u64
    }

    fn agent_view(&self, now: Timestamp, slot: Slot) -> AgentView {
        let fleet = &self.fleet;
        let (agent, history) = (&fleet.agents[slot], fleet.heartbeat_history(slot));
        let held = |(task, lease, _): (&Task, &super::task::TaskLease, Slot)| HeldTask {
            task: task.spec.task.clone(),
            fencing_token: lease.fencing_token,
            expires_at: self.deadline_with_grace(lease.deadline),
        };
        AgentView {
            at: now,
            registration: Arc::clone(&agent.registration),
            registered_at: agent.registered_at,
            last_heartbeat_at: history.last_heartbeat_at,
            lost_at: history.lost_at(fleet.settings.heartbeat_ms),
            state: fleet.agent_state(now, slot),
            tasks: fleet.held_tasks(slot).map(held).collect(),
            health: health::health(agent, &history, &fleet.settings, now),
        }
    }

    /// Whether any task waits, for an agent or for tokens.
    #[must_use]
    pub fn has_waiting_tasks(&self) -> bool {
        self.fleet.queue.len() > 0
    }

    /// Returns a task at `now`, open or on record.
    #[must_use]
    pub fn task(&self, now: Timestamp, task: &TaskId) -> Option<TaskView> {
        self.fleet.tasks.find(task).map(|slot| self.task_view(now, slot))
    }

    /// Returns the job of a task, if it has one.
    #[must_use]
    pub fn job_of_task(&self, task: &TaskId) -> Option<&JobId> {
        let slot = self.fleet.tasks.find(task)?;
        self.fleet.tasks[slot].task.spec.request.job.as_ref()
    }

    /// Returns the tasks that the filter admits and whose number is greater than `after`, in the order of submission.
    pub fn tasks<'a>(
        &'a self,
        now: Timestamp,
        filter: &'a TaskFilter,
        after: TaskNumber,
    ) -> Box<dyn Iterator<Item = TaskView> + 'a> {
        let slots = self.fleet.tasks_by_number.since(after.next(), LiveFilter::ALL).map(|(_, slot)| slot);
        let admitted = slots.filter(move |slot| self.fleet.admits_task(*slot, filter));
        Box::new(admitted.map(move |slot| self.task_view(now, slot)))
    }

    /// Returns the number of tasks that the filter admits. Cheap if the filter has only a state.
    #[must_use]
    pub fn count_tasks(&self, filter: &TaskFilter) -> u64 {
        let fleet = &self.fleet;
        if filter.job.is_some() || filter.agent.is_some() {
            return fleet
                .tasks_by_number
                .iter(LiveFilter::ALL)
                .filter(|(_, slot)| fleet.admits_task(*slot, filter))
                .count() as u64;
        }
        let [completed, failed, cancelled] = fleet.ended_counts;
        match filter.state {
            None => fleet.tasks.len() as u64,
            Some(TaskState::Queued) => fleet.conservation().active_tasks,
            Some(TaskState::Deferred) => fleet.conservation().deferred_tasks,
            Some(TaskState::Running) => fleet.leases.len() as u64,
            Some(TaskState::Completed) => completed,
            Some(TaskState::Failed) => failed,
            Some(TaskState::Cancelled) => cancelled,
        }
    }

    fn task_view(&self, now: Timestamp, slot: Slot) -> TaskView {
        let fleet = &self.fleet;
        let task = &fleet.tasks[slot].task;
        let waits = task.phase == TaskPhase::Queued;
        TaskView {
            at: now,
            task: task.clone(),
            state: fleet.task_state(slot),
            deferral: if waits { fleet.deferral(slot) } else { None },
            effective_priority: if waits { fleet.queue.effective_priority(task, now) } else { task.priority },
            lease_expires_at: task.lease().map(|lease| self.deadline_with_grace(lease.deadline)),
        }
    }

    /// Returns the load of the fleet at `now`. The cost is in proportion to the agents and to the lanes of waiting
    /// tasks.
    pub(crate) fn fleet_load(&self, now: Timestamp) -> FleetLoad {
        let fleet = &self.fleet;
        let conservation = fleet.conservation();
        let agents = || fleet.agents_by_id.values().map(|slot| &fleet.agents[*slot]);
        FleetLoad {
            agents: fleet.agents.len() as u64,
            agents_at_work: agents().filter(|agent| !agent.tasks.is_empty()).count() as u64,
            task_slots: agents().map(|agent| u64::from(agent.request().tasks_max)).sum(),
            running: fleet.leases.len() as u64,
            waiting: conservation.active_tasks,
            wait_mean: fleet.queue_usage(now).all.wait_mean,
            quota: fleet.quota,
            is_conserving: fleet.budgets.is_conserving(),
            deferred: conservation.deferred_tasks,
            submitted: fleet.next_task.as_u64().saturating_sub(TaskNumber::FIRST.as_u64()),
            durations: fleet.task_stats.durations(),
        }
    }

    /// Returns how many registered agents may take a task with this selector, now or later.
    #[must_use]
    pub fn count_eligible_agents(&self, selector: &Selector) -> u64 {
        self.fleet.heartbeats.0.load_balancer.eligible(selector).map(|group| group.agents.len() as u64).sum()
    }

    /// Returns the usage of quotas, tokens and the queue at `now`, for workers of this size.
    #[must_use]
    pub fn usage(&self, now: Timestamp, worker_size: WorkerSize) -> UsageView {
        let fleet = &self.fleet;
        let workers = self.nodes.values().map(|node| node.capacity.workers).sum();
        // Agents take their workers on the same node as requests.
        let free = self.nodes.first_key_value().map(|(id, node)| {
            let mut free = node.capacity.saturating_sub(node.leased);
            free += self.overdue_of(id, node, now).resources;
            free.worker_capacity(worker_size)
        });
        UsageView {
            at: now,
            agents: fleet.agent_usage(workers, free.unwrap_or(0)),
            tokens: fleet.token_usage(now),
            queue: fleet.queue_usage(now),
            conservation: fleet.conservation(),
        }
    }

    /// Returns the summary of the fleet at `now`, without unresponsive agents. The cost is in proportion to the waiting
    /// tasks.
    #[must_use]
    pub fn fleet_summary(&self, now: Timestamp) -> FleetSummary {
        let fleet = &self.fleet;
        let agents = fleet.agents.len() as u64;
        let of_allocations: u64 = fleet.by_allocation.values().map(|agents| agents.len() as u64).sum();
        let conservation = fleet.conservation();
        let [completed, failed, cancelled] = fleet.ended_counts;
        FleetSummary {
            agents,
            taking_workers: agents - of_allocations,
            unresponsive: None,
            queued: conservation.active_tasks,
            deferred: conservation.deferred_tasks,
            running: fleet.leases.len() as u64,
            completed,
            failed,
            cancelled,
            tokens_total: fleet.budgets.all.total,
            tokens_settled: fleet.budgets.all.settled,
            tokens_reserved: fleet.budgets.all.reserved,
            refills_at: fleet.budgets.window_end(now),
        }
    }

    /// Returns the waiting tasks by efficiency: by the weight of the effective priority per estimated token. Ties are
    /// ordered by effective priority, then by submission.
    pub fn tasks_by_efficiency(&self) -> Vec<TaskNumber> {
        let lanes = self.fleet.queue.all_lanes().map(|(_, lane)| lane);
        let mut order = Vec::new();
        walk_by_efficiency(lanes, |_, _, (_, number)| {
            order.push(number);
            true
        });
        order
    }

    /// Returns the input of the search for bottlenecks at `now`.
    #[must_use]
    pub fn fleet_metrics(&self, now: Timestamp, worker_size: WorkerSize) -> FleetMetrics {
        let agents = self.fleet.agents_by_id.iter().filter_map(|(id, slot)| {
            let agent = &self.fleet.agents[*slot];
            let recent = || agent.recent_tasks.iter().filter(|ended| ended.at.after(HEALTH_WINDOW) > now);
            let tasks = recent().count() as u64;
            let duration = recent().fold(0_u64, |sum, ended| sum.saturating_add(ended.duration.0));
            let successes = recent().filter(|ended| ended.is_success).count() as u64;
            let duration_mean = Millis(duration.checked_div(tasks)?);
            Some(AgentMetrics { agent: id.clone(), tasks, successes, duration_mean })
        });
        let (usage, unserved) = (self.usage(now, worker_size), self.fleet.unserved());
        FleetMetrics { usage, agents: agents.collect(), unserved }
    }
}

impl Fleet {
    fn agent_state(&self, now: Timestamp, slot: Slot) -> AgentState {
        let agent = &self.agents[slot];
        if self.heartbeat_history(slot).late_at(self.settings.heartbeat_ms) <= now {
            AgentState::Unresponsive
        } else if agent.tasks.is_empty() {
            AgentState::Idle
        } else if agent.free_slots() == 0 {
            AgentState::Full
        } else {
            AgentState::Busy
        }
    }

    fn admits_agent(&self, now: Timestamp, slot: Slot, filter: &AgentFilter) -> bool {
        let agent_type = &self.agents[slot].request().agent_type;
        filter.agent_type.as_ref().is_none_or(|wanted| wanted == agent_type)
            && filter.state.is_none_or(|wanted| wanted == self.agent_state(now, slot))
    }

    fn task_state(&self, slot: Slot) -> TaskState {
        match &self.tasks[slot].task.phase {
            TaskPhase::Queued if self.deferral(slot).is_some() => TaskState::Deferred,
            TaskPhase::Queued => TaskState::Queued,
            TaskPhase::Running(_) => TaskState::Running,
            TaskPhase::Ended(end) => end.state,
        }
    }

    fn admits_task(&self, slot: Slot, filter: &TaskFilter) -> bool {
        let TaskRecord { task, .. } = &self.tasks[slot];
        let is_of_job = |job| task.spec.request.job.as_ref() == Some(job);
        let is_held_by = |agent: &AgentId| task.lease().is_some_and(|lease| lease.agent == *agent);
        filter.job.as_ref().is_none_or(is_of_job)
            && filter.agent.as_ref().is_none_or(is_held_by)
            && filter.state.is_none_or(|wanted| wanted == self.task_state(slot))
    }

    fn agent_usage(&self, workers: u64, free_workers: u64) -> AgentUsage {
        let mut by_type: BTreeMap<_, (Option<u64>, u64)> = BTreeMap::new();
        for (agent_type, quota) in &self.quotas {
            by_type.entry(agent_type).or_default().0 = Some(*quota);
        }
        for (agent_type, active) in &self.types {
            by_type.entry(agent_type).or_default().1 = *active;
        }
        let usage = |(agent_type, (quota, active)): (&super::AgentType, _)| TypeUsage {
            agent_type: agent_type.clone(),
            quota,
            active,
        };
        let by_type = by_type.into_iter().map(usage).collect();
        AgentUsage { quota: self.quota, workers, active: self.agents.len() as u64, free_workers, by_type }
    }

    /// Returns the waiting tasks that no registered agent may take. The cost is in proportion to the lanes.
    fn unserved(&self) -> UnservedTasks {
        let mut by_selector: BTreeMap<&Selector, u64> = BTreeMap::new();
        for (_, lane) in self.queue.all_lanes() {
            let selector = &lane.key.selector;
            if !lane.by_rank.is_empty() && !self.heartbeats.0.load_balancer.has_eligible(selector) {
                *by_selector.entry(selector).or_default() += lane.by_rank.len() as u64;
            }
        }
        let tasks = by_selector.values().sum();
        let mut selectors: Vec<_> = by_selector.into_iter().collect();
        selectors.sort_by_key(|(selector, tasks)| (Reverse(*tasks), *selector));
        selectors.truncate(UnservedTasks::SELECTORS_MAX);
        let selectors = selectors.into_iter().map(|(selector, tasks)| (selector.clone(), tasks)).collect();
        UnservedTasks { tasks, selectors }
    }

    fn token_usage(&self, now: Timestamp) -> TokenUsage {
        TokenUsage {
            all: self.budgets.all,
            window: self.budgets.window,
            refills_at: self.budgets.window_end(now),
            mean_per_task: self.task_stats.mean_tokens(),
            jobs: self.budgets.jobs.iter().map(|(job, budget)| (job.clone(), *budget)).collect(),
        }
    }

    fn queue_usage(&self, now: Timestamp) -> QueueUsage {
        let queue = &self.queue;
        let oldest = |level: usize| {
            let slot = self.tasks_by_number.get(*queue.waiting[level].first()?)?;
            Some(self.tasks[slot].task.submitted_at)
        };
        let waiting = |tasks: u64, sum: i128, oldest: Option<Timestamp>| {
            let waited = i128::from(now.as_millis()) * i128::from(tasks) - sum;
            let mean = u128::try_from(waited).unwrap_or(0).checked_div(u128::from(tasks)).unwrap_or(0);
            let wait_max = oldest.map_or(Millis(0), |oldest| now.since(oldest));
            WaitingTasks { tasks, wait_mean: Millis(u64::try_from(mean).unwrap_or(u64::MAX)), wait_max }
        };
        let of_level =
            |level: usize| waiting(queue.waiting[level].len() as u64, queue.submitted_ms_sum[level], oldest(level));
        let first = (0..PRIORITY_COUNT).filter_map(oldest).min();
        QueueUsage {
            all: waiting(queue.len(), queue.submitted_ms_sum.iter().sum(), first),
            by_priority: std::array::from_fn(of_level),
            running: self.leases.len() as u64,
            bytes: self.open_bytes,
        }
    }

    /// Returns which waiting tasks the tokens suffice for. The cost is in proportion to the lanes, and to the tasks in
    /// the lanes for which the tokens do not suffice.
    fn conservation(&self) -> ConservationView {
        let mut view = ConservationView {
            is_on: self.conservation_plan().is_some(),
            remaining_tokens: self.budgets.all.remaining(),
            ..ConservationView::default()
        };
        for (slot, lane) in self.queue.all_lanes() {
            // If the tokens suffice for the most expensive task of each priority, they suffice for all.
            let mut dearest = lane.by_cost.iter().map(|tasks| tasks.last_key_value()).enumerate();
            if dearest.all(|(level, last)| last.is_none_or(|(cost, _)| self.has_tokens(slot, level, *cost))) {
                view.active_tasks += lane.by_rank.len() as u64;
                let tokens = u64::try_from(lane.tokens).unwrap_or(u64::MAX);
                view.estimated_tokens = view.estimated_tokens.saturating_add(tokens);
                continue;
            }
            for level in 0..PRIORITY_COUNT {
                // The tasks that fit are the first ones of each priority.
                let costs = lane.by_cost[level].keys();
                for cost in costs.take_while(|cost| self.has_tokens(slot, level, **cost)) {
                    view.active_tasks += 1;
                    view.estimated_tokens = view.estimated_tokens.saturating_add(cost.0);
                }
            }
        }
        view.deferred_tasks = self.queue.len() - view.active_tasks;
        view
    }
}
