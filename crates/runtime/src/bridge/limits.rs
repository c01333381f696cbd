//! The limits of an endpoint, and how the leases that use it share them.

pub(crate) mod account;
pub(crate) mod places;
pub(crate) mod share;
