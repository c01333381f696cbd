//! The messages to the engine and its replies.

use super::provisioning_waits::ClaimPort;
use super::refusals::{RecordPosition, Refusal};
use cortex_core::command::{Denied, Release, Request};
use cortex_core::demand::DemandBin;
use cortex_core::fleet::agent::AgentRequest;
use cortex_core::fleet::command::{FleetCommand, FleetDenied, FleetOutcome, NoTaskReason, RemovedAgent, TaskReport};
use cortex_core::fleet::task::TaskRequest;
use cortex_core::fleet::view::{AgentFilter, AgentView, FleetMetrics, FleetSummary, TaskFilter, TaskView, UsageView};
use cortex_core::ids::{AgentId, AllocationId, FencingToken, TaskId, TaskNumber};
use cortex_core::policy::Policy;
use cortex_core::priority::Priority;
use cortex_core::provisioning::Provisioning;
use cortex_core::scaling_state::{PastScaling, Scaling};
use cortex_core::time::{Timestamp, TtlSeconds};
use cortex_core::view::{AllocationView, CapacityView, Demand, Filter};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::oneshot;

/// A value with the time at which it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading<T> {
    pub at: Timestamp,
    pub value: T,
}

/// The reply to a request that was granted, now or by an earlier request with the same request id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub view: AllocationView,
    /// Whether this request created the allocation, rather than an earlier one with the same request id.
    pub is_new: bool,
}

/// The reply to a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Released {
    /// This call released the lease.
    Now(Release),
    /// The lease had ended before this call.
    Before { allocation: AllocationId, released_at: Timestamp },
}

/// What the engine has on record under an allocation id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Allocation(Box<AllocationView>),
    /// A refused request, listed as an allocation in the state `failed`.
    Refusal(Box<Refusal>),
}

/// A query for a page of allocations and refusals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Refusals match the state `failed`.
    pub filter: Filter,
    /// Records after this position.
    pub after: RecordPosition,
    /// The largest number of records on the page.
    pub limit: usize,
}

/// A page of allocations and refusals, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// When the page was read.
    pub at: Timestamp,
    pub entries: Vec<Record>,
    /// The number of records that match the filter, on all pages.
    pub total: u64,
    /// The `after` of the next page; `None` on the last page.
    pub next: Option<RecordPosition>,
}

/// The reply to a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredAgent {
    pub view: AgentView,
    /// Whether this call registered the agent, rather than an earlier one.
    pub is_new: bool,
}

/// A query for a page of agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentListing {
    pub filter: AgentFilter,
    /// Agents with an id after this one.
    pub after: Option<AgentId>,
    /// The largest number of agents on the page.
    pub limit: usize,
}

/// A page of agents, ordered by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentPage {
    /// When the page was read.
    pub at: Timestamp,
    pub entries: Vec<AgentView>,
    /// The number of agents that match the filter, on all pages.
    pub total: u64,
    /// The `after` of the next page; `None` on the last page.
    pub next: Option<AgentId>,
}

/// A task with its prospects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskDetail {
    pub view: TaskView,
    /// The number of registered agents that match its selector, whether or not they are free.
    pub able_agents: u64,
}

/// The reply to a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitted {
    pub detail: TaskDetail,
    /// Whether this call submitted the task, rather than an earlier one with the same task id.
    pub is_new: bool,
}

/// The reply to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The tasks that the agent was leased, the best one first.
    Tasks { at: Timestamp, tasks: Vec<TaskView> },
    /// The agent was leased no task, and why.
    Nothing(NoTaskReason),
}

/// A task after a command, with the outcome of the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskAfter {
    pub outcome: FleetOutcome,
    pub view: TaskView,
}

/// A query for a page of tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskListing {
    pub filter: TaskFilter,
    /// Tasks with a number after this one.
    pub after: TaskNumber,
    /// The largest number of tasks on the page.
    pub limit: usize,
}

/// A page of tasks, in the order of submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskPage {
    /// When the page was read.
    pub at: Timestamp,
    pub entries: Vec<TaskView>,
    /// The number of tasks that match the filter, on all pages.
    pub total: u64,
    /// The `after` of the next page; `None` on the last page.
    pub next: Option<TaskNumber>,
}

/// What a committed batch changed of the resources that clients watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whether the capacity or its use changed.
    pub capacity: bool,
    /// The allocations that changed.
    pub allocations: BTreeSet<AllocationId>,
}

/// Why a call to the engine failed. Clients see these texts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EngineError {
    /// The cluster denied the command. Nothing has changed.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// There was not enough capacity. The refusal is on record under its own allocation id.
    #[error("{}", .0.error)]
    Refused(Box<Refusal>),
    /// The allocation id belongs to a refused request, which has no lease.
    #[error("Allocation {0} failed and holds nothing to release or renew: its request was refused")]
    NothingHeld(AllocationId),
    /// A server or worker of the allocation did not start, so the whole allocation failed and holds nothing.
    #[error("Allocation {allocation} failed: {error}")]
    NotStarted { allocation: AllocationId, error: Arc<str> },
    /// The program has a bug. Nothing has changed.
    #[error("internal error: the request could not be processed and nothing has changed; see the server's log")]
    Fault,
    /// The caller cancelled the request before it was decided.
    #[error("the request was cancelled before it was processed: nothing was granted")]
    Cancelled,
    /// The commit failed, or its outcome is unknown.
    #[error(
        "the change may not have been persisted: retry the call, with the same request_id or task_id \
         if one was given; the server's log has the cause"
    )]
    NotCommitted,
    /// The engine has stopped: the server is shutting down.
    #[error("the server is shutting down: check whether the call took effect before you retry it")]
    Stopped,
}

