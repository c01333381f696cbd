//! One stdio MCP server, many Streamable HTTP clients.
//!
//! An [`Endpoint`] is a place on a port for clients; the child behind it comes and goes. The bridge is one client to the
//! child and the server to all of its own: it gives each request a number of its own and puts the client's id back on the
//! answer, sends notices to whom they concern, and answers what the child asks. It passes messages on to the letter: what
//! it must change is replaced in their text, and the rest is not read.
//!
//! Invariants: every request gets one answer, unless its client said that it wants none; nobody hears what is another's;
//! and whatever clients and children send, what is kept of it is bounded by named limits.

mod account;
mod activity;
mod answer;
mod base64;
mod call;
mod child;
mod connections;
mod endpoint;
mod exchange;
mod farewell;
mod flow;
mod gate;
mod guard;
mod handshake;
mod http;
mod interest;
mod level;
mod link;
mod mailbox;
mod message;
mod places;
mod post;
mod receive;
mod reply;
mod request;
mod session;
mod share;
mod shared;
mod stateless;
mod ticket;
mod usage;
mod version;
mod waiting;

pub use child::Garbage;
pub use endpoint::{Endpoint, EndpointOptions};
pub use exchange::ChildState;
pub use gate::{Gate, Refused};
pub use link::Link;
pub use usage::Usage;
