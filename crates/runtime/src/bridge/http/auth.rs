//! Authentication of the clients of an endpoint.

use axum::http::{HeaderMap, header::AUTHORIZATION};
use futures_util::future::BoxFuture;

use cortex_core::ids::AllocationId;

/// Authenticates every request before its body is read.
pub trait Authenticator: Send + Sync {
    /// Returns the allocation that the bearer token belongs to, or `None` if the endpoint does not require a token.
    ///
    /// # Errors
    /// The token is missing, unknown, or its lease has ended.
    fn authenticate<'a>(&'a self, bearer: Option<&'a str>) -> BoxFuture<'a, Result<Option<AllocationId>, AuthError>>;
}

/// Why a request was not authenticated: the error text for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthError(pub String);

/// Returns the bearer token of a request. A repeated `Authorization` header counts as none.
pub(crate) fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
