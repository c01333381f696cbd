//! Utilities that several crates share: file identity, owner locks, atomic file replacement, texts of errors,
//! suggestions for misspelt names, and facts about this program.

pub mod atomic_file;
pub mod error;
pub mod file_id;
pub mod lock;
pub mod program;
pub mod suggest;
