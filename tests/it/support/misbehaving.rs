//! The path of the misbehaving server: cargo puts examples next to the binary.

use std::{
    env,
    path::{Path, PathBuf},
};

/// Returns the path of `examples/misbehaving_server`. Cargo builds it with all tests, but not with a single test
/// binary.
pub(crate) fn misbehaving_server() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_cortex-resource-manager")).parent().expect("a folder");
    let path = folder.join("examples/misbehaving_server").with_extension(env::consts::EXE_EXTENSION);
    assert!(path.is_file(), "{} is missing: run cargo build --example misbehaving_server", path.display());
    path
}
