//! The lease machine: commands in, events out.
//!
//! It has no clock, no randomness, no I/O, no tasks and no locks, and uses nothing of this crate but itself. Whoever
//! drives it stamps the time, draws the random numbers and keeps the events:
//!
//! ```
//! use cortex_core::{Cluster, Command, NodeId, Recorded, Resources, CpuMillis, MemoryMb, Timestamp};
//!
//! let mut cluster = Cluster::default();
//! let now = Timestamp::from_millis(0);
//! let capacity = Resources { cpu_millis: CpuMillis::from_millis(16_000), memory_mb: MemoryMb(32_768), workers: 10 };
//! let decision = cluster.decide(now, &Command::SetCapacity { node: NodeId::local(), capacity })?;
//! for event in decision.events {
//!     cluster.apply(&Recorded { at: now, event });
//! }
//! assert_eq!(cluster.capacity(now).total.workers, 10);
//! # Ok::<(), cortex_core::Denied>(())
//! ```
//!
//! What always holds, checked by [`check::violations`]: live leases never take more than a node has; a port, a worker id
//! and a fencing token have one holder; a server keeps its port while anyone holds it; all that is kept is bounded.

mod ages;
mod allocation;
pub mod check;
mod cluster;
mod command;
mod deadlines;
mod decide;
mod demand;
mod event;
mod fleet;
mod grace;
mod ids;
mod image;
mod job;
mod node;
mod planned;
mod policy;
mod ports;
mod premises;
mod priority;
mod room;
mod servers;
mod table;
mod tagged;
mod text;
mod time;
mod units;
mod view;

pub use allocation::{Allocation, EndReason, Metadata, Phase, Reservation, ServerHold, State, Workers};
pub use cluster::Cluster;
pub use command::{Command, Decision, Denied, DistinctServers, Outcome, Release, Request, Shortage};
pub use demand::{DEMAND_BIN, DEMAND_BINS_MAX, DemandBin, DemandCounter};
pub use event::{EVENT_VERSION, Event, Limits, Recorded};
pub use fleet::{
    AgentEnd, AgentFigures, AgentFilter, AgentLeft, AgentRequest, AgentState, AgentUsage, AgentView, Alarms, Attempt,
    AttemptEnd, AttemptOutcome, BudgetUsage, Capabilities, Complexity, ConservationView, Deferral, DurationsSeen,
    FleetCommand, FleetDenied, FleetFigures, FleetLoad, FleetOutcome, FleetOutline, FleetSettings, FleetSummary,
    HEARTBEATS_MISSED_MAX, Health, HeldTask, JsonText, NoAgent, NothingClaimed, QueueUsage, Registration, Report,
    ReportedResult, Selector, Task, TaskEnd, TaskFilter, TaskLease, TaskLeft, TaskPhase, TaskRequest, TaskSpec,
    TaskState, TaskView, TimePassed, TokenUsage, TokensExpected, TypeUsage, Unserved, UsageView, Waiting,
};
pub use ids::{
    AgentId, AgentType, AllocationId, BatchKey, Capability, FencingToken, JobId, NAME_CHARACTERS_MAX, NodeId, NotAName,
    NotAnAllocationId, RequestId, ServerInstanceId, ServerName, TaskId, TaskNumber, WorkerNumber,
};
pub use image::{AllocationImage, NotAnImage, Outline, Restoration};
pub use planned::{PastScaling, SCALING_REASON_CHARACTERS_MAX, SCALINGS_MAX, Scaling};
pub use policy::{Percent, Policy, PolicyName};
pub use ports::{Port, SERVER_PORT_COUNT, SERVER_PORTS, WORKER_PORT_COUNT, WORKER_PORTS};
pub use premises::{ACTIVATION_SECONDS_MAX, Premises, Sharing};
pub use priority::{NotAPriority, Priority};
pub use time::{Millis, Timestamp, TtlSeconds};
pub use units::{CpuMillis, MemoryMb, Resources, WorkerSize};
pub use view::{AllocationView, CapacityView, DeadlineReason, Demand, Filter, RequestsSeen};
