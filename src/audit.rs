//! Looking at a state from outside, while whoever owns it goes on: its events as lines, and whether it is sound.

mod description;
mod events;
mod verify;

pub(crate) use description::describe;
pub(crate) use events::{EventFilter, print_events};
pub(crate) use verify::verify;
