//! Applies events to the state of the fleet.

use super::super::cluster::Cluster;
use super::super::event::{Event, Limits};
use super::super::ids::{AgentId, JobId, TaskId};
use super::super::sequence_index::LiveFilter;
use super::super::table::Slot;
use super::super::time::Timestamp;
use super::super::units::Resources;
use super::Fleet;
use super::agent::{Agent, AgentEndReason, FinishedTask, Registration};
use super::queue::LaneKey;
use super::settings::FleetSettings;
use super::task::{
    Attempt, AttemptEnd, AttemptOutcome, Task, TaskEnd, TaskLease, TaskPhase, TaskRecord, TaskSpec, TaskState,
};
use super::task_stats::TaskStats;
use super::view::BudgetUsage;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, OnceLock};

impl Cluster {
    /// Applies one of the fleet's events.
    ///
    /// # Panics
    /// If the event does not follow from the state, or is not an event of the fleet.
    pub(in super::super) fn apply_to_fleet(&mut self, at: Timestamp, event: &Event) {
        match event {
            Event::AgentRegistered { registration } => {
                // Not an invariant for `check`, since a quota may be set below the number of registered agents.
                let reached = self.fleet.quota_reached(&registration.request.agent_type);
                assert_eq!(reached, None, "agent {} is beyond a quota", registration.request.agent);
                if let Some(size) = registration.takes {
                    let node = self.nodes.get_mut(&registration.node);
                    let node = node.unwrap_or_else(|| panic!("there is no node {}", registration.node));
                    node.leased += Resources::of_workers(1, size);
                }
                self.fleet.register_agent(at, registration);
            }
            Event::AgentLeft { agent, reason } => {
                self.fleet.lost_count.0 += u64::from(*reason == AgentEndReason::Lost);
                let registration = self.fleet.remove_agent(agent);
                if let (Some(size), Some(node)) = (registration.takes, self.nodes.get_mut(&registration.node)) {
                    node.leased -= Resources::of_workers(1, size);
                }
            }
            Event::TaskLeased { task, agent, fencing_token, deadline } => {
                assert!(*fencing_token >= self.next_token, "fencing token {fencing_token} was given before");
                self.next_token = fencing_token.next();
                let lease = TaskLease {
                    agent: agent.clone(),
                    fencing_token: *fencing_token,
                    leased_at: at,
                    deadline: *deadline,
                };
                self.fleet.lease_task(at, task, lease);
            }
            Event::FleetSettingsSet { settings } => self.fleet.set_settings(at, *settings, self.limits),
            Event::TaskSubmitted { task } => self.fleet.submit_task(at, task),
            Event::TaskReturned { task } => self.fleet.return_task(at, task),
            Event::AttemptEnded { task, end } => self.fleet.end_attempt(at, task, end, self.limits),
            Event::TaskCancelled { task } => self.fleet.cancel_task(at, task, self.limits),
            Event::TaskUpdated { task, priority, deadline, urgent_at } => {
                self.fleet.update_task(task, |task| {
                    task.priority = *priority;
                    task.deadline = *deadline;
                    task.urgent_at = *urgent_at;
                });
            }
            Event::TokenBudgetSet { job, tokens, window_ms } => match job {
                Some(job) => self.fleet.set_job_budget(job, *tokens),
                None => {
                    let budgets = &mut self.fleet.budgets;
                    budgets.all.total = tokens.unwrap_or(budgets.all.total);
                    if let Some(window) = window_ms.filter(|window| *window != budgets.window) {
                        (budgets.window, budgets.window_anchor) = (window, at);
                    }
                }
            },
            Event::TokenBudgetRefilled { .. } => self.fleet.budgets.refill(),
            Event::AgentQuotaSet { agent_type: None, agents } => self.fleet.quota = *agents,
            Event::AgentQuotaSet { agent_type: Some(agent_type), agents } => {
                let quotas = &mut self.fleet.quotas;
                match agents {
                    Some(agents) => drop(quotas.insert(agent_type.clone(), *agents)),
                    None => drop(quotas.remove(agent_type)),
                }
            }
            event => panic!("{event:?} is not an event of the fleet"),
        }
        self.fleet.conservation_plan.0 = OnceLock::new();
    }
}

