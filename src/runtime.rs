//! Real servers and workers behind the endpoints.

pub mod catalog;
pub mod remote;
