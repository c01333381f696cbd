//! Starts, bounds, measures and ends the processes of this machine.
//!
//! `child` is the handle that the manager has on a process. Between the two stands this same program in two hidden
//! subcommands: `guardian`, the shim that ends the whole tree of a child, and `launch`, which sets the child's limits and
//! then becomes its command.

pub mod child;
mod guardian;
mod launch;
pub mod memory_limit;
mod open_files;
mod orders;
pub mod orphans;
pub mod subcommand;
pub mod tree;
