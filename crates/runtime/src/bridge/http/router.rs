//! The routes of an endpoint.

use axum::{
    Router,
    http::StatusCode,
    response::Response,
    routing::{MethodRouter, head},
};

use super::{caller::Caller, connections::Connection, http_response, post};

pub(crate) fn router() -> Router<Connection> {
    let methods: MethodRouter<Connection> = head(method_not_allowed)
        .get(async |caller: Caller| caller.listen())
        .delete(async |caller: Caller| caller.end_session())
        .post(post::handle)
        .fallback(method_not_allowed);
    Router::new()
        .route("/", methods.clone())
        .route("/mcp", methods)
        .fallback(async || http_response::error(StatusCode::NOT_FOUND, "not found: the server is at / and /mcp"))
}

async fn method_not_allowed() -> Response {
    http_response::method_not_allowed("POST, GET, DELETE", "the method must be POST, GET or DELETE")
}
