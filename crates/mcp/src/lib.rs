//! The MCP server: transport, tools and resources.
//!
//! Arguments become commands of the core, and its replies become typed results. Nothing here decides anything.

mod arguments;
mod notices;
mod progress;
mod resources;
mod results;
mod server;
mod tools;
pub mod transport;
mod wait;

pub use resources::PlannerFeed;
pub use server::{Server, ServerOptions};
