//! The limits of an endpoint, and how the leases that use it share them.

pub(crate) mod connection_permits;
pub(crate) mod fair_share;
pub(crate) mod memory_budget;
