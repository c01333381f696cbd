//! Who may use an endpoint.

use futures_util::future::BoxFuture;
use hyper::{HeaderMap, header::AUTHORIZATION};

use cortex_core::ids::AllocationId;

/// Decides on every request, before its body is read.
pub trait Authenticator: Send + Sync {
    /// Whose request this is, by its bearer token; nobody's, where no token is asked for.
    fn authenticate<'a>(&'a self, bearer: Option<&'a str>) -> BoxFuture<'a, Result<Option<AllocationId>, AuthError>>;
}

/// Why a request is not admitted, in words for its sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthError(pub String);

/// The bearer token of a request.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
