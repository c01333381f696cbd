//! An MCP server that leases workers, CPU, memory and shared MCP servers to the jobs of AI agents.

pub mod app;
pub mod audit;
pub mod cli;
pub mod config;
pub mod core;
#[cfg(unix)]
pub mod daemon;
pub mod engine;
pub mod file_id;
pub mod journal;
mod lines;
pub mod lock;
pub mod loops;
pub mod managed;
pub mod mcp;
mod nearest;
pub mod planning;
#[cfg(unix)]
mod program;
#[cfg(unix)]
pub mod runtime;
pub mod serving;
pub mod simulation;
pub mod telemetry;
mod whole_file;