impl Fleet {
    fn register_agent(&mut self, at: Timestamp, registration: &Arc<Registration>) {
        let agent = Agent {
            registration: Arc::clone(registration),
            number: self.registered,
            registered_at: at,
            tasks: BTreeSet::new(),
            recent_tasks: VecDeque::new(),
        };
        self.registered += 1;
        self.insert_agent(agent, at);
    }

    /// Adds an agent whose heartbeats are tracked from `last_heartbeat_at` on.
    pub(super) fn insert_agent(&mut self, agent: Agent, last_heartbeat_at: Timestamp) {
        let request = agent.request();
        let (id, allocation) = (request.agent.clone(), request.allocation);
        *self.types.entry(request.agent_type.clone()).or_default() += 1;
        let slot = self.agents.insert(agent);
        self.agents_by_id.insert(id, slot);
        if let Some(allocation) = allocation {
            self.by_allocation.entry(allocation).or_default().insert(slot);
        }
        self.track(slot, last_heartbeat_at);
    }

    fn remove_agent(&mut self, agent: &AgentId) -> Arc<Registration> {
        let slot = self.agent_slot(agent);
        assert!(self.agents[slot].tasks.is_empty(), "agent {agent} holds tasks");
        self.untrack(slot);
        self.agents_by_id.remove(agent);
        let registration = Arc::clone(&self.agents[slot].registration);
        self.agents.remove(slot);
        let request = &registration.request;
        if let Some(count) = self.types.get_mut(&request.agent_type) {
            *count -= 1;
            if *count == 0 {
                self.types.remove(&request.agent_type);
            }
        }
        if let Some(allocation) = request.allocation
            && let Some(agents) = self.by_allocation.get_mut(&allocation)
        {
            agents.remove(&slot);
            if agents.is_empty() {
                self.by_allocation.remove(&allocation);
            }
        }
        registration
    }

    fn set_settings(&mut self, at: Timestamp, settings: FleetSettings, limits: Limits) {
        self.settings = settings;
        let Self { queue, tasks, .. } = self;
        queue.set_aging(settings.priority_aging_ms, |slot| (&tasks[slot].task, tasks[slot].lane));
        let agents: Vec<Slot> = self.agents_by_id.values().copied().collect();
        for slot in agents {
            self.update_weight(slot, at);
        }
        self.trim(limits);
    }

    fn submit_task(&mut self, at: Timestamp, spec: &Arc<TaskSpec>) {
        assert!(spec.number >= self.next_task, "task {} has a number given before", spec.task);
        // Not an invariant for `check` either, since the limit may be set below the number of open tasks.
        let tasks_max = self.settings.tasks_max;
        assert!(self.open_count() < tasks_max, "task {} is one more than {tasks_max}", spec.task);
        self.next_task = spec.number.next();
        let task = Task {
            priority: spec.request.priority,
            deadline: spec.request.deadline,
            urgent_at: spec.urgent_at,
            submitted_at: at,
            phase: TaskPhase::Queued,
            attempts: Vec::new(),
            spec: Arc::clone(spec),
        };
        self.insert_open(task);
    }

    /// Adds an open task: to the queue, or to the agent that holds it.
    pub(super) fn insert_open(&mut self, task: Task) {
        let lane = self.queue.retain_lane(&self.lane_key(&task.spec));
        self.open_bytes += task.bytes();
        let number = task.spec.number;
        let slot = self.tasks.insert(TaskRecord { task, lane });
        self.tasks_by_number.insert(number, slot);
        let task = &self.tasks[slot].task;
        if let Some(lease) = task.lease() {
            let (agent, key) = (lease.agent.clone(), (lease.deadline, lease.fencing_token));
            self.queue.add_running(slot, task);
            self.leases.insert(key, slot);
            let agent = self.agent_slot(&agent);
            self.agents[agent].tasks.insert(slot);
            self.update_weight(agent, self.heartbeat_history(agent).last_heartbeat_at);
        } else {
            self.queue.insert(slot, lane, task);
        }
    }

