//! What is sent to the engine, and what it answers.

use super::real::ClaimPort;
use super::refusals::{Place, Refusal};
use cortex_core::command::{Denied, Release, Request};
use cortex_core::demand::DemandBin;
use cortex_core::fleet::agent::AgentRequest;
use cortex_core::fleet::command::{AgentLeft, FleetCommand, FleetDenied, FleetOutcome, NothingClaimed, Report};
use cortex_core::fleet::task::TaskRequest;
use cortex_core::fleet::view::{AgentFilter, AgentView, FleetFigures, FleetSummary, TaskFilter, TaskView, UsageView};
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

/// A value with the moment at which it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading<T> {
    /// The moment.
    pub at: Timestamp,
    /// The value.
    pub value: T,
}

/// An answer to a request that was granted, now or before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The allocation as it stands.
    pub view: AllocationView,
    /// Whether this request made it, rather than an earlier one with the same request id.
    pub is_new: bool,
}

/// An answer to a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Released {
    /// It was released by this call.
    Now(Release),
    /// It had ended before.
    Before {
        /// Which.
        allocation: AllocationId,
        /// When it ended.
        released_at: Timestamp,
    },
}

/// What can be read back under an allocation's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An allocation.
    Allocation(Box<AllocationView>),
    /// A request that was refused.
    Refusal(Box<Refusal>),
}

/// Which part of the list of allocations and refusals is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Only those it admits; refusals are in the state `failed`.
    pub filter: Filter,
    /// Only those behind this place.
    pub after: Place,
    /// At most so many.
    pub limit: usize,
}

/// A page of the list, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// When it was read.
    pub at: Timestamp,
    /// The entries.
    pub entries: Vec<Record>,
    /// How many entries the filter admits in all.
    pub total: u64,
    /// The place to go on from, if there is more.
    pub next: Option<Place>,
}

/// An answer to an agent that registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentTakenOn {
    /// The agent as it stands.
    pub view: AgentView,
    /// Whether it was taken on now, rather than before.
    pub is_new: bool,
}

/// Which part of the list of agents is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentListing {
    /// Only those it admits.
    pub filter: AgentFilter,
    /// Only those behind this one, by id.
    pub after: Option<AgentId>,
    /// At most so many.
    pub limit: usize,
}

/// A page of the list of agents, by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentPage {
    /// When it was read.
    pub at: Timestamp,
    /// The agents.
    pub entries: Vec<AgentView>,
    /// How many the filter admits in all.
    pub total: u64,
    /// The agent to go on from, if there is more.
    pub next: Option<AgentId>,
}

/// A task, and how it stands with the agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskDetail {
    /// The task.
    pub view: TaskView,
    /// How many agents are registered that may take it, now or later.
    pub able_agents: u64,
}

/// An answer to a submitted task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// The task as it stands.
    pub detail: TaskDetail,
    /// Whether it was submitted now, rather than before.
    pub is_new: bool,
}

/// An answer to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The agent holds these now, the best one first.
    Tasks {
        /// When it was given them.
        at: Timestamp,
        /// The tasks.
        tasks: Vec<TaskView>,
    },
    /// There was nothing for it, and why.
    Nothing(NothingClaimed),
}

/// A task after something was done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskAfter {
    /// What was done.
    pub outcome: FleetOutcome,
    /// The task as it stands.
    pub view: TaskView,
}

/// Which part of the list of tasks is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskListing {
    /// Only those it admits.
    pub filter: TaskFilter,
    /// Only those behind this one.
    pub after: TaskNumber,
    /// At most so many.
    pub limit: usize,
}

/// A page of the list of tasks, in the order in which they were submitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskPage {
    /// When it was read.
    pub at: Timestamp,
    /// The tasks.
    pub entries: Vec<TaskView>,
    /// How many the filter admits in all.
    pub total: u64,
    /// The task to go on from, if there is more.
    pub next: Option<TaskNumber>,
}

/// What a batch of events changed of the things that clients watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whether the capacity or what is taken of it.
    pub capacity: bool,
    /// Which allocations.
    pub allocations: BTreeSet<AllocationId>,
}

