//! The toolset `tasks` over the real binary: what becomes of a task, who may say so, and what is refused.

mod bad_input;
mod claims;
mod fleet;
mod life;
mod limits;
mod lists;
mod waiting;
