//! Commands to the lease machine, and their outcomes.

use super::allocation::{EndReason, Metadata, State};
use super::demand::DemandBin;
use super::event::{Event, Limits};
use super::fleet::command::{FleetCommand, FleetDenied, FleetOutcome};
use super::ids::{AllocationId, FencingToken, JobId, NodeId, RequestId, ServerName};
use super::policy::Policy;
use super::ports::{SERVER_PORT_COUNT, WORKER_PORT_COUNT};
use super::priority::Priority;
use super::scaling_state::Scaling;
use super::time::{Millis, Timestamp, TtlSeconds};
use super::units::{CpuMillis, MemoryMb, Resources, WorkerSize};
use std::fmt::Display;
use std::sync::Arc;
use thiserror::Error;

/// Names of MCP servers without duplicates, in the order in which they were first given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DistinctServers(Box<[ServerName]>);

impl DistinctServers {
    /// Removes duplicates, keeping the first of each.
    #[must_use]
    pub fn new(names: impl IntoIterator<Item = ServerName>) -> Self {
        let mut distinct: Vec<ServerName> = Vec::new();
        for name in names {
            if !distinct.contains(&name) {
                distinct.push(name);
            }
        }
        Self(distinct.into_boxed_slice())
    }

    #[must_use]
    pub const fn as_slice(&self) -> &[ServerName] {
        &self.0
    }
}

/// A job's request for a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub job: JobId,
    pub servers: DistinctServers,
    pub workers: u64,
    pub priority: Priority,
    /// The time to live of the lease, from its activation or last renewal.
    pub ttl_seconds: TtlSeconds,
    /// The client's key for the request. A repeat with the same key returns the first grant.
    pub request_id: Option<RequestId>,
    pub metadata: Metadata,
}

/// A command to the lease machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Sets a node's capacity, and creates the node if there is none of this name.
    SetCapacity {
        node: NodeId,
        /// The node's whole capacity from now on.
        capacity: Resources,
    },
    /// Sets the bounds within which the state is kept.
    SetLimits(Limits),
    /// Requests a lease.
    Request {
        request: Box<Request>,
        /// CPU and memory of one worker.
        worker_size: WorkerSize,
        /// A random number; the allocation's id is derived from it. If that id is in use, the next free one is taken.
        random: u64,
    },
    /// Makes a reservation active: everything that it needs has been started.
    Activate { allocation: AllocationId },
    /// Fails a reservation: something that it needs did not start, and nothing that was started for it is left.
    FailActivation { allocation: AllocationId, error: Arc<str> },
    /// Ends a lease.
    Release { allocation: AllocationId, reason: EndReason },
    /// Finishes a release: everything that was started for the lease has stopped.
    FinishRelease { allocation: AllocationId },
    /// Restarts the time to live of an active lease.
    Renew {
        allocation: AllocationId,
        /// The new time to live; unchanged if absent.
        ttl_seconds: Option<TtlSeconds>,
        /// The lease's own token, if the holder wants it checked.
        fencing_token: Option<FencingToken>,
    },
    /// Records the expiry of leases past their deadline, the longest overdue first.
    Sweep {
        /// The most leases to end in this sweep.
        leases_max: usize,
    },
    /// Drops the records of allocations and tasks that ended longer ago than this.
    TrimHistory { older_than: Millis },
    /// Gives leases a grace after an outage in which nobody could renew.
    NoteOutage {
        /// The last moment before the outage.
        since: Timestamp,
        /// How long from now nothing more expires.
        grace: Millis,
        /// The time after the grace over which the expiries of the spared leases are spread.
        spread: Millis,
    },
    /// Adds to the demand history.
    CountDemand(Vec<DemandBin>),
    /// Sets the scaling policy.
    SetPolicy(Policy),
    /// Sets the worker slots of the node `local` to the target of a scaling, and records the scaling.
    Scale(Scaling),
    /// A command about agents, tasks or tokens.
    Fleet(FleetCommand),
}

/// The events that a command leads to, and the outcome to return once they are applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// In order; empty if nothing changes.
    pub events: Vec<Event>,
    pub outcome: Outcome,
}

/// What a release freed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    pub allocation: AllocationId,
    pub job: JobId,
    pub reason: EndReason,
    pub freed: Resources,
    pub released_at: Timestamp,
    /// The time since the allocation was created.
    pub duration: Millis,
}

/// The outcome of a command that was not denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command was carried out; there is nothing to report.
    Done,
    /// A lease was granted.
    Granted {
        allocation: AllocationId,
        /// Leases past their deadline that were ended to free capacity.
        reclaimed: Vec<Release>,
    },
    /// The same request was granted before. The answer is the current state of that grant.
    Repeated { allocation: AllocationId },
    /// Nothing is granted yet. The request fits once what was started for ending leases has stopped.
    CapacityPending {
        /// What is short until then.
        shortage: Shortage,
        /// Leases past their deadline whose release began with this request.
        reclaimed: Vec<Release>,
    },
    /// The release began. It ends once everything that was started for the lease has stopped.
    Releasing { allocation: AllocationId },
    /// The lease was released.
    Released(Release),
    /// The lease was released before.
    AlreadyReleased {
        allocation: AllocationId,
        /// When the lease ended.
        released_at: Timestamp,
    },
    /// The scaling policy is set.
    PolicySet { previous: Policy, current: Policy },
    /// The lease was renewed.
    Renewed { allocation: AllocationId },
    /// The expiry of leases was recorded.
    Swept {
        expired: Vec<Release>,
        /// Whether leases past their deadline remain.
        more: bool,
    },
    /// The outcome of a command about agents, tasks or tokens.
    Fleet(FleetOutcome),
}

