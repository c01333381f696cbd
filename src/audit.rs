//! Inspection of a state while its owner continues: description, events as JSON lines, and verification.

#[cfg(unix)]
mod description;
mod events;
mod verify;

#[cfg(unix)]
pub(crate) use description::describe;
pub(crate) use events::{EventFilter, print_events};
pub(crate) use verify::verify;
