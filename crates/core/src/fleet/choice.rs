//! Which task an agent is given, and which agent a task.

use super::super::ids::TaskNumber;
use super::super::table::Slot;
use super::super::time::Timestamp;
use super::Fleet;
use super::agent::Agent;
use super::command::{Deferral, NoAgent, NothingClaimed};
use super::conservation::Efficiency;
use super::queue::{Lane, PRIORITIES, Rank};
use super::task::{Selector, Task, TaskRecord};

impl Fleet {
    /// Why a waiting task has to wait for tokens, if it has to.
    pub(super) fn deferral(&self, slot: Slot) -> Option<Deferral> {
        let TaskRecord { task, lane } = &self.tasks[slot];
        let cost = (task.spec.estimated_tokens, task.spec.number);
        if self.has_tokens(*lane, self.queue.class(task), cost) {
            return None;
        }
        let of_job = self.queue.lanes[*lane].key.job.as_ref().and_then(|job| self.tokens.jobs.get(job));
        let is_of_job = of_job.is_some_and(|budget| budget.remaining() < cost.0);
        Some(if is_of_job { Deferral::JobTokens } else { Deferral::Tokens })
    }

    /// Whether there are tokens for a waiting task of this lane and level that costs so much.
    pub(super) fn has_tokens(&self, slot: Slot, class: usize, cost: (u64, TaskNumber)) -> bool {
        let lane = &self.queue.lanes[slot];
        let planned = self.plan().and_then(|plan| plan.admits(slot, lane, class, cost));
        planned.unwrap_or_else(|| cost.0 <= self.tokens.available(lane.key.job.as_ref()))
    }

    /// The best of the waiting tasks that an agent may take and that there are tokens for.
    pub(super) fn best_for(&self, agent: &Agent) -> Result<Slot, NothingClaimed> {
        let request = agent.request();
        let mut nothing = NothingClaimed::NoTask;
        let lanes = self.queue.lanes_for(&request.agent_type, &request.capabilities);
        let lanes = lanes.inspect(|_| nothing = NothingClaimed::NoTokens);
        let best = if self.plan().is_some() {
            let heads = lanes.filter_map(|(slot, lane)| self.most_efficient(slot, lane));
            heads.min_by_key(|(efficiency, _)| *efficiency).map(|(_, task)| task)
        } else {
            let heads = lanes.filter_map(|(_, lane)| self.most_urgent(lane));
            heads.min_by_key(|(rank, _)| *rank).map(|(_, task)| task)
        };
        best.ok_or(nothing)
    }

    fn most_efficient(&self, slot: Slot, lane: &Lane) -> Option<(Efficiency, Slot)> {
        let heads = (0..PRIORITIES).filter_map(|class| {
            let (cost, task) = lane.by_cost[class].first_key_value()?;
            // What is behind it costs no less.
            self.has_tokens(slot, class, *cost).then(|| (Efficiency::new(class, *cost), *task))
        });
        heads.min_by_key(|(efficiency, _)| *efficiency)
    }

    fn most_urgent(&self, lane: &Lane) -> Option<(Rank, Slot)> {
        let available = self.tokens.available(lane.key.job.as_ref());
        let cheapest =
            lane.by_cost.iter().filter_map(|tasks| tasks.first_key_value()).map(|((cost, _), _)| *cost).min();
        // Without this look a lane whose job has used its budget would be walked to its end.
        if cheapest? > available {
            return None;
        }
        let fits = |slot: &Slot| self.tasks[*slot].task.spec.estimated_tokens <= available;
        lane.by_rank.iter().find(|(_, slot)| fits(slot)).map(|(rank, slot)| (*rank, *slot))
    }

    /// A task that waits, and behind it the others of its batch that an agent can take with it: as many as it has room
    /// and there are tokens for.
    pub(super) fn with_its_batch(&self, agent: &Agent, first: Slot) -> Vec<Slot> {
        let mut left = self.tokens.left();
        let mut takes = |slot: Slot| {
            let spec = &self.tasks[slot].task.spec;
            left.take(spec.request.job.as_ref(), spec.estimated_tokens)
        };
        takes(first);
        let mut taken = vec![first];
        let request = agent.request();
        let admits = |slot: Slot| {
            let selector = &self.tasks[slot].task.spec.request.selector;
            selector.admits(&request.agent_type, &request.capabilities) && self.deferral(slot).is_none()
        };
        let batch = self.tasks[first].task.spec.request.batch.as_ref().and_then(|batch| self.queue.batches.get(batch));
        for slot in batch.into_iter().flat_map(|batch| batch.waiting.values().copied()) {
            if taken.len() >= agent.room() {
                break;
            }
            if slot != first && admits(slot) && takes(slot) {
                taken.push(slot);
            }
        }
        taken
    }

    /// The agent that holds another task of the same batch and can be given this one, if there is one.
    pub(super) fn holder_of_batch(&self, task: &Task) -> Option<Slot> {
        let batch = self.queue.batches.get(task.spec.request.batch.as_ref()?)?;
        let holders = batch.running.values().filter_map(|slot| {
            let lease = self.tasks[*slot].task.lease()?;
            self.agents.find(&lease.agent)
        });
        holders.into_iter().find(|slot| {
            let agent = &self.agents[*slot];
            let request = agent.request();
            let may_take = task.spec.request.selector.admits(&request.agent_type, &request.capabilities);
            may_take && self.pulses.0.balance.weight(agent) > 0
        })
    }

    /// The agent that `draw` falls on, of those that can be given a task like this: the healthier, the more often.
    pub(super) fn chosen(&self, selector: &Selector, draw: u64) -> Option<Slot> {
        self.pulses.0.balance.choose(selector, draw)
    }

    /// Why no agent can be given a task like this.
    pub(super) fn why_no_agent(&self, selector: &Selector, now: Timestamp) -> NoAgent {
        let (mut able, mut full, mut unresponsive) = (0, 0, 0);
        for (_, slot) in self.pulses.0.balance.able(selector).flat_map(|group| &group.agents) {
            able += 1;
            if self.pulse(*slot).late_at(self.settings.heartbeat_ms) <= now {
                unresponsive += 1;
            } else if self.agents[*slot].room() == 0 {
                full += 1;
            }
        }
        if able == 0 { NoAgent::Unknown } else { NoAgent::Busy { able, full, unresponsive } }
    }
}
