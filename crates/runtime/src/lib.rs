//! Real processes behind the endpoints, run by one manager for all its sessions.
//!
//! Invariant: a child never outlives the manager. Each is started through a guardian, a process of this same program that
//! ends the child's whole tree when its pipe from the manager closes, however that came about.

#![cfg(unix)]

pub mod bridge;
pub mod catalog;
mod host;
mod leases;
mod ports;
pub mod process;
pub mod remote;
mod service;
mod supervisor;
mod worker;

pub use host::{Host, HostError, HostOptions, Prepared};
pub use service::{SERVER_GRACE, Timing};
pub use worker::{PoolOptions, Ready, WorkerCommand};
