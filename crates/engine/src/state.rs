//! The state as a query reads it: the cluster, and the refusals and requests that the engine remembers beside it.

use super::Engine;
use super::refusals::{RecordPosition, Refusal, Refusals};
use cortex_core::Cluster;
use cortex_core::fleet::view::{
    AgentFilter, AgentState, AgentView, FleetMetrics, FleetSummary, TaskFilter, TaskView, UsageView,
};
use cortex_core::ids::{AgentId, AllocationId, FencingToken, TaskId, TaskNumber};
use cortex_core::time::Timestamp;
use cortex_core::units::WorkerSize;
use cortex_core::view::{AllocationView, Demand, Filter, RequestCounts};

/// What is on record under an allocation id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Allocation(Box<AllocationView>),
    /// A refused request, listed as an allocation in the state `failed`.
    Refusal(Box<Refusal>),
}

/// A task with its prospects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskDetail {
    pub view: TaskView,
    /// The number of registered agents that match its selector, whether or not they are free.
    pub able_agents: u64,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<Entry, Position> {
    /// When the page was read.
    pub at: Timestamp,
    pub entries: Vec<Entry>,
    /// The number of entries that match the filter, on all pages.
    pub total: u64,
    /// The position after which the next page begins; `None` on the last page.
    pub next: Option<Position>,
}

/// The state at the time of a query. See [`super::EngineHandle::read`].
#[derive(Debug)]
pub struct EngineState<'a> {
    pub cluster: &'a Cluster,
    /// The CPU and memory of a worker.
    pub worker_size: WorkerSize,
    refusals: &'a Refusals,
    requests: RequestCounts,
}

impl<J> Engine<J> {
    pub(super) const fn state(&self) -> EngineState<'_> {
        EngineState {
            cluster: &self.cluster,
            worker_size: self.worker_size,
            refusals: &self.refusals,
            requests: self.requests,
        }
    }
}

impl EngineState<'_> {
    /// Returns the allocation or the refusal on record under this id.
    #[must_use]
    pub fn record(&self, now: Timestamp, allocation: AllocationId) -> Option<Record> {
        match self.cluster.allocation(now, allocation) {
            Some(view) => Some(Record::Allocation(Box::new(view))),
            None => self.refusals.find(allocation).map(|refusal| Record::Refusal(Box::new(refusal.clone()))),
        }
    }

    /// Returns a page of allocations and refusals after a position, oldest first. Refusals match the state `failed`.
    #[must_use]
    pub fn records(
        &self,
        now: Timestamp,
        filter: &Filter,
        after: RecordPosition,
        limit: usize,
    ) -> Page<Record, RecordPosition> {
        let after_grant = FencingToken::new(after.grant);
        let mut allocations = self.cluster.list(now, filter, after_grant).peekable();
        let mut refusals = self.refusals.list(filter, after).peekable();
        let mut entries: Vec<Record> = Vec::new();
        let mut position = after;
        while entries.len() < limit {
            let next_grant = allocations.peek().map(|view| view.allocation.reservation.fencing_token.as_u64());
            let refusal_first = match (next_grant, refusals.peek()) {
                (Some(grant), Some(refusal)) => refusal.position.grant < grant,
                (None, Some(_)) => true,
                (_, None) => false,
            };
            let entry = if refusal_first {
                refusals.next().map(|refusal| (refusal.position, Record::Refusal(Box::new(refusal.clone()))))
            } else {
                allocations.next().map(|view| {
                    let grant = view.allocation.reservation.fencing_token.as_u64();
                    (RecordPosition { grant, refusal: 0 }, Record::Allocation(Box::new(view)))
                })
            };
            let Some((at, record)) = entry else { break };
            position = at;
            entries.push(record);
        }
        let more = allocations.peek().is_some() || refusals.peek().is_some();
        let total = self.cluster.count(filter) + self.refusals.list(filter, RecordPosition::default()).count() as u64;
        Page { at: now, entries, total, next: more.then_some(position) }
    }

    /// Returns the capacity and the demand so far.
    #[must_use]
    pub fn demand(&self, now: Timestamp) -> Demand {
        self.cluster.demand(now, self.requests, self.worker_size)
    }

    /// Returns a page of agents after an id, ordered by id.
    #[must_use]
    pub fn agents(
        &self,
        now: Timestamp,
        filter: &AgentFilter,
        after: Option<&AgentId>,
        limit: usize,
    ) -> Page<AgentView, AgentId> {
        let mut views = self.cluster.agents(now, filter, after);
        let entries: Vec<AgentView> = views.by_ref().take(limit).collect();
        let more = views.next().is_some();
        let next = entries.last().filter(|_| more).map(|view| view.registration.request.agent.clone());
        Page { at: now, total: self.cluster.count_agents(now, filter), entries, next }
    }

    /// Returns a task, waiting, running or ended.
    #[must_use]
    pub fn task(&self, now: Timestamp, task: &TaskId) -> Option<TaskDetail> {
        self.cluster.task(now, task).map(|view| self.detail(view))
    }

    pub(super) fn detail(&self, view: TaskView) -> TaskDetail {
        TaskDetail { able_agents: self.cluster.count_eligible_agents(&view.task.spec.request.selector), view }
    }

    /// Returns a page of tasks after a number, in the order of submission.
    #[must_use]
    pub fn tasks(
        &self,
        now: Timestamp,
        filter: &TaskFilter,
        after: TaskNumber,
        limit: usize,
    ) -> Page<TaskView, TaskNumber> {
        let mut views = self.cluster.tasks(now, filter, after);
        let entries: Vec<TaskView> = views.by_ref().take(limit).collect();
        let more = views.next().is_some();
        let next = entries.last().filter(|_| more).map(|view| view.task.spec.number);
        Page { at: now, total: self.cluster.count_tasks(filter), entries, next }
    }

    /// Returns the use of quotas, tokens and the queue.
    #[must_use]
    pub fn usage(&self, now: Timestamp) -> UsageView {
        self.cluster.usage(now, self.worker_size)
    }

    /// Returns the figures that bottlenecks are detected from.
    #[must_use]
    pub fn fleet_metrics(&self, now: Timestamp) -> FleetMetrics {
        self.cluster.fleet_metrics(now, self.worker_size)
    }

    /// Returns counts of the agents, tasks and tokens.
    #[must_use]
    pub fn fleet_summary(&self, now: Timestamp) -> FleetSummary {
        let filter = AgentFilter { state: Some(AgentState::Unresponsive), agent_type: None };
        let unresponsive = Some(self.cluster.count_agents(now, &filter));
        FleetSummary { unresponsive, ..self.cluster.fleet_summary(now) }
    }
}