    pub(super) fn lane_key(&self, spec: &TaskSpec) -> LaneKey {
        let job = self.budgets.budgeted_job(spec.request.job.as_ref()).cloned();
        LaneKey { selector: spec.request.selector.clone(), job }
    }

    fn lease_task(&mut self, at: Timestamp, task: &TaskId, lease: TaskLease) {
        let slot = self.task_slot(task);
        let record = &self.tasks[slot];
        assert_eq!(record.task.phase, TaskPhase::Queued, "task {task} does not wait");
        self.queue.remove(slot, record.lane, &record.task);
        self.queue.add_running(slot, &record.task);
        let request = &record.task.spec.request;
        self.budgets.reserve(request.job.as_ref(), record.task.spec.estimated_tokens);
        self.leases.insert((lease.deadline, lease.fencing_token), slot);
        let agent = self.agent_slot(&lease.agent);
        // Shares one text of the id among the agent, its leases and its attempts.
        let lease = TaskLease { agent: self.agents[agent].request().agent.clone(), ..lease };
        assert!(self.agents[agent].free_slots() > 0, "agent {} holds as many tasks as it may", lease.agent);
        self.agents[agent].tasks.insert(slot);
        self.update_weight(agent, at);
        self.tasks[slot].task.phase = TaskPhase::Running(Box::new(lease));
    }

    /// Ends the lease on a running task. Its phase is `Queued` afterwards, but it is not in the queue yet.
    fn end_lease(&mut self, at: Timestamp, slot: Slot) -> TaskLease {
        let record = &mut self.tasks[slot];
        let phase = std::mem::replace(&mut record.task.phase, TaskPhase::Queued);
        let TaskPhase::Running(lease) = phase else { panic!("task {} is not running", record.task.spec.task) };
        self.queue.remove_running(&record.task);
        self.leases.remove(&(lease.deadline, lease.fencing_token));
        let agent = self.agent_slot(&lease.agent);
        self.agents[agent].tasks.remove(&slot);
        self.update_weight(agent, at);
        *lease
    }

    fn return_task(&mut self, at: Timestamp, task: &TaskId) {
        let slot = self.task_slot(task);
        self.end_lease(at, slot);
        let TaskRecord { task, lane } = &self.tasks[slot];
        self.budgets.release(task.spec.request.job.as_ref(), task.spec.estimated_tokens);
        self.queue.insert(slot, *lane, task);
    }

    fn end_attempt(&mut self, at: Timestamp, task: &TaskId, end: &AttemptEnd, limits: Limits) {
        let slot = self.task_slot(task);
        let lease = self.end_lease(at, slot);
        assert_eq!(lease.fencing_token, end.fencing_token, "task {task} is held under another token");
        let spec = Arc::clone(&self.tasks[slot].task.spec);
        let request = &spec.request;
        self.budgets.settle(at, request.job.as_ref(), spec.estimated_tokens, end.tokens_used);
        self.update_stats(&spec, end);

        let is_of_agent = matches!(
            end.outcome,
            AttemptOutcome::Success | AttemptOutcome::Failure | AttemptOutcome::Timeout | AttemptOutcome::LeaseExpired
        );
        if is_of_agent {
            let agent = self.agent_slot(&lease.agent);
            let is_success = end.outcome == AttemptOutcome::Success;
            self.agents[agent].record_finished(FinishedTask { at, is_success, duration: end.duration_ms });
            self.update_weight(agent, at);
        }

        let record = &mut self.tasks[slot];
        record.task.attempts.push(Attempt {
            fencing_token: lease.fencing_token,
            agent: lease.agent,
            started_at: lease.leased_at,
            ended_at: at,
            outcome: end.outcome,
            tokens_used: end.tokens_used,
            duration_ms: end.duration_ms,
            error: end.error.clone(),
        });
        self.open_bytes += record.task.attempts.last().map_or(0, Attempt::bytes);
        if end.then == TaskState::Queued {
            let TaskRecord { task, lane } = &self.tasks[slot];
            self.queue.insert(slot, *lane, task);
        } else {
            self.end_task(at, slot, end.then, end.output.clone(), limits);
        }
    }

