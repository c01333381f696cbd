//! Runs MCP servers and workers as processes behind leases, with one manager for all its sessions.
//!
//! Invariant: a child never outlives the manager. Each child is started through a guardian, a shim process of this
//! program that ends the child's whole process tree when its pipe from the manager closes, even if the manager was
//! killed.

#![cfg(unix)]

pub mod bridge;
mod catalog;
mod host;
mod leases;
mod ports;
pub mod process;
mod remote;
mod service;
mod supervisor;
mod worker;

pub use catalog::CatalogError;
pub use host::{Host, HostError, HostOptions, PreparedHost};
pub use service::{SERVER_GRACE, Timing};
pub use worker::{PoolOptions, Ready, WorkerCommand};
