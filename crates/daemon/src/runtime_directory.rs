//! The runtime directory, which contains the files of daemons, and which only its user can access.
//!
//! Invariant: no file is read from or written to a directory that another user owns or can access.

use cortex_util::program;
use std::{
    env,
    ffi::OsStr,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use cortex_journal::lock_path;
use cortex_serving::{StartupError, state_path};

/// The maximum length of a socket's path, in bytes. Systems allow 103 to 107.
const SOCKET_PATH_BYTES_MAX: usize = 100;

/// The maximum length of the part of a key that comes from the state's file name, in characters.
const NAME_CHARACTERS_MAX: usize = 24;

/// The key of the in-memory state.
const MEMORY_KEY: &str = "memory";

const DIRECTORY_NAME: &str = program::NAME;

/// The mode of the directory: only its user has access.
const DIRECTORY_MODE: u32 = 0o700;

/// The files of one daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DaemonFiles {
    /// The canonical path of the state; `None` for the in-memory state.
    pub(super) state: Option<PathBuf>,
    /// The socket for sessions.
    pub(super) socket: PathBuf,
    /// The record of the daemon process.
    pub(super) record: PathBuf,
    /// The lock that the owner of the state holds.
    pub(super) lock: PathBuf,
    pub(super) log: PathBuf,
}

impl DaemonFiles {
    /// Returns the files of the daemon for this state, or for the in-memory state. Creates the directory if it is
    /// missing.
    pub(super) fn of(state: Option<&Path>) -> Result<Self, StartupError> {
        let variable = |name: &str| env::var_os(name).map(PathBuf::from);
        let directory = locate(variable("XDG_RUNTIME_DIR"), Path::new("/run/user"), &env::temp_dir());
        prepare(&directory)?;
        Self::within(&directory, state)
    }

    fn within(directory: &Path, state: Option<&Path>) -> Result<Self, StartupError> {
        let state = state.map(state_path).transpose()?;
        let key = state.as_deref().map_or_else(|| MEMORY_KEY.to_owned(), key);
        let file = |ending: &str| directory.join(format!("{key}.{ending}"));
        let socket = file("sock");
        let bytes = socket.as_os_str().len();
        if bytes > SOCKET_PATH_BYTES_MAX {
            return Err(StartupError::new(format!(
                "the path of the daemon's socket, {}, is {bytes} bytes long, and the maximum is \
                 {SOCKET_PATH_BYTES_MAX}: \
                 set XDG_RUNTIME_DIR to a directory with a shorter path",
                socket.display()
            )));
        }
        let lock = state.as_deref().map_or_else(|| file("lock"), lock_path);
        Ok(Self { state, socket, record: file("json"), lock, log: file("log") })
    }
}

/// Returns the user id of this process.
pub(super) fn own_user() -> u32 {
    rustix::process::getuid().as_raw()
}

/// Returns the path of the directory. A relative `XDG_RUNTIME_DIR` is ignored, as its specification demands.
fn locate(runtime: Option<PathBuf>, users: &Path, temporary: &Path) -> PathBuf {
    if let Some(runtime) = runtime.filter(|path| path.is_absolute()) {
        return runtime.join(DIRECTORY_NAME);
    }
    let user = own_user();
    let of_user = users.join(user.to_string());
    if of_user.is_dir() {
        return of_user.join(DIRECTORY_NAME);
    }
    temporary.join(format!("{DIRECTORY_NAME}-{user}"))
}

/// Creates the directory, or checks that the existing one is private.
pub(super) fn prepare(directory: &Path) -> Result<(), StartupError> {
    let shown = directory.display();
    match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => {
            return Err(StartupError::new(format!(
                "failed to create the runtime directory {shown} ({error}): set XDG_RUNTIME_DIR to a directory \
                 of your own"
            )));
        }
    }
    let metadata = fs::symlink_metadata(directory)
        .map_err(|error| StartupError::new(format!("failed to inspect the runtime directory {shown} ({error})")))?;
    if !metadata.is_dir() {
        return Err(StartupError::new(format!(
            "{shown} is not a directory: move it, so that the directory can be created"
        )));
    }
    let (owner, user) = (metadata.uid(), own_user());
    if owner != user {
        return Err(StartupError::new(format!(
            "the runtime directory {shown} belongs to user {owner}, not to you, user {user}: set XDG_RUNTIME_DIR to a \
             directory of your own"
        )));
    }
    let mode = metadata.mode() & 0o777;
    if mode & !DIRECTORY_MODE != 0 {
        return Err(StartupError::new(format!(
            "the runtime directory {shown} is accessible to others (mode {mode:04o}): run chmod 700 on it, or remove it"
        )));
    }
    Ok(())
}

