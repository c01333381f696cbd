//! Memory limits of process trees: by a cgroup where one is delegated to the manager, else by a limit on each process,
//! else not enforced, which is reported.
//!
//! Invariants: where a cgroup enforces a limit, the command runs in it from its first instruction; and a cgroup that
//! cannot be divided is left as it was found.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    process, thread,
    time::Duration,
};

use super::tree::Marker;
use cortex_core::units::MemoryMb;

/// The mount point of cgroups v2.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The cgroup that the manager moves itself into: a cgroup with controlled cgroups below must not have processes of its
/// own.
const OWN_LEAF: &str = "cortex-manager";

/// The prefix of the names of the cgroups of process trees.
const TREE_PREFIX: &str = "cortex-tree-";

/// The most tries to remove a cgroup: for a moment the system still counts processes that have ended.
const REMOVALS_MAX: u32 = 50;

/// The time between two tries to remove a cgroup.
const REMOVAL_INTERVAL: Duration = Duration::from_millis(10);

const BYTES_OF_A_MB: u64 = 1 << 20;

/// How a memory limit is enforced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enforcement {
    /// On all processes of the tree together, by a cgroup.
    Cgroup,
    /// On each process of the tree, by `RLIMIT_DATA`: writable memory, including stacks that are only reserved.
    Rlimit,
    /// Not enforced, for this reason.
    Unenforced(String),
}

impl fmt::Display for Enforcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup => f.write_str("enforced on all its processes together, by a cgroup"),
            Self::Rlimit => f.write_str("enforced on each of its processes, by RLIMIT_DATA"),
            Self::Unenforced(why) => write!(f, "not enforced: {why}"),
        }
    }
}

/// The limit of one process tree, which the child sets before it becomes its command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Limit {
    None,
    /// The process moves itself into this cgroup.
    Cgroup(PathBuf),
    /// The process limits its own data. All that it starts inherits the limit, each process for itself.
    Data(MemoryMb),
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no limit"),
            Self::Cgroup(folder) => write!(f, "the limit of the cgroup {}", folder.display()),
            Self::Data(memory) => write!(f, "the limit of {memory} MB"),
        }
    }
}

impl Limit {
    /// Puts this process under the limit.
    pub(super) fn apply(&self) -> io::Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Cgroup(folder) => fs::write(folder.join("cgroup.procs"), process::id().to_string()),
            Self::Data(memory) => limit_data(*memory),
        }
    }

    /// Kills all processes in the cgroup, if there is one and the system supports it.
    pub(super) fn kill(&self) {
        if let Self::Cgroup(folder) = self {
            // Older systems do not support it: the caller kills each process as well.
            let _ = fs::write(folder.join("cgroup.kill"), "1");
        }
    }

    /// Removes the cgroup, if there is one, after its processes have ended. Blocks the thread for up to half a second.
    pub(super) fn remove(&self) {
        let Self::Cgroup(folder) = self else { return };
        for _ in 0..REMOVALS_MAX {
            match fs::remove_dir(folder) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => thread::sleep(REMOVAL_INTERVAL),
                // A cgroup that is left behind is removed at the next start.
                _ => return,
            }
        }
    }
}

#[cfg(target_os = "linux")]
fn limit_data(memory: MemoryMb) -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let bytes = memory.0.saturating_mul(BYTES_OF_A_MB);
    // A limit that applies already can only be lowered.
    let bytes = getrlimit(Resource::Data).maximum.map_or(bytes, |most| bytes.min(most));
    Ok(setrlimit(Resource::Data, Rlimit { current: Some(bytes), maximum: Some(bytes) })?)
}