/// Why a request cannot be granted now: the first check that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Shortage {
    #[error("Insufficient workers: requested {requested}, available {available}")]
    Workers {
        requested: u64,
        /// Free, or held by leases past their deadline.
        available: u64,
    },
    #[error("Insufficient CPU: requested {requested} cores, available {available}")]
    Cpu {
        requested: CpuMillis,
        /// Free, or held by leases past their deadline.
        available: CpuMillis,
    },
    #[error("Insufficient memory: requested {requested} MB, available {available}")]
    Memory {
        requested: MemoryMb,
        /// Free, or held by leases past their deadline.
        available: MemoryMb,
    },
    /// Too few ports for the MCP servers that would have to be started.
    #[error(
        "Insufficient MCP server ports: requested {requested} more, available {available} \
         (the limit is {SERVER_PORT_COUNT} servers, ports 9000-9099)"
    )]
    ServerPorts {
        /// Servers that are not running yet.
        requested: u64,
        available: u64,
    },
    #[error(
        "Insufficient worker ports: requested {requested}, available {available} \
         (the limit is {WORKER_PORT_COUNT} workers, ports 8000-65535 without 9000-9099)"
    )]
    WorkerPorts { requested: u64, available: u64 },
    /// The number of live allocations has reached its limit.
    #[error("Too many live allocations: {limit} of {limit} are held (the limit is max_live_allocations)")]
    LiveAllocations { limit: u64 },
}

/// Why a command is denied. A denied command changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Denied {
    /// The request does not fit now.
    #[error("{shortage}")]
    InsufficientCapacity {
        shortage: Shortage,
        /// When enough leases will have expired, if that is known.
        retry_at: Option<Timestamp>,
    },
    /// No node has a capacity yet.
    #[error("no node has a capacity yet")]
    NoNode,
    /// No allocation has this id, or its record was dropped.
    #[error("Allocation {0} not found")]
    UnknownAllocation(AllocationId),
    /// The request id was used for another request.
    #[error(
        "request_id {request_id} was used for another request, granted as {allocation}: \
         repeat that request unchanged, or choose a new request_id"
    )]
    RequestIdReused {
        request_id: RequestId,
        /// What was granted for the first request.
        allocation: AllocationId,
    },
    /// The fencing token is not the lease's own.
    #[error(
        "fencing_token {given} is not that of allocation {allocation}, which has {own}: {given} does not hold this lease"
    )]
    StaleToken { allocation: AllocationId, given: FencingToken, own: FencingToken },
    /// The lease to renew is past its deadline.
    #[error("Allocation {allocation} expired at {expired_at}: call request_resources again")]
    Expired { allocation: AllocationId, expired_at: Timestamp },
    /// The lease to renew is not active.
    #[error("Allocation {allocation} is {state}, and only an active one can be renewed: call request_resources again")]
    NotActive { allocation: AllocationId, state: State },
    /// The allocation to activate or to fail is no longer a reservation.
    #[error("Allocation {allocation} is {state}, no longer reserved")]
    NotPending { allocation: AllocationId, state: State },
    /// The allocation whose release is to be finished is not being released.
    #[error("Allocation {allocation} is {state}, not being released")]
    NotReleasing { allocation: AllocationId, state: State },
    /// The request names MCP servers that the catalog does not have.
    #[error("{}", unknown_servers(unknown, known))]
    UnknownServers {
        unknown: Vec<ServerName>,
        /// All servers of the catalog.
        known: Vec<ServerName>,
    },
    /// The new capacity is below what is leased.
    #[error(
        "capacity of node {node} cannot be lowered below what is leased: {} workers, {} cores and {} MB are",
        leased.workers, leased.cpu_millis, leased.memory_mb
    )]
    BelowLeased { node: NodeId, leased: Resources },
    /// The new limit is below the number of live allocations.
    #[error("max_live_allocations cannot be lowered to {limit}: {live} allocations are live")]
    BelowLive { limit: u64, live: u64 },
    /// A denial that concerns agents, tasks or tokens.
    #[error(transparent)]
    Fleet(#[from] FleetDenied),
}

/// How many names of the catalog an error lists at most.
const KNOWN_SERVERS_SHOWN: usize = 50;

fn unknown_servers(unknown: &[ServerName], known: &[ServerName]) -> String {
    let list = |names: &[ServerName]| {
        let shown: Vec<String> =
            names.iter().take(KNOWN_SERVERS_SHOWN).map(|name| format!("{:?}", name.as_str())).collect();
        let more = names.len().saturating_sub(KNOWN_SERVERS_SHOWN);
        if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
    };
    let available: &dyn Display = if known.is_empty() { &"none" } else { &list(known) };
    format!("mcp_servers names {}, which the catalog does not have: it has {available}", list(unknown))
}
