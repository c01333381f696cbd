//! The process. It does not serve yet.

fn main() {}