/// Returns a unique name for a state: the start of its file name, for readability, and a hash of its path.
fn key(state: &Path) -> String {
    let name = state.file_name().unwrap_or(OsStr::new("state")).to_string_lossy();
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '_' };
    let name: String = name.chars().take(NAME_CHARACTERS_MAX).map(plain).collect();
    format!("{name}-{:016x}", hash(state.as_os_str().as_encoded_bytes()))
}

/// Computes the 64-bit FNV-1a hash. It has to be the same in each version of this program, and is not cryptographic.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn the_directory_is_the_sessions_or_the_users_or_a_temporary_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let users = folder.path().join("users");
        let temporary = folder.path().join("tmp");
        let at = |runtime: Option<&str>| locate(runtime.map(PathBuf::from), &users, &temporary);
        let user = own_user();
        assert_eq!(at(Some("/run/x")), Path::new("/run/x").join(DIRECTORY_NAME));
        for none in [None, Some(""), Some("relative")] {
            assert_eq!(at(none), temporary.join(format!("{DIRECTORY_NAME}-{user}")));
        }
        fs::create_dir_all(users.join(user.to_string())).expect("a folder");
        assert_eq!(at(None), users.join(user.to_string()).join(DIRECTORY_NAME));
    }

    #[test]
    fn only_a_private_directory_is_used() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("private");
        prepare(&directory).expect("a directory that is created");
        assert_eq!(fs::metadata(&directory).expect("a directory").mode() & 0o777, DIRECTORY_MODE);
        prepare(&directory).expect("a directory that is there");
        let refused = |directory: &Path, expected: &str| {
            let text = prepare(directory).expect_err("it is refused").to_string();
            assert!(text.contains(expected), "{text}");
        };
        for mode in [0o755, 0o710, 0o701] {
            fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).expect("a change of mode");
            refused(&directory, &format!("(mode {mode:04o}): run chmod 700"));
        }
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).expect("a change of mode");
        let link = folder.path().join("link");
        symlink(&directory, &link).expect("a link");
        refused(&link, "is not a directory");
        refused(&folder.path().join("missing").join("x"), "failed to create");
    }

    #[test]
    fn each_state_has_its_own_files_whatever_path_names_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let base = folder.path().canonicalize().expect("a folder");
        let directory = Path::new("/run/x");
        let memory = DaemonFiles::within(directory, None).expect("the files");
        assert_eq!((memory.socket, memory.lock), ("/run/x/memory.sock".into(), "/run/x/memory.lock".into()));

        let files_of = |path: &Path| DaemonFiles::within(directory, Some(path)).expect("the files");
        let one = files_of(&base.join("one ö.db"));
        assert_eq!(one.lock, base.join("one ö.db.lock"));
        assert_eq!(one.state, Some(base.join("one ö.db")));
        let name = one.record.file_name().and_then(OsStr::to_str).expect("a name").to_owned();
        assert!(name.starts_with("one__.db-") && name.ends_with(".json"), "{name}");
        assert_ne!(one.socket, files_of(&base.join("two.db")).socket);
        fs::create_dir(base.join("folder")).expect("a folder");
        symlink(&base, base.join("folder").join("back")).expect("a link");
        assert_eq!(one, files_of(&base.join("folder/../folder/back/one ö.db")));

        let text = DaemonFiles::within(directory, Some(&base.join("missing/x.db"))).expect_err("no folder").to_string();
        assert!(text.contains("create it first"), "{text}");
        let deep = Path::new("/run").join("x".repeat(SOCKET_PATH_BYTES_MAX));
        let text = DaemonFiles::within(&deep, None).expect_err("too long").to_string();
        assert!(text.contains("117 bytes long") && text.contains("XDG_RUNTIME_DIR"), "{text}");
    }
}
