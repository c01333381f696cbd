//! How the memory of a tree is bounded: by a cgroup where one is delegated to the manager, else by a limit on each process,
//! else not at all, which is said.
//!
//! Invariants: where a cgroup is said to enforce a limit, the command runs in it from its first instruction; and a cgroup
//! that turns out not to be ours to divide is left as it was found.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    process, thread,
    time::Duration,
};

use super::tree::Marker;
use cortex_core::units::MemoryMb;

/// Where the second version of cgroups is, if it is the one in use.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The cgroup that the manager itself goes to: one that has cgroups below must have no processes.
const OWN_LEAF: &str = "cortex-manager";

/// What the names of the cgroups of trees begin with.
const TREE_PREFIX: &str = "cortex-tree-";

/// How often removing a cgroup is tried: for a moment the system still counts processes that ended.
const REMOVALS_MAX: u32 = 50;

/// The time between two tries to remove a cgroup.
const REMOVAL_INTERVAL: Duration = Duration::from_millis(10);

const BYTES_OF_A_MB: u64 = 1 << 20;

/// How a limit on memory is enforced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enforced {
    /// On the tree as a whole, by a cgroup of its own.
    Cgroup,
    /// On each process of the tree, on what it could write to (`RLIMIT_DATA`), stacks that it only reserved included.
    Rlimit,
    /// Not at all, and why.
    Not(String),
}

impl fmt::Display for Enforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup => f.write_str("enforced on all its processes together, by a cgroup"),
            Self::Rlimit => f.write_str("enforced on each of its processes, by RLIMIT_DATA"),
            Self::Not(why) => write!(f, "not enforced: {why}"),
        }
    }
}

/// The limit of one tree, as what becomes its command sets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Limit {
    None,
    /// The process goes into this cgroup.
    Cgroup(PathBuf),
    /// The process bounds its own data, and that of all it starts, each by itself.
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
    ///
    /// # Errors
    /// The system refuses it.
    pub(super) fn apply(&self) -> io::Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Cgroup(folder) => fs::write(folder.join("cgroup.procs"), process::id().to_string()),
            Self::Data(memory) => limit_data(*memory),
        }
    }

    /// Kills what is in the cgroup, if there is one and the system can do that.
    pub(super) fn kill(&self) {
        if let Self::Cgroup(folder) = self {
            // Older systems cannot: each process is killed by itself as well.
            let _ = fs::write(folder.join("cgroup.kill"), "1");
        }
    }

    /// Removes the cgroup, if there is one, when its processes are gone. This blocks the thread, for half a second at most.
    pub(super) fn remove(&self) {
        let Self::Cgroup(folder) = self else { return };
        for _ in 0..REMOVALS_MAX {
            match fs::remove_dir(folder) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => thread::sleep(REMOVAL_INTERVAL),
                // One that stays behind is removed at the next start.
                _ => return,
            }
        }
    }
}

#[cfg(target_os = "linux")]
fn limit_data(memory: MemoryMb) -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let bytes = memory.0.saturating_mul(BYTES_OF_A_MB);
    // A limit that this process is under already may be lowered only.
    let bytes = getrlimit(Resource::Data).maximum.map_or(bytes, |most| bytes.min(most));
    Ok(setrlimit(Resource::Data, Rlimit { current: Some(bytes), maximum: Some(bytes) })?)
}

#[cfg(not(target_os = "linux"))]
fn limit_data(_memory: MemoryMb) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Makes the limits of trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryLimiter {
    way: Way,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    /// A cgroup for each tree in this one.
    Cgroup(PathBuf),
    Rlimit,
    Not(String),
}

