//! Leases of tasks in the model, and the order in which tasks are leased.

use super::Fleet;
use super::agents::Agent;
use super::budgets::deferral;
use cortex_core::command::Denied;
use cortex_core::event::Event;
use cortex_core::fleet::command::{FleetDenied, FleetOutcome, NoAgentReason, NoTaskReason};
use cortex_core::fleet::task::Task;
use cortex_core::fleet::view::AgentState;
use cortex_core::ids::{AgentId, TaskId};
use cortex_core::priority::Priority;
use cortex_core::time::{Millis, Timestamp};
use std::cmp::Reverse;

impl Fleet {
    pub(super) fn claim(&mut self, now: Timestamp, id: &AgentId) -> Result<FleetOutcome, Denied> {
        let agent = self.agent_with(id).ok_or_else(|| FleetDenied::UnknownAgent(id.clone()))?.clone();
        if self.free_slots_of(&agent) == 0 {
            return Ok(FleetOutcome::NoTask(NoTaskReason::AgentFull));
        }
        let order: Vec<&Task> = self.order(now).into_iter().filter(|task| is_eligible(&agent, task)).collect();
        let deferrals = self.deferrals();
        let best = order.iter().find(|task| deferral(task, &deferrals).is_none());
        match best.map(|task| task.spec.task.clone()) {
            Some(best) => Ok(self.lease_with_batch(now, &agent, &best)),
            None if order.is_empty() => Ok(FleetOutcome::NoTask(NoTaskReason::NoTask)),
            None => Ok(FleetOutcome::NoTask(NoTaskReason::NoTokens)),
        }
    }

    pub(super) fn assign(&mut self, now: Timestamp, id: &TaskId, decided: &[Event]) -> Result<FleetOutcome, Denied> {
        let task = self.find_task(id)?;
        self.reject_ended(task)?;
        if let Some(lease) = task.lease() {
            return Err(FleetDenied::TaskRunning { task: id.clone(), holder: lease.agent.clone() }.into());
        }
        if let Some(reason) = deferral(task, &self.deferrals()) {
            let estimated_tokens = task.spec.estimated_tokens;
            let remaining = self.remaining_for(task.spec.request.job.as_ref());
            return Err(FleetDenied::NoTokens { task: id.clone(), reason, estimated_tokens, remaining }.into());
        }
        let eligible: Vec<&Agent> = self.agents.iter().filter(|agent| is_eligible(agent, task)).collect();
        if eligible.is_empty() {
            return Err(FleetDenied::NoAgent { task: id.clone(), reason: NoAgentReason::Unknown }.into());
        }
        let count = |state| eligible.iter().filter(|agent| self.state_of(now, agent) == state).count() as u64;
        let (full, unresponsive) = (count(AgentState::Full), count(AgentState::Unresponsive));
        if full + unresponsive == eligible.len() as u64 {
            let reason = NoAgentReason::Busy { eligible: eligible.len() as u64, full, unresponsive };
            return Err(FleetDenied::NoAgent { task: id.clone(), reason }.into());
        }
        // A batch stays with the agent that holds its first task; otherwise any free agent may be picked.
        let is_free = |agent: &&Agent| matches!(self.state_of(now, agent), AgentState::Idle | AgentState::Busy);
        let free: Vec<&Agent> = eligible.into_iter().filter(is_free).collect();
        let batch = task.spec.request.batch.as_ref();
        let first = |agent: &Agent| {
            let held = self.held_by(agent.id()).into_iter();
            held.filter(|held| held.spec.request.batch.as_ref() == batch).map(|held| held.spec.number).min()
        };
        let holders = free.iter().copied().filter(|agent| batch.is_some() && first(agent).is_some());
        let admissible = holders.min_by_key(|agent| first(agent)).map_or(free.clone(), |holder| vec![holder]);
        let chosen = decided.iter().find_map(|event| match event {
            Event::TaskLeased { agent, .. } => Some(agent),
            _ => None,
        });
        let Some(agent) = admissible.iter().copied().find(|agent| Some(agent.id()) == chosen).cloned() else {
            let ids: Vec<_> = admissible.iter().map(|agent| agent.id()).collect();
            panic!("{id} goes to {chosen:?}, and may go to {ids:?}")
        };
        Ok(self.lease_with_batch(now, &agent, id))
    }

    /// Leases a task to an agent, and what else of its batch the agent can take.
    fn lease_with_batch(&mut self, now: Timestamp, agent: &Agent, first: &TaskId) -> FleetOutcome {
        let batch = self.task_with(first).and_then(|task| task.spec.request.batch.clone());
        let mut tasks = vec![first.clone()];
        let deferrals = self.deferrals();
        let others: Vec<TaskId> = self
            .by_urgency(now)
            .into_iter()
            .filter(|task| batch.is_some() && task.spec.request.batch == batch && task.spec.task != *first)
            .filter(|task| is_eligible(agent, task) && deferral(task, &deferrals).is_none())
            .map(|task| task.spec.task.clone())
            .collect();
        self.lease(now, first, agent.id());
        for other in others {
            let task = self.task_with(&other).expect("a task that waits");
            let fits = task.spec.estimated_tokens <= self.remaining_for(task.spec.request.job.as_ref());
            if fits && self.free_slots_of(agent) > 0 {
                self.lease(now, &other, agent.id());
                tasks.push(other);
            }
        }
        FleetOutcome::Leased { agent: agent.id().clone(), tasks }
    }

    /// The waiting tasks, the best first.
    fn order(&self, now: Timestamp) -> Vec<&Task> {
        if self.is_conserving() { self.tasks_by_efficiency() } else { self.by_urgency(now) }
    }

    fn by_urgency(&self, now: Timestamp) -> Vec<&Task> {
        let mut waiting = self.waiting();
        waiting.sort_by_key(|task| {
            let urgent_at = self.urgent_from(task).filter(|at| *at <= now);
            let is_calm = urgent_at.is_none();
            (Reverse(self.effective_priority(now, task)), is_calm, urgent_at, task.spec.number)
        });
        waiting
    }

    /// When a task becomes urgent: by its deadline, or after four aging periods at the highest priority.
    fn urgent_from(&self, task: &Task) -> Option<Timestamp> {
        let aging = self.settings.priority_aging_ms.0;
        let mut waited = aging.saturating_mul(4);
        let missing = Priority::ALL.iter().filter(|priority| **priority > task.priority).count();
        (0..missing).for_each(|_| waited = waited.saturating_add(aging));
        let by_waiting = (aging > 0).then(|| task.submitted_at.after(Millis(waited)));
        task.urgent_at.into_iter().chain(by_waiting).min()
    }

    /// The priority to which waiting has raised a task.
    pub(super) fn effective_priority(&self, now: Timestamp, task: &Task) -> Priority {
        let aging = self.settings.priority_aging_ms.0;
        let raised = now.since(task.submitted_at).0.checked_div(aging).unwrap_or(0);
        let level = Priority::ALL.iter().position(|priority| *priority == task.priority).expect("one of all") as u64;
        Priority::ALL[usize::try_from((level + raised.min(3)).min(3)).expect("one of four")]
    }
}

/// Whether an agent may take a task.
pub(super) fn is_eligible(agent: &Agent, task: &Task) -> bool {
    let (agent, selector) = (agent.request(), &task.spec.request.selector);
    let has = |capability| agent.capabilities.as_slice().contains(capability);
    selector.agent_type.as_ref().is_none_or(|wanted| *wanted == agent.agent_type)
        && selector.capabilities.as_slice().iter().all(has)
}