#[cfg(not(target_os = "linux"))]
fn limit_data(_memory: MemoryMb) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Creates the memory limits of process trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryLimiter {
    method: Method,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Method {
    /// A cgroup for each process tree, below this one.
    Cgroup(PathBuf),
    Rlimit,
    /// No limit, for this reason.
    None(String),
}

impl MemoryLimiter {
    /// Selects the best method of this system. If a cgroup is delegated to this process, moves this process into one
    /// below it.
    #[must_use]
    pub fn detect() -> Self {
        match fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| own_cgroup(Path::new(CGROUPS), &text)) {
            Some(folder) => Self::in_cgroup(&folder),
            None => Self::without_cgroup(),
        }
    }

    /// Uses cgroups below `folder`, which must be the cgroup of this process, or limits of processes if it cannot be
    /// divided.
    #[must_use]
    pub fn in_cgroup(folder: &Path) -> Self {
        match divide(folder) {
            Ok(()) => {
                remove_unused(folder);
                Self { method: Method::Cgroup(folder.to_owned()) }
            }
            Err(error) => {
                tracing::debug!(%error, folder = %folder.display(), "cgroup could not be divided");
                Self::without_cgroup()
            }
        }
    }

    /// Uses limits of processes, or none on systems without them.
    #[must_use]
    pub fn without_cgroup() -> Self {
        let method = if cfg!(target_os = "linux") {
            Method::Rlimit
        } else {
            Method::None("this system cannot limit the memory of processes".to_owned())
        };
        Self { method }
    }

    /// Returns the limit of one process tree, and how it is enforced. Creates its cgroup, if that is the method.
    pub(super) fn limit(&self, marker: Marker, memory: MemoryMb) -> (Limit, Enforcement) {
        match &self.method {
            Method::Cgroup(folder) => match make_cgroup(folder, marker, memory) {
                Ok(folder) => (Limit::Cgroup(folder), Enforcement::Cgroup),
                Err(error) => {
                    let folder = folder.display();
                    tracing::warn!(%error, %folder, "cgroup could not be created: limiting each process instead");
                    (Limit::Data(memory), Enforcement::Rlimit)
                }
            },
            Method::Rlimit => (Limit::Data(memory), Enforcement::Rlimit),
            Method::None(why) => (Limit::None, Enforcement::Unenforced(why.clone())),
        }
    }
}

/// Returns the cgroup that this process may divide. `text` is that of `/proc/self/cgroup`.
fn own_cgroup(cgroups: &Path, text: &str) -> Option<PathBuf> {
    // Where both versions are in use, v1 controls memory, and v2 is mounted at another path.
    cgroups.join("cgroup.controllers").is_file().then_some(())?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // A cgroup outside of this process's namespace is not its own to divide.
    (!path.split('/').any(|part| part == "..")).then_some(())?;
    let own = cgroups.join(path);
    // A manager that another manager started begins in that one's leaf, and divides the same parent.
    let is_leaf = own.file_name().is_some_and(|name| name == OWN_LEAF);
    if is_leaf { own.parent().map(Path::to_owned) } else { Some(own) }
}

/// Enables the memory controller for cgroups below `folder`, after moving this process into one of them.
fn divide(folder: &Path) -> io::Result<()> {
    let controllers = fs::read_to_string(folder.join("cgroup.controllers"))?;
    if !controllers.split_whitespace().any(|controller| controller == "memory") {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "memory is not delegated"));
    }
    let leaf = folder.join(OWN_LEAF);
    let is_new = match fs::create_dir(&leaf) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error),
    };
    let pid = process::id().to_string();
    let moved = fs::write(leaf.join("cgroup.procs"), &pid);
    // Fails if the cgroup has other processes too, such as the shell of a session.
    let divided = moved.and_then(|()| fs::write(folder.join("cgroup.subtree_control"), "+memory"));
    if divided.is_err() {
        let _ = fs::write(folder.join("cgroup.procs"), &pid);
        if is_new {
            let _ = fs::remove_dir(&leaf);
        }
    }
    divided
}

