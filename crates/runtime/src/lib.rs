//! Real processes behind the endpoints, run by one manager for all its sessions.
//!
//! Invariant: a child never outlives the manager. Each is started through a guardian, a process of this same program that
//! ends the child's whole tree when its pipe from the manager closes, however that came about.

#![cfg(unix)]

pub mod bridge;
pub mod catalog;
pub mod child;
mod guardian;
mod host;
mod launch;
mod leases;
pub mod memory_limit;
mod open_files;
mod orders;
pub mod orphans;
mod ports;
pub mod remote;
mod service;
pub mod subcommand;
mod supervisor;
pub mod tree;
mod worker;

pub use host::{Host, HostError, HostOptions, Prepared};
pub use service::{SERVER_GRACE, Timing};
pub use worker::{PoolOptions, Ready, WorkerCommand};
