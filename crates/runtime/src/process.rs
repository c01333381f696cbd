//! The processes of this machine: starts, limits, measures and ends them.
//!
//! [`child`] is the manager's handle on a process. Two hidden subcommands of this program stand between the manager and
//! a child's command: `guardian`, a shim that ends the whole process tree, and `launch`, which sets the limits of its
//! own process and then becomes the command.

pub mod child;
mod guardian;
mod launch;
pub mod memory_limit;
mod open_files;
pub mod orphans;
mod spawn_spec;
pub mod subcommand;
pub mod tree;
