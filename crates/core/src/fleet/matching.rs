//! Matches tasks and agents: which task an agent is leased, and which agent a task is leased to.

use super::super::ids::TaskNumber;
use super::super::table::Slot;
use super::super::time::Timestamp;
use super::Fleet;
use super::agent::Agent;
use super::command::{Deferral, NoAgentReason, NoTaskReason};
use super::conservation::Efficiency;
use super::queue::{Lane, PRIORITY_COUNT, Rank};
use super::task::{Selector, Task, TaskRecord};

impl Fleet {
    /// Why a waiting task has to wait for tokens, if it does.
    pub(super) fn deferral(&self, slot: Slot) -> Option<Deferral> {
        let TaskRecord { task, lane } = &self.tasks[slot];
        let cost = (task.spec.estimated_tokens, task.spec.number);
        if self.has_tokens(*lane, self.queue.effective_level(task), cost) {
            return None;
        }
        let of_job = self.queue.lanes[*lane].key.job.as_ref().and_then(|job| self.budgets.jobs.get(job));
        let is_of_job = of_job.is_some_and(|budget| budget.remaining() < cost.0);
        Some(if is_of_job { Deferral::JobTokens } else { Deferral::Tokens })
    }

    /// Whether there are tokens for a waiting task of this lane, effective priority and cost.
    pub(super) fn has_tokens(&self, slot: Slot, level: usize, cost: (u64, TaskNumber)) -> bool {
        let lane = &self.queue.lanes[slot];
        let planned = self.conservation_plan().and_then(|plan| plan.admits(slot, lane, level, cost));
        planned.unwrap_or_else(|| cost.0 <= self.budgets.available(lane.key.job.as_ref()))
    }

    /// Returns the best waiting task that an agent may take and that there are tokens for.
    pub(super) fn best_for(&self, agent: &Agent) -> Result<Slot, NoTaskReason> {
        let request = agent.request();
        let mut reason = NoTaskReason::NoTask;
        let lanes = self.queue.lanes_for(&request.agent_type, &request.capabilities);
        let lanes = lanes.inspect(|_| reason = NoTaskReason::NoTokens);
        let best = if self.conservation_plan().is_some() {
            let heads = lanes.filter_map(|(slot, lane)| self.most_efficient(slot, lane));
            heads.min_by_key(|(efficiency, _)| *efficiency).map(|(_, task)| task)
        } else {
            let heads = lanes.filter_map(|(_, lane)| self.most_urgent(lane));
            heads.min_by_key(|(rank, _)| *rank).map(|(_, task)| task)
        };
        best.ok_or(reason)
    }

    fn most_efficient(&self, slot: Slot, lane: &Lane) -> Option<(Efficiency, Slot)> {
        let heads = (0..PRIORITY_COUNT).filter_map(|level| {
            let (cost, task) = lane.by_cost[level].first_key_value()?;
            // The tasks after it cost at least as much.
            self.has_tokens(slot, level, *cost).then(|| (Efficiency::new(level, *cost), *task))
        });
        heads.min_by_key(|(efficiency, _)| *efficiency)
    }

    fn most_urgent(&self, lane: &Lane) -> Option<(Rank, Slot)> {
        let available = self.budgets.available(lane.key.job.as_ref());
        let cheapest =
            lane.by_cost.iter().filter_map(|tasks| tasks.first_key_value()).map(|((cost, _), _)| *cost).min();
        // Otherwise a lane whose job has used up its budget would be searched to its end.
        if cheapest? > available {
            return None;
        }
        let fits = |slot: &Slot| self.tasks[*slot].task.spec.estimated_tokens <= available;
        lane.by_rank.iter().find(|(_, slot)| fits(slot)).map(|(rank, slot)| (*rank, *slot))
    }

    /// Returns a waiting task, followed by the other tasks of its batch that the agent can take with it: as many as it
    /// has free task slots and there are tokens for.
    pub(super) fn with_batch(&self, agent: &Agent, first: Slot) -> Vec<Slot> {
        let mut remaining = self.budgets.remaining();
        let mut reserve = |slot: Slot| {
            let spec = &self.tasks[slot].task.spec;
            remaining.take(spec.request.job.as_ref(), spec.estimated_tokens)
        };
        reserve(first);
        let mut taken = vec![first];
        let request = agent.request();
        let admits = |slot: Slot| {
            let selector = &self.tasks[slot].task.spec.request.selector;
            selector.admits(&request.agent_type, &request.capabilities) && self.deferral(slot).is_none()
        };
        let batch = self.tasks[first].task.spec.request.batch.as_ref().and_then(|batch| self.queue.batches.get(batch));
        for slot in batch.into_iter().flat_map(|batch| batch.waiting.values().copied()) {
            if taken.len() >= agent.free_slots() {
                break;
            }
            if slot != first && admits(slot) && reserve(slot) {
                taken.push(slot);
            }
        }
        taken
    }

    /// Returns the agent that holds another task of the same batch and can take this one, if there is one.
    pub(super) fn batch_holder(&self, task: &Task) -> Option<Slot> {
        let batch = self.queue.batches.get(task.spec.request.batch.as_ref()?)?;
        let holders = batch.running.values().filter_map(|slot| {
            let lease = self.tasks[*slot].task.lease()?;
            self.agents.find(&lease.agent)
        });
        holders.into_iter().find(|slot| {
            let agent = &self.agents[*slot];
            let request = agent.request();
            let may_take = task.spec.request.selector.admits(&request.agent_type, &request.capabilities);
            may_take && self.heartbeats.0.load_balancer.weight(agent) > 0
        })
    }

    /// Picks one of the agents that can take such a task now, by weight: the healthier, the more often.
    pub(super) fn pick_agent(&self, selector: &Selector, random: u64) -> Option<Slot> {
        self.heartbeats.0.load_balancer.pick(selector, random)
    }

    /// Why no agent can take such a task now.
    pub(super) fn no_agent_reason(&self, selector: &Selector, now: Timestamp) -> NoAgentReason {
        let (mut eligible, mut full, mut unresponsive) = (0, 0, 0);
        for (_, slot) in self.heartbeats.0.load_balancer.eligible(selector).flat_map(|group| &group.agents) {
            eligible += 1;
            if self.heartbeat_history(*slot).late_at(self.settings.heartbeat_ms) <= now {
                unresponsive += 1;
            } else if self.agents[*slot].free_slots() == 0 {
                full += 1;
            }
        }
        if eligible == 0 { NoAgentReason::Unknown } else { NoAgentReason::Busy { eligible, full, unresponsive } }
    }
}