    fn update_stats(&mut self, spec: &TaskSpec, end: &AttemptEnd) {
        let is_reported =
            matches!(end.outcome, AttemptOutcome::Success | AttemptOutcome::Failure | AttemptOutcome::Timeout);
        let expected = &spec.request.tokens;
        let counted_tokens =
            (!end.is_estimated).then(|| TaskStats::counted_tokens(expected, spec.estimated_tokens, end.tokens_used));
        if is_reported {
            self.task_stats.record_report(end.tokens_used);
        }
        if end.outcome == AttemptOutcome::Success {
            let (agent_type, complexity) = (spec.request.selector.agent_type.as_ref(), spec.request.tokens.complexity);
            self.task_stats.record_success(agent_type, complexity, counted_tokens, end.duration_ms);
        }
    }

    fn cancel_task(&mut self, at: Timestamp, task: &TaskId, limits: Limits) {
        let slot = self.task_slot(task);
        let TaskRecord { task, lane } = &self.tasks[slot];
        assert_eq!(task.phase, TaskPhase::Queued, "task {} does not wait", task.spec.task);
        self.queue.remove(slot, *lane, task);
        self.end_task(at, slot, TaskState::Cancelled, None, limits);
    }

    /// Moves a task that is neither in the queue nor running to the ended ones.
    fn end_task(
        &mut self,
        at: Timestamp,
        slot: Slot,
        state: TaskState,
        output: Option<super::task::JsonText>,
        limits: Limits,
    ) {
        let TaskRecord { task, lane } = &mut self.tasks[slot];
        self.open_bytes -= task.bytes();
        task.phase = TaskPhase::Ended(Box::new(TaskEnd { state, at, output }));
        self.queue.release_lane(*lane);
        self.record_end(slot);
        self.trim(limits);
    }

    /// Adds a task that has ended.
    pub(super) fn insert_ended(&mut self, task: Task) {
        let number = task.spec.number;
        let slot = self.tasks.insert(TaskRecord { task, lane: Slot::FIRST });
        self.tasks_by_number.insert(number, slot);
        self.record_end(slot);
    }

    fn record_end(&mut self, slot: Slot) {
        let record = &mut self.tasks[slot];
        // States must compare as equal, and the lane of an ended task is unused.
        record.lane = Slot::FIRST;
        self.ended_bytes += record.task.bytes();
        self.ended_counts[ended_index(&record.task)] += 1;
        self.tasks_by_number.end(record.task.spec.number);
        self.ended.push_back(slot);
    }

    /// Removes the records of the oldest ended tasks, until their number and bytes are within the limits.
    pub(in super::super) fn trim(&mut self, limits: Limits) {
        while self.ended.len() as u64 > tasks_kept_max(limits) || self.ended_bytes > self.settings.ended_task_bytes_max
        {
            self.forget_oldest();
        }
    }

    /// Removes the records of the tasks that ended before a moment.
    pub(in super::super) fn trim_to_age(&mut self, ended_before: Timestamp) {
        while self.oldest_end().is_some_and(|at| at < ended_before) {
            self.forget_oldest();
        }
    }

    /// Returns when the oldest task on record ended.
    pub(in super::super) fn oldest_end(&self) -> Option<Timestamp> {
        let slot = self.ended.front()?;
        self.tasks[*slot].task.end().map(|end| end.at)
    }

