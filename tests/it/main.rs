//! The tests of the program: the real binary, one module for each subject.

#![expect(clippy::too_many_lines, reason = "a case that is a script reads best as a whole")]

#[cfg(unix)]
mod audit;
mod bridge;
#[cfg(target_os = "linux")]
mod children;
mod configuration;
#[cfg(unix)]
mod crashes;
#[cfg(unix)]
mod daemon;
#[cfg(unix)]
mod demo;
mod docs;
#[cfg(unix)]
mod fairness;
#[cfg(unix)]
mod faults;
#[cfg(unix)]
mod linearizability;
#[cfg(unix)]
mod mcp_config;
#[cfg(unix)]
mod misbehaving_server;
#[cfg(unix)]
mod servers;
mod simulate;
mod support;
#[cfg(unix)]
mod wire_bad_input;
#[cfg(unix)]
mod wire_fleet;
#[cfg(unix)]
mod wire_planning;
#[cfg(unix)]
mod wire_resources;
#[cfg(unix)]
mod wire_robustness;
#[cfg(unix)]
mod wire_snapshots;
#[cfg(unix)]
mod wire_tasks;
#[cfg(unix)]
mod wire_tools;
