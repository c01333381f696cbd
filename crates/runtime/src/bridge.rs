//! Serves one stdio MCP server, a child process, to many Streamable HTTP clients.
//!
//! An [`Endpoint`] listens on a port and outlives the children that it connects to. The bridge is the only client of
//! the child, and the server of all HTTP clients. It replaces the id of each request with a number of its own, restores
//! the client's id in the response, routes notifications to the clients that subscribed, and answers the child's own
//! requests. Messages pass through byte for byte, except for the parts that the bridge must replace.
//!
//! - `http`: connections, requests and responses, the origin check, authentication, event streams;
//! - `mux`: calls, sessions and subscriptions of all clients on the pipes of one child;
//! - `limits`: fair shares of connections, calls and memory.
//!
//! Invariants: every request gets exactly one response, unless its client cancels it; no client receives a message that
//! belongs to another; and everything that is kept of what clients and children send has a named limit.

mod endpoint;
mod http;
mod limits;
mod mux;

pub use endpoint::{Endpoint, EndpointOptions};
pub use http::auth::{AuthError, Authenticator};
pub use mux::{
    connected_child::InvalidOutputHandler,
    handshake::HandshakeError,
    link::{Link, LinkError},
    multiplexer::ChildState,
    usage::Usage,
};
