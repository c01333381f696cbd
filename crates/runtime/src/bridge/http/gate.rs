//! Who may use an endpoint.

use futures_util::future::BoxFuture;

use cortex_core::ids::AllocationId;

/// Decides on every request, before its body is read.
pub trait Gate: Send + Sync {
    /// Whose request this is, by its bearer token; nobody's, where no token is asked for.
    fn admit<'a>(&'a self, bearer: Option<&'a str>) -> BoxFuture<'a, Result<Option<AllocationId>, Refused>>;
}

/// Why a request is not admitted, in words for its sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub String);