impl MemoryLimiter {
    /// The best way that this system has. Where a cgroup is delegated to this process, it moves itself into one below.
    #[must_use]
    pub fn detect() -> Self {
        match fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| own_cgroup(Path::new(CGROUPS), &text)) {
            Some(folder) => Self::in_cgroup(&folder),
            None => Self::without_cgroup(),
        }
    }

    /// By cgroups in this one, which has to be that of this process, if it can be divided.
    #[must_use]
    pub fn in_cgroup(folder: &Path) -> Self {
        match divide(folder) {
            Ok(()) => {
                remove_left_behind(folder);
                Self { way: Way::Cgroup(folder.to_owned()) }
            }
            Err(error) => {
                tracing::debug!(%error, folder = %folder.display(), "no cgroup to divide");
                Self::without_cgroup()
            }
        }
    }

    /// By limits of processes, or not at all.
    #[must_use]
    pub fn without_cgroup() -> Self {
        let way = if cfg!(target_os = "linux") {
            Way::Rlimit
        } else {
            Way::Not("this system bounds the memory of no process".to_owned())
        };
        Self { way }
    }

    /// The limit of one tree, and how it is enforced. A cgroup is there when this returns.
    pub(super) fn limit(&self, marker: Marker, memory: MemoryMb) -> (Limit, Enforced) {
        match &self.way {
            Way::Cgroup(folder) => match make_cgroup(folder, marker, memory) {
                Ok(folder) => (Limit::Cgroup(folder), Enforced::Cgroup),
                Err(error) => {
                    tracing::warn!(%error, folder = %folder.display(), "no cgroup can be made: each process is limited");
                    (Limit::Data(memory), Enforced::Rlimit)
                }
            },
            Way::Rlimit => (Limit::Data(memory), Enforced::Rlimit),
            Way::Not(why) => (Limit::None, Enforced::Not(why.clone())),
        }
    }
}

/// The cgroup that is this process's to divide, by what the system says of where it is.
fn own_cgroup(cgroups: &Path, text: &str) -> Option<PathBuf> {
    // Where both versions are in use, memory belongs to the first, and the second lies elsewhere.
    cgroups.join("cgroup.controllers").is_file().then_some(())?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // One outside of what this process can see is not its to divide.
    (!path.split('/').any(|part| part == "..")).then_some(())?;
    let own = cgroups.join(path);
    // A manager that was started by another that had moved down is the other's successor, or beside it.
    let is_leaf = own.file_name().is_some_and(|name| name == OWN_LEAF);
    if is_leaf { own.parent().map(Path::to_owned) } else { Some(own) }
}

/// Makes a cgroup into one that has cgroups below: this process moves down into one.
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
    // It fails if others are in the cgroup too, such as the shell of a session.
    let divided = moved.and_then(|()| fs::write(folder.join("cgroup.subtree_control"), "+memory"));
    if divided.is_err() {
        let _ = fs::write(folder.join("cgroup.procs"), &pid);
        if is_new {
            let _ = fs::remove_dir(&leaf);
        }
    }
    divided
}

/// Removes the cgroups of trees that are gone; those of trees that are not stay, since the system lets none go that is in use.
fn remove_left_behind(folder: &Path) {
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
    // Neither is everywhere. Without the first, what is over the limit goes to the swap, where there is any; without the
    // second, the largest process ends alone, and the others may wait for it in vain.
    let _ = fs::write(folder.join("memory.swap.max"), "0");
    let _ = fs::write(folder.join("memory.oom.group"), "1");
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const MARKER: Marker = Marker { instance: Uuid::nil(), number: 7 };

    /// A folder that looks like a delegated cgroup.
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
        assert_eq!(enforced, Enforced::Cgroup);
        let Limit::Cgroup(tree) = &limit else { panic!("{limit}") };
        assert_eq!(tree.parent(), Some(folder.path()));
        assert_eq!(content(tree.join("memory.max")), "3145728");
        assert_eq!(content(tree.join("memory.swap.max")), "0");
        limit.apply().expect("a folder that can be written");
        assert_eq!(content(tree.join("cgroup.procs")), own);
        // The number is taken: each process is limited instead.
        assert_eq!(limiter.limit(MARKER, MemoryMb(3)), (Limit::Data(MemoryMb(3)), Enforced::Rlimit));
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
