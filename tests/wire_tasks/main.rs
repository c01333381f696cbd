//! The toolset `tasks` over the real binary: what becomes of a task, who may say so, and what is refused.

#![cfg(unix)]

mod bad_input;
mod claims;
mod fleet;
mod life;
mod limits;
mod lists;
#[path = "../support/mod.rs"]
mod support;
mod waiting;
