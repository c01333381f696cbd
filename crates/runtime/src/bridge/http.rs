//! The HTTP side of an endpoint: connections, requests, responses, the origin check, authentication and event streams.

mod accepted;
mod activity;
pub(crate) mod auth;
mod caller;
mod connections;
mod handler;
mod http_response;
mod lingering_close;
mod origin_check;
mod post;
mod respond;
mod response_stream;
mod session_requests;
mod stateless;
