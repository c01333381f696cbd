//! The HTTP side of an endpoint: connections, requests, responses, the origin check, authentication and event streams.

mod accepted;
mod activity;
mod base64;
mod caller;
mod connections;
mod farewell;
mod flow;
pub(crate) mod gate;
mod guard;
mod handler;
mod post;
mod reply;
mod respond;
mod shared;
mod stateless;
