//! Commands: what may be asked of the lease machine, and what it answers.

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

/// Names of MCP servers, each once, in the order in which they were first named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DistinctServers(Box<[ServerName]>);

impl DistinctServers {
    /// The names given, where one named twice counts once.
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

    /// The names.
    #[must_use]
    pub const fn as_slice(&self) -> &[ServerName] {
        &self.0
    }
}

/// What a job asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Whose it is.
    pub job: JobId,
    /// The MCP servers.
    pub servers: DistinctServers,
    /// How many workers.
    pub workers: u64,
    /// How urgent the job is.
    pub priority: Priority,
    /// How long the lease lasts unless it is renewed.
    pub ttl_seconds: TtlSeconds,
    /// The client's key, by which a repeat of the request is known.
    pub request_id: Option<RequestId>,
    /// What the client notes.
    pub metadata: Metadata,
}

/// Something asked of the lease machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Give a node this capacity.
    SetCapacity {
        /// The node.
        node: NodeId,
        /// All that it has from now on.
        capacity: Resources,
    },
    /// Keep the books within these bounds.
    SetLimits(Limits),
    /// Grant a lease.
    Request {
        /// What is asked for.
        request: Box<Request>,
        /// What a worker takes.
        worker_size: WorkerSize,
        /// A random number, of which the allocation's id is made.
        draw: u64,
    },
    /// What really stands behind a reservation is there: let it be used.
    Activate {
        /// Which.
        allocation: AllocationId,
    },
    /// What should stand behind a reservation cannot be had, and nothing of it is left: give it up.
    FailActivation {
        /// Which.
        allocation: AllocationId,
        /// What went wrong.
        error: Arc<str>,
    },
    /// Take a lease back.
    Release {
        /// Which.
        allocation: AllocationId,
        /// Why.
        reason: EndReason,
    },
    /// What really stood behind a lease that is being taken back is gone: it is over.
    FinishRelease {
        /// Which.
        allocation: AllocationId,
    },
    /// Let a lease run anew from now.
    Renew {
        /// Which.
        allocation: AllocationId,
        /// Its time to live from now on; unchanged if absent.
        ttl_seconds: Option<TtlSeconds>,
        /// The lease's own token, if the holder wants it checked.
        fencing_token: Option<FencingToken>,
    },
    /// Record the expiry of leases past their deadline, the longest overdue first.
    Sweep {
        /// At most so many.
        leases_max: usize,
    },
    /// Drop the records of allocations that ended longer ago than this.
    TrimHistory {
        /// The age.
        older_than: Millis,
    },
    /// Nobody could renew since `since`: give a grace.
    NoteOutage {
        /// The last moment before the outage.
        since: Timestamp,
        /// How long the grace lasts.
        grace: Millis,
        /// How long after that what was spared runs out.
        spread: Millis,
    },
    /// Add to the demand there was.
    CountDemand(Vec<DemandBin>),
    /// Let the planner go by this policy.
    SetPolicy(Policy),
    /// Note a scaling.
    NoteScaling(Scaling),
    /// Something about agents, tasks or tokens.
    Fleet(FleetCommand),
}

/// The events that a command leads to, and what to answer once they are applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// In order; none if nothing changes.
    pub events: Vec<Event>,
    /// The answer.
    pub outcome: Outcome,
}

/// What a release freed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Which allocation.
    pub allocation: AllocationId,
    /// Whose it was.
    pub job: JobId,
    /// Why it ended.
    pub reason: EndReason,
    /// What is free again.
    pub freed: Resources,
    /// When.
    pub released_at: Timestamp,
    /// How long the allocation lasted from its creation.
    pub duration: Millis,
}

/// A command's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done, and there is nothing to tell.
    Done,
    /// A lease was granted.
    Granted {
        /// Which.
        allocation: AllocationId,
        /// Leases past their deadline that were taken back to make room.
        reclaimed: Vec<Release>,
    },
    /// The same request was granted before; the answer is that grant as it stands now.
    Repeated {
        /// Which.
        allocation: AllocationId,
    },
    /// Nothing was granted yet: there will be room once what really stands behind leases that end is gone.
    RoomIsComing {
        /// What there is too little of until then.
        shortage: Shortage,
        /// Leases past their deadline whose end began with this.
        reclaimed: Vec<Release>,
    },
    /// A lease is being taken back: it is over once what really stands behind it is gone.
    Releasing {
        /// Which.
        allocation: AllocationId,
    },
    /// A lease was taken back.
    Released(Release),
    /// It had been taken back before.
    AlreadyReleased {
        /// Which.
        allocation: AllocationId,
        /// When it ended.
        released_at: Timestamp,
    },
    /// A lease runs anew.
    Renewed {
        /// Which.
        allocation: AllocationId,
    },
    /// Expiry was recorded.
    Swept {
        /// Of these leases.
        expired: Vec<Release>,
        /// Whether others past their deadline are left.
        more: bool,
    },
    /// What a command about agents, tasks or tokens came to.
    Fleet(FleetOutcome),
}

