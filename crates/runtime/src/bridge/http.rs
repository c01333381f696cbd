//! The HTTP side of an endpoint: connections, requests, responses, the origin check, authentication and event streams.

mod accepted;
mod activity;
pub(crate) mod auth;
mod caller;
mod connections;
mod http_response;
mod lingering_close;
mod origin_check;
mod post;
mod request_body;
mod respond;
mod response_stream;
mod router;
mod session_requests;
mod stateless;
