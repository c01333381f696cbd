//! What several crates need and none owns: which file is which, who owns a file, files replaced as a whole, misspelt names,
//! and this program itself.

pub mod atomic_file;
pub mod file_id;
pub mod lock;
pub mod program;
pub mod suggest;
