//! The face towards MCP clients: transport, tools, resources.

pub mod transport;
