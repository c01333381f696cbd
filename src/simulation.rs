//! What would it have done? Reading the traces of arrivals that are lived through in virtual time.

mod trace;

pub use trace::{Row, Rows, TraceError};