/// Why a request cannot be granted now: the first of the checks that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Shortage {
    /// Too few worker slots.
    #[error("Insufficient workers: requested {requested}, available {available}")]
    Workers {
        /// Asked for.
        requested: u64,
        /// Free, or held by leases past their deadline.
        available: u64,
    },
    /// Too little CPU.
    #[error("Insufficient CPU: requested {requested} cores, available {available}")]
    Cpu {
        /// Asked for.
        requested: CpuMillis,
        /// Free, or held by leases past their deadline.
        available: CpuMillis,
    },
    /// Too little memory.
    #[error("Insufficient memory: requested {requested} MB, available {available}")]
    Memory {
        /// Asked for.
        requested: MemoryMb,
        /// Free, or held by leases past their deadline.
        available: MemoryMb,
    },
    /// Too few ports for the MCP servers that would have to be started.
    #[error(
        "Insufficient MCP server ports: requested {requested} more, available {available} (the limit is {SERVER_PORT_COUNT} servers, ports 9000-9099)"
    )]
    ServerPorts {
        /// Servers not running yet.
        requested: u64,
        /// Free ports.
        available: u64,
    },
    /// Too few ports for workers.
    #[error(
        "Insufficient worker ports: requested {requested}, available {available} (the limit is {WORKER_PORT_COUNT} workers, ports 8000-65535 without 9000-9099)"
    )]
    WorkerPorts {
        /// Asked for.
        requested: u64,
        /// Free ports.
        available: u64,
    },
    /// The books hold as many live allocations as they may.
    #[error("Too many live allocations: {limit} of {limit} are held (the limit is max_live_allocations)")]
    LiveAllocations {
        /// The limit.
        limit: u64,
    },
}

/// Why a command is refused. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Denied {
    /// There is no room for a request.
    #[error("{shortage}")]
    NoRoom {
        /// What there is too little of.
        shortage: Shortage,
        /// When enough leases will have run out, if that is known.
        retry_at: Option<Timestamp>,
    },
    /// No node has been given a capacity.
    #[error("no node has a capacity yet")]
    NoNode,
    /// There is no such allocation, or its record is gone.
    #[error("Allocation {0} not found")]
    UnknownAllocation(AllocationId),
    /// The request id was used for another request.
    #[error(
        "request_id {request_id} was used for another request, granted as {allocation}: repeat that request unchanged, or choose a new request_id"
    )]
    RequestIdReused {
        /// The request id.
        request_id: RequestId,
        /// What was granted under it.
        allocation: AllocationId,
    },
    /// The fencing token is not the lease's own.
    #[error(
        "fencing_token {given} is not that of allocation {allocation}: it has {own}, so whoever sent {given} does not hold this lease"
    )]
    StaleToken {
        /// Which allocation.
        allocation: AllocationId,
        /// The token given.
        given: FencingToken,
        /// The lease's own.
        own: FencingToken,
    },
    /// A lease past its deadline cannot be renewed.
    #[error("Allocation {allocation} expired at {expired_at}: request resources anew")]
    Expired {
        /// Which allocation.
        allocation: AllocationId,
        /// Its deadline.
        expired_at: Timestamp,
    },
    /// Only an active lease can be renewed.
    #[error("Allocation {allocation} is {state}, and only an active one can be renewed: request resources anew")]
    NotActive {
        /// Which allocation.
        allocation: AllocationId,
        /// Its state.
        state: State,
    },
    /// Only a reservation can be activated or given up.
    #[error("Allocation {allocation} is {state}, and no reservation any more")]
    NotPending {
        /// Which allocation.
        allocation: AllocationId,
        /// Its state.
        state: State,
    },
    /// Only the end of a lease that is being taken back can be finished.
    #[error("Allocation {allocation} is {state}, and is not being released")]
    NotReleasing {
        /// Which allocation.
        allocation: AllocationId,
        /// Its state.
        state: State,
    },
    /// MCP servers that the catalog does not have.
    #[error("{}", unknown_servers(unknown, known))]
    UnknownServers {
        /// Those.
        unknown: Vec<ServerName>,
        /// All that it has.
        known: Vec<ServerName>,
    },
    /// A capacity below what is leased.
    #[error(
        "capacity of node {node} cannot be lowered below what is leased: {} workers, {} cores and {} MB are",
        leased.workers, leased.cpu_millis, leased.memory_mb
    )]
    BelowLeased {
        /// The node.
        node: NodeId,
        /// What is leased there.
        leased: Resources,
    },
    /// More live allocations than the new bounds allow.
    #[error("max_live_allocations cannot be lowered to {limit}: {live} allocations are live")]
    BelowLive {
        /// The bound asked for.
        limit: u64,
        /// How many are live.
        live: u64,
    },
    /// A command about agents, tasks or tokens.
    #[error(transparent)]
    Fleet(#[from] FleetDenied),
}

/// The most names of the catalog that an error lists.
const KNOWN_SERVERS_SHOWN: usize = 50;

fn unknown_servers(unknown: &[ServerName], known: &[ServerName]) -> String {
    let list = |names: &[ServerName]| {
        let shown: Vec<String> =
            names.iter().take(KNOWN_SERVERS_SHOWN).map(|name| format!("{:?}", name.as_str())).collect();
        let more = names.len().saturating_sub(KNOWN_SERVERS_SHOWN);
        if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
    };
    let way_out: &dyn Display = if known.is_empty() { &"none" } else { &list(known) };
    format!("mcp_servers names {}, which the catalog does not have: it has {way_out}", list(unknown))
}