    fn forget_oldest(&mut self) {
        let Some(slot) = self.ended.pop_front() else { return };
        let Some(TaskRecord { task, .. }) = self.tasks.remove(slot) else { return };
        self.ended_bytes -= task.bytes();
        self.ended_counts[ended_index(&task)] -= 1;
        self.tasks_by_number.forget(task.spec.number);
    }

    /// Changes an open task, and re-inserts it into the queue if it waits.
    fn update_task(&mut self, task: &TaskId, change: impl FnOnce(&mut Task)) {
        let slot = self.task_slot(task);
        let TaskRecord { task, lane } = &mut self.tasks[slot];
        assert!(task.is_open(), "task {} is over", task.spec.task);
        let waits = task.phase == TaskPhase::Queued;
        if waits {
            self.queue.remove(slot, *lane, task);
        }
        change(task);
        if waits {
            self.queue.insert(slot, *lane, task);
        }
    }

    /// Sets or removes a job's own budget. The job's open tasks move to other lanes.
    fn set_job_budget(&mut self, job: &JobId, tokens: Option<u64>) {
        if let (Some(budget), Some(tokens)) = (self.budgets.jobs.get_mut(job), tokens) {
            budget.total = tokens;
            return;
        }
        let is_of_job = |slot: &Slot| self.tasks[*slot].task.spec.request.job.as_ref() == Some(job);
        let slots: Vec<Slot> =
            self.tasks_by_number.iter(LiveFilter::LIVE).map(|(_, slot)| slot).filter(is_of_job).collect();
        let mut reserved = 0;
        for slot in &slots {
            let TaskRecord { task, lane } = &self.tasks[*slot];
            match task.phase {
                TaskPhase::Queued => self.queue.remove(*slot, *lane, task),
                _ => reserved += task.spec.estimated_tokens,
            }
            self.queue.release_lane(*lane);
        }
        match tokens {
            Some(total) => {
                let budget = BudgetUsage { total, reserved, ..BudgetUsage::default() };
                self.budgets.jobs.insert(job.clone(), budget);
            }
            None => drop(self.budgets.jobs.remove(job)),
        }
        for slot in slots {
            let key = self.lane_key(&self.tasks[slot].task.spec);
            let lane = self.queue.retain_lane(&key);
            let record = &mut self.tasks[slot];
            record.lane = lane;
            if record.task.phase == TaskPhase::Queued {
                self.queue.insert(slot, lane, &record.task);
            }
        }
    }

    /// Returns the slot of an agent.
    ///
    /// # Panics
    /// If there is no such agent.
    pub(super) fn agent_slot(&self, agent: &AgentId) -> Slot {
        self.agents.find(agent).unwrap_or_else(|| panic!("agent {agent} is not registered"))
    }

    /// Returns the slot of a task.
    ///
    /// # Panics
    /// If there is no such task.
    pub(super) fn task_slot(&self, task: &TaskId) -> Slot {
        self.tasks.find(task).unwrap_or_else(|| panic!("task {task} does not exist"))
    }

    /// Updates what depends on the time to `now`: ranks in the queue, and the weights of agents.
    pub(in super::super) fn observe(&mut self, now: Timestamp) {
        let Self { queue, tasks, .. } = self;
        if queue.observe(now, |slot| (&tasks[slot].task, tasks[slot].lane)) {
            self.conservation_plan.0 = OnceLock::new();
        }
        self.observe_heartbeats(now);
    }
}

/// The maximum number of ended tasks on record: at least 1, so that the last end can be read.
pub(super) fn tasks_kept_max(limits: Limits) -> u64 {
    limits.history_records_max.max(1)
}

/// Returns the index of an ended task's state in `ended_counts`.
pub(super) fn ended_index(task: &Task) -> usize {
    match task.end().map(|end| end.state) {
        Some(TaskState::Failed) => 1,
        Some(TaskState::Cancelled) => 2,
        _ => 0,
    }
}
