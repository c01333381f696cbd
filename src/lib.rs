//! An MCP server that leases workers, CPU, memory and shared MCP servers to the jobs of AI agents.

pub mod cli;
pub mod config;
pub mod core;
pub mod mcp;
pub mod telemetry;
