//! The toolset `tasks` of the real binary: the states of a task, who may change them, and what is refused.

mod bad_input;
mod claims;
mod fleet;
mod life;
mod limits;
mod lists;
mod waiting;