/// Removes the cgroups of process trees that have ended. The system refuses to remove those that still have processes.
fn remove_unused(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(TREE_PREFIX) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn make_cgroup(parent: &Path, marker: Marker, memory: MemoryMb) -> io::Result<PathBuf> {
    let folder = parent.join(format!("{TREE_PREFIX}{}-{}", marker.instance, marker.number));
    fs::create_dir(&folder)?;
    let bytes = memory.0.saturating_mul(BYTES_OF_A_MB).to_string();
    if let Err(error) = fs::write(folder.join("memory.max"), bytes) {
        let _ = fs::remove_dir(&folder);
        return Err(error);
    }
    // Not every system has these files. Without the first, memory over the limit is swapped out where there is swap.
    // Without the second, only the largest process is killed, and the others may wait for it forever.
    let _ = fs::write(folder.join("memory.swap.max"), "0");
    let _ = fs::write(folder.join("memory.oom.group"), "1");
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const MARKER: Marker = Marker { instance: Uuid::nil(), number: 7 };

    /// Returns a folder that looks like a delegated cgroup.
    fn cgroup(controllers: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("cgroup.controllers"), controllers).expect("a file");
        folder
    }

    fn content(file: impl AsRef<Path>) -> String {
        fs::read_to_string(file).expect("a file")
    }

    #[test]
    fn a_delegated_cgroup_is_divided() {
        let folder = cgroup("cpu memory pids\n");
        let left_behind = folder.path().join(format!("{TREE_PREFIX}old"));
        fs::create_dir(&left_behind).expect("a folder");
        let limiter = MemoryLimiter::in_cgroup(folder.path());
        assert!(!left_behind.exists());
        assert_eq!(content(folder.path().join("cgroup.subtree_control")), "+memory");
        let own = process::id().to_string();
        assert_eq!(content(folder.path().join(OWN_LEAF).join("cgroup.procs")), own);

        let (limit, enforced) = limiter.limit(MARKER, MemoryMb(3));
        assert_eq!(enforced, Enforcement::Cgroup);
        let Limit::Cgroup(tree) = &limit else { panic!("{limit}") };
        assert_eq!(tree.parent(), Some(folder.path()));
        assert_eq!(content(tree.join("memory.max")), "3145728");
        assert_eq!(content(tree.join("memory.swap.max")), "0");
        limit.apply().expect("a folder that can be written");
        assert_eq!(content(tree.join("cgroup.procs")), own);
        // The cgroup of that number exists already: each process is limited instead.
        assert_eq!(limiter.limit(MARKER, MemoryMb(3)), (Limit::Data(MemoryMb(3)), Enforcement::Rlimit));
    }

    #[test]
    fn a_cgroup_without_memory_is_left_alone() {
        let folder = cgroup("cpu pids\n");
        assert_eq!(MemoryLimiter::in_cgroup(folder.path()), MemoryLimiter::without_cgroup());
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }

    #[test]
    fn a_cgroup_that_cannot_be_divided_is_left_as_it_was() {
        let folder = cgroup("memory\n");
        // A folder of that name cannot be written to, as a cgroup with other processes.
        fs::create_dir(folder.path().join("cgroup.subtree_control")).expect("a folder");
        assert_eq!(MemoryLimiter::in_cgroup(folder.path()), MemoryLimiter::without_cgroup());
        assert_eq!(content(folder.path().join("cgroup.procs")), process::id().to_string());
    }

    #[test]
    fn the_own_cgroup_is_found() {
        let folder = cgroup("memory\n");
        let own = |text| own_cgroup(folder.path(), text);
        assert_eq!(own("0::/\n"), Some(folder.path().to_owned()));
        assert_eq!(own("1:name=systemd:/x\n0::/a/b.service\n"), Some(folder.path().join("a/b.service")));
        assert_eq!(own("0::/a/cortex-manager\n"), Some(folder.path().join("a")));
        assert_eq!(own("4:memory:/a\n"), None);
        assert_eq!(own("0::/../../a\n"), None);
        assert_eq!(own_cgroup(Path::new("/nowhere"), "0::/\n"), None);
    }

    #[test]
    fn an_empty_cgroup_is_removed() {
        let folder = cgroup("memory\n");
        let tree = folder.path().join("tree");
        fs::create_dir(&tree).expect("a folder");
        Limit::Cgroup(tree.clone()).remove();
        assert!(!tree.exists());
        Limit::Cgroup(tree).remove();
    }
}
