//! One stdio MCP server, many Streamable HTTP clients.
//!
//! An [`Endpoint`] is a place on a port for clients; the child behind it comes and goes. The bridge is one client to the
//! child and the server to all of its own: it gives each request a number of its own and puts the client's id back on the
//! answer, sends notices to whom they concern, and answers what the child asks. It passes messages on to the letter: what
//! it must change is replaced in their text, and the rest is not read.
//!
//! Invariants: every request gets one answer, unless its client said that it wants none; nobody hears what is another's;
//! and whatever clients and children send, what is kept of it is bounded by named limits.

mod endpoint;
mod http;
mod limits;
mod mux;

pub use endpoint::{Endpoint, EndpointOptions};
pub use http::auth::{AuthError, Authenticator};
pub use mux::{connected_child::InvalidOutputHandler, link::Link, multiplexer::ChildState, usage::Usage};
