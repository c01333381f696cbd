//! Where the server that misbehaves on command is: cargo puts examples beside the binary.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The path of `examples/misbehaving_server`. It is built whenever all tests are; a single test binary is built without it.
pub(crate) fn misbehaving_server() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_cortex-resource-manager")).parent().expect("a folder");
    let path = folder.join("examples/misbehaving_server").with_extension(env::consts::EXE_EXTENSION);
    assert!(path.is_file(), "{} is missing: run cargo build --example misbehaving_server", path.display());
    path
}
