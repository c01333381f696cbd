//! The messages to the engine and its replies.

use super::cancel::CancelHandle;
use super::error::EngineError;
use super::provisioning_waits::ClaimPort;
use super::state::{EngineState, TaskDetail};
use cortex_core::command::{Command, Outcome, Release, Request};
use cortex_core::fleet::agent::AgentRequest;
use cortex_core::fleet::command::NoTaskReason;
use cortex_core::fleet::task::TaskRequest;
use cortex_core::fleet::view::{AgentView, TaskView};
use cortex_core::ids::{AgentId, AllocationId, TaskId};
use cortex_core::provisioning::Provisioning;
use cortex_core::time::Timestamp;
use cortex_core::view::{AllocationView, Demand};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

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

/// The reply to a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredAgent {
    pub view: AgentView,
    /// Whether this call registered the agent, rather than an earlier one.
    pub is_new: bool,
}

/// The reply to a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitted {
    pub detail: TaskDetail,
    /// Whether this call submitted the task, rather than an earlier one with the same task id.
    pub is_new: bool,
}

/// The reply to an assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The agent that was chosen.
    pub agent: AgentId,
    /// The tasks that the agent was leased, the requested one first.
    pub tasks: Vec<TaskView>,
}

/// The reply to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The tasks that the agent was leased, the best one first.
    Tasks { at: Timestamp, tasks: Vec<TaskView> },
    /// The agent was leased no task, and why.
    Nothing(NoTaskReason),
}

pub(super) type Reply<T> = oneshot::Sender<T>;

/// Sends a reply. It runs after the commit of the batch that it belongs to.
pub(super) type Answer = Box<dyn FnOnce() + Send>;

/// Reads the state and makes the answer from it.
pub(super) type ReadState = Box<dyn FnOnce(&EngineState<'_>, Timestamp) -> Answer + Send>;

/// Reads the state after a command, with the outcome of the command, and makes the answer from both.
pub(super) type ReadOutcome =
    Box<dyn FnOnce(Result<Outcome, EngineError>, &EngineState<'_>, Timestamp) -> Answer + Send>;

/// A message to the engine. What needs nothing but the state is read or executed; the other messages involve the
/// engine's own memory: callers that wait, refusals on record, random draws, heartbeats, demand.
pub(super) enum Message {
    Read(ReadState),
    Execute { command: Box<Command>, read: ReadOutcome },
    Request { request: Box<Request>, cancel_handle: CancelHandle, reply: Reply<Result<Grant, EngineError>> },
    Release { allocation: AllocationId, reply: Reply<Result<Released, EngineError>> },
    Cancel { cancel_handle: CancelHandle },
    Sweep { reply: Reply<Result<SweepBatch, EngineError>> },
    SampleDemand { reply: Reply<(Timestamp, Demand)> },
    Fleet(FleetMessage),
    Provisioning(ProvisioningMessage),
}

/// The leases that one sweep message ended.
pub(super) struct SweepBatch {
    pub(super) expired: Vec<AllocationId>,
    /// Whether leases past their deadline remain.
    pub(super) more: bool,
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

/// A message about agents and tasks.
pub(super) enum FleetMessage {
    Register { request: Box<AgentRequest>, reply: Reply<Result<RegisteredAgent, EngineError>> },
    Heartbeat { agent: AgentId, reply: Reply<Result<AgentView, EngineError>> },
    Drain { agent: AgentId, is_draining: bool, reply: Reply<Option<usize>> },
    Submit { request: Box<TaskRequest>, cancel_handle: CancelHandle, reply: Reply<Result<Submitted, EngineError>> },
    Claim { agent: AgentId, wait: Duration, cancel_handle: CancelHandle, reply: Reply<Result<Claim, EngineError>> },
    Assign { task: TaskId, reply: Reply<Result<Assignment, EngineError>> },
}
