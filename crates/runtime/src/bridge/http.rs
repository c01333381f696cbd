//! The HTTP side of an endpoint: connections, requests, responses, the origin check, authentication and event streams.

mod activity;
mod base64;
mod connections;
mod farewell;
mod flow;
pub(crate) mod gate;
mod guard;
mod handler;
mod post;
mod reply;
mod shared;
mod stateless;
