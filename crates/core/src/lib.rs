//! The lease machine: the pure state machine that decides on every lease.
//!
//! A [`Cluster`] is the whole state: nodes with their capacity, allocations, agents, tasks, token budgets, demand
//! history and scalings. It changes in two steps:
//!
//! 1. [`Cluster::decide`] takes the time and a [`Command`](command::Command), and returns the events that the command
//!    leads to and its [`Outcome`](command::Outcome), or the reason why it is [`Denied`](command::Denied). It changes
//!    nothing.
//! 2. [`Cluster::apply`] changes the state by one [`Event`](event::Event). It never fails for an event that `decide`
//!    returned for this state.
//!
//! Recovery applies the events of the log again with the same `apply`, so there is no second way to change the state.
//! The state can also be written as an [`image`] and restored from it.
//!
//! The crate has no clock, no randomness, no I/O, no async and no locks, and depends on no other crate of this
//! workspace. The caller (the engine) passes the time and the random bits, and keeps the events:
//!
//! ```
//! use cortex_core::Cluster;
//! use cortex_core::command::Command;
//! use cortex_core::event::Recorded;
//! use cortex_core::ids::NodeId;
//! use cortex_core::time::Timestamp;
//! use cortex_core::units::{Resources, CpuMillis, MemoryMb};
//!
//! let mut cluster = Cluster::default();
//! let now = Timestamp::from_millis(0);
//! let capacity = Resources { cpu_millis: CpuMillis::from_millis(16_000), memory_mb: MemoryMb(32_768), workers: 10 };
//! let decision = cluster.decide(now, &Command::SetCapacity { node: NodeId::local(), capacity })?;
//! for event in decision.events {
//!     cluster.apply(&Recorded { at: now, event });
//! }
//! assert_eq!(cluster.capacity(now).total.workers, 10);
//! # Ok::<(), cortex_core::command::Denied>(())
//! ```
//!
//! # The life of an allocation
//!
//! A request that fits is reserved: the allocation is `pending` and holds its capacity, worker ids and ports. Once
//! everything that it needs runs, it is `active`, and its time to live starts. A release, or the deadline, makes it
//! `releasing` and then `released`; a reservation that does not become active in time has `failed`. The holdings are
//! free only after the last event. If nothing has to be started or stopped for a lease (see [`provisioning`]), both
//! events of a step are written in the same batch.
//!
//! A lease past its deadline is expired whether or not a sweep has recorded it. A request that lacks capacity ends such
//! leases, the longest overdue first, but only as many as it needs.
//!
//! # Where to look
//!
//! - [`command`], [`event`] and [`view`] hold the types that go in and come out.
//! - `decide` holds the rules, `availability` the check whether a request fits, and `cluster` the state and `apply`.
//!   `table`, `sequence_index`, `deadlines`, `node`, `servers`, `ports` and `job` are the state's parts.
//! - `grace` extends deadlines after an outage in which nobody could renew.
//! - [`fleet`] holds agents, tasks and token budgets; [`scaling_state`], [`demand`] and [`policy`] are for the planner.
//!
//! # Invariants
//!
//! [`check::violations`] lists those that do not hold; the tests call it after every event.
//!
//! - The live leases of a node never take more than its capacity.
//! - A port, a worker id and a fencing token have at most one holder. An MCP server keeps its port as long as it has a
//!   holder.
//! - Everything that is kept is bounded.
//!
//! Besides, [`event`]s of every version stay readable, and their replay leads to the same state.

pub mod allocation;
mod availability;
pub mod check;
mod cluster;
pub mod command;
mod deadlines;
mod decide;
pub mod demand;
pub mod event;
pub mod fleet;
mod grace;
pub mod ids;
pub mod image;
mod job;
mod node;
pub mod policy;
pub mod ports;
pub mod priority;
pub mod provisioning;
pub mod scaling_state;
mod sequence_index;
mod servers;
mod table;
mod tagged;
mod text;
pub mod time;
pub mod units;
pub mod view;

pub use cluster::Cluster;
