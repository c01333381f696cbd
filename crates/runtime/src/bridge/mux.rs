//! The multiplexer of an endpoint: calls, sessions and subscriptions of many clients on the pipes of one child.

pub(crate) mod answer;
pub(crate) mod call;
mod calls;
pub(crate) mod child;
mod child_response;
mod connect;
pub(crate) mod exchange;
mod handshake;
mod interest;
pub(crate) mod level;
pub(crate) mod link;
pub(crate) mod mailbox;
pub(crate) mod message;
mod receive;
pub(crate) mod request;
pub(crate) mod session;
pub(crate) mod ticket;
pub(crate) mod usage;
pub(crate) mod version;
mod waiting;