impl From<FleetDenied> for EngineError {
    fn from(denied: FleetDenied) -> Self {
        Self::Denied(Denied::Fleet(denied))
    }
}

/// What a call led to, to be revoked if the call is cancelled or its reply is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Revocable {
    Allocation(AllocationId),
    /// A task whose id the engine chose, so that its submitter cannot know it yet.
    Submitted(TaskId),
    /// The tasks leased by a claim, each with its fencing token.
    Claimed(Vec<(TaskId, FencingToken)>),
}

/// Cancels one request, from before it is sent until its caller has received the reply.
#[derive(Clone, Debug, Default)]
pub struct CancelHandle(Arc<CancelState>);

#[derive(Debug, Default)]
struct CancelState {
    is_cancelled: AtomicBool,
    granted: OnceLock<Revocable>,
}

impl CancelHandle {
    pub(super) fn cancel(&self) {
        self.0.is_cancelled.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.0.is_cancelled.load(Ordering::Relaxed)
    }

    /// Notes what this request was granted. A repeat of an earlier request is granted nothing.
    pub(super) fn note(&self, grants: Revocable) {
        // Each cancel handle belongs to one request, so this is set at most once.
        let _ = self.0.granted.set(grants);
    }

    pub(super) fn granted(&self) -> Option<&Revocable> {
        self.0.granted.get()
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

pub(super) type Reply<T> = oneshot::Sender<T>;

/// A message to the engine.
pub(super) enum Message {
    Request {
        request: Box<Request>,
        cancel_handle: CancelHandle,
        reply: Reply<Result<Grant, EngineError>>,
    },
    Release {
        allocation: AllocationId,
        reply: Reply<Result<Released, EngineError>>,
    },
    Cancel {
        cancel_handle: CancelHandle,
    },
    Renew {
        allocation: AllocationId,
        ttl_seconds: Option<TtlSeconds>,
        fencing_token: Option<FencingToken>,
        reply: Reply<Result<AllocationView, EngineError>>,
    },
    Sweep {
        reply: Reply<Result<(Vec<AllocationId>, bool), EngineError>>,
    },
    TrimHistory,
    Capacity {
        reply: Reply<Reading<CapacityView>>,
    },
    Allocation {
        allocation: AllocationId,
        reply: Reply<Option<Reading<Record>>>,
    },
    List {
        listing: Box<Listing>,
        reply: Reply<Page>,
    },
    Fleet(FleetMessage),
    Planner(PlannerMessage),
    Provisioning(ProvisioningMessage),
}

/// A message from the provisioner.
pub(super) enum ProvisioningMessage {
    Set {
        provisioning: Provisioning,
        claim: Option<ClaimPort>,
    },
    Activate {
        allocation: AllocationId,
        reply: Reply<Result<(), EngineError>>,
    },
    FailActivation {
        allocation: AllocationId,
        error: Arc<str>,
        caller_error: Arc<str>,
        reply: Reply<Result<(), EngineError>>,
    },
    FinishRelease {
        allocation: AllocationId,
        reply: Reply<Result<(), EngineError>>,
    },
}

/// A message about demand, scaling and the scaling policy.
pub(super) enum PlannerMessage {
    Demand { is_sample: bool, reply: Reply<Reading<Demand>> },
    DemandBins { after: Option<Timestamp>, reply: Reply<Reading<Vec<DemandBin>>> },
    Scale { scaling: Box<Scaling>, reply: Reply<Result<(), EngineError>> },
    Scalings { limit: usize, reply: Reply<(Vec<PastScaling>, usize)> },
    SetPolicy { policy: Policy, reply: Reply<Result<Policy, EngineError>> },
    Policy { reply: Reply<Policy> },
}

/// A message about agents, tasks and tokens.
pub(super) enum FleetMessage {
    Register {
        request: Box<AgentRequest>,
        reply: Reply<Result<RegisteredAgent, EngineError>>,
    },
    Heartbeat {
        agent: AgentId,
        reply: Reply<Result<AgentView, EngineError>>,
    },
    Drain {
        agent: AgentId,
        is_draining: bool,
        reply: Reply<Option<usize>>,
    },
    Unregister {
        agent: AgentId,
        reply: Reply<Result<Reading<RemovedAgent>, EngineError>>,
    },
    Agents {
        listing: Box<AgentListing>,
        reply: Reply<AgentPage>,
    },
    Submit {
        request: Box<TaskRequest>,
        cancel_handle: CancelHandle,
        reply: Reply<Result<Submitted, EngineError>>,
    },
    Claim {
        agent: AgentId,
        wait: Duration,
        cancel_handle: CancelHandle,
        reply: Reply<Result<Claim, EngineError>>,
    },
    Assign {
        task: TaskId,
        reply: Reply<Result<(AgentId, Vec<TaskView>), EngineError>>,
    },
    Complete {
        task: TaskId,
        agent: AgentId,
        fencing_token: FencingToken,
        report: Box<TaskReport>,
        reply: Reply<Result<TaskAfter, EngineError>>,
    },
    Cancel {
        task: TaskId,
        reply: Reply<Result<TaskAfter, EngineError>>,
    },
    Update {
        task: TaskId,
        priority: Option<Priority>,
        deadline: Option<Timestamp>,
        reply: Reply<Result<TaskAfter, EngineError>>,
    },
    Task {
        task: TaskId,
        reply: Reply<Option<TaskDetail>>,
    },
    Tasks {
        listing: Box<TaskListing>,
        reply: Reply<TaskPage>,
    },
    Usage {
        reply: Reply<UsageView>,
    },
    Figures {
        reply: Reply<FleetMetrics>,
    },
    Summary {
        reply: Reply<FleetSummary>,
    },
    Set {
        command: FleetCommand,
        reply: Reply<Result<UsageView, EngineError>>,
    },
}
