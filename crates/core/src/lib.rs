//! The lease machine: commands in, events out.
//!
//! It has no clock, no randomness, no I/O, no tasks and no locks, and uses nothing of this crate but itself. Whoever
//! drives it stamps the time, draws the random numbers and keeps the events:
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
//! What always holds, checked by [`check::violations`]: live leases never take more than a node has; a port, a worker id
//! and a fencing token have one holder; a server keeps its port while anyone holds it; all that is kept is bounded.

mod ages;
pub mod allocation;
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
mod room;
pub mod scaling_state;
mod servers;
mod table;
mod tagged;
mod text;
pub mod time;
pub mod units;
pub mod view;

pub use cluster::Cluster;