/// Why the engine did not do as asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EngineError {
    /// The lease machine refused. Nothing has changed.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// There was no room; the refusal is remembered.
    #[error("{}", .0.error)]
    Refused(Box<Refusal>),
    /// The id is that of a refused request, which holds nothing.
    #[error("Allocation {0} failed and holds nothing to release or renew: its request was refused")]
    NothingHeld(AllocationId),
    /// What was to stand behind a grant could not be started; the grant failed whole.
    #[error("Allocation {allocation} failed: {error}")]
    NotStarted {
        /// Which.
        allocation: AllocationId,
        /// Why.
        error: Arc<str>,
    },
    /// The program has a fault. Nothing has changed.
    #[error("internal error: the request could not be decided on and nothing has changed; the log says more")]
    Fault,
    /// The caller called the request off before it was decided on.
    #[error("the request was called off before it was decided on: nothing was granted")]
    Cancelled,
    /// The change could not be made lasting, or it is not known whether it was.
    #[error(
        "the manager could not make this lasting, or does not know whether it did: ask again, \
         with the same request_id or task_id if one was given; the manager's log says why"
    )]
    NotCommitted,
    /// The engine has ended: the server is going down.
    #[error("the server is shutting down: look whether this has taken effect before asking for it again")]
    Stopped,
}

impl From<FleetDenied> for EngineError {
    fn from(denied: FleetDenied) -> Self {
        Self::Denied(Denied::Fleet(denied))
    }
}

/// What a call led to that nobody wants if the call is called off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grants {
    /// A lease.
    Allocation(AllocationId),
    /// A task whose id nobody was told.
    Submitted(TaskId),
    /// Tasks in the hands of an agent, with the token of each.
    Claimed(Vec<(TaskId, FencingToken)>),
}

/// What a request can be called off by, from before it is sent until its caller hears of the grant.
#[derive(Clone, Debug, Default)]
pub struct CancelHandle(Arc<Fate>);

#[derive(Debug, Default)]
struct Fate {
    is_cancelled: AtomicBool,
    granted: OnceLock<Grants>,
}

impl CancelHandle {
    pub(super) fn cancel(&self) {
        self.0.is_cancelled.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.0.is_cancelled.load(Ordering::Relaxed)
    }

    /// Notes what was granted for this request; a repeat of an earlier one is granted nothing.
    pub(super) fn note(&self, grants: Grants) {
        // A cancel_handle goes with one request, so that nothing is noted twice.
        let _ = self.0.granted.set(grants);
    }

    pub(super) fn granted(&self) -> Option<&Grants> {
        self.0.granted.get()
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

pub(super) type Reply<T> = oneshot::Sender<T>;

/// Everything that can be asked of the engine.
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
    Planned(PlannedMessage),
    Real(RealMessage),
}

/// Everything that whoever runs real things says to the engine.
pub(super) enum RealMessage {
    Stand { provisioning: Provisioning, claim: Option<ClaimPort> },
    Activate { allocation: AllocationId, reply: Reply<Result<(), EngineError>> },
    FailActivation { allocation: AllocationId, error: Arc<str>, told: Arc<str>, reply: Reply<Result<(), EngineError>> },
    FinishRelease { allocation: AllocationId, reply: Reply<Result<(), EngineError>> },
}

/// Everything that can be asked of the engine about what the planner goes by.
pub(super) enum PlannedMessage {
    Demand { is_look: bool, reply: Reply<Reading<Demand>> },
    DemandBins { after: Option<Timestamp>, reply: Reply<Reading<Vec<DemandBin>>> },
    Scale { scaling: Box<Scaling>, reply: Reply<Result<(), EngineError>> },
    Scalings { limit: usize, reply: Reply<(Vec<PastScaling>, usize)> },
    SetPolicy { policy: Policy, reply: Reply<Result<Policy, EngineError>> },
    Policy { reply: Reply<Policy> },
}

/// Everything that can be asked of the engine about agents, tasks and tokens.
pub(super) enum FleetMessage {
    Register {
        request: Box<AgentRequest>,
        reply: Reply<Result<AgentTakenOn, EngineError>>,
    },
    Beat {
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
        reply: Reply<Result<Reading<AgentLeft>, EngineError>>,
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
        report: Box<Report>,
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
        reply: Reply<FleetFigures>,
    },
    Summary {
        reply: Reply<FleetSummary>,
    },
    Set {
        command: FleetCommand,
        reply: Reply<Result<UsageView, EngineError>>,
    },
}
