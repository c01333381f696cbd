//! The multiplexer of an endpoint: calls, sessions and subscriptions of many clients on the pipes of one child.

pub(crate) mod call;
pub(crate) mod call_handle;
mod calls;
mod child_response;
pub(crate) mod client_request;
mod connect;
pub(crate) mod connected_child;
pub(crate) mod handshake;
pub(crate) mod link;
pub(crate) mod log_level;
pub(crate) mod mailbox;
pub(crate) mod message;
pub(crate) mod multiplexer;
pub(crate) mod protocol;
mod receive;
pub(crate) mod rpc_response;
pub(crate) mod session;
mod subscriptions;
pub(crate) mod usage;
mod wait_queue;
