//! Process trees: finds, ends and measures all processes of a child.
//!
//! A tree consists of the descendants of its guardian and of the processes that have its marker in their environment,
//! which also finds those that detached from their parents. Invariants: a signal is sent to a process only right after
//! checking that it is the one that was found, and not another with the same pid; and never to this process itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io, process, thread,
    time::{Duration, Instant},
};

use rustix::{io::Errno, process::Signal};
use sysinfo::{Pid, Process, ProcessRefreshKind, ProcessStatus, ProcessesToUpdate, System, UpdateKind};
use uuid::Uuid;

use cortex_core::units::MemoryMb;

/// The variable that marks the processes of a tree.
pub const MARKER_VARIABLE: &str = "CORTEX_PROCESS_TREE";

/// The time between two checks whether a tree has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How long to wait for a tree after killing it. Some processes cannot be killed, such as those in an uninterruptible
/// read.
const KILLED_WAIT_MAX: Duration = Duration::from_secs(3);

const BYTES_OF_A_MB: u64 = 1 << 20;

/// The marker of the processes of one tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    /// The manager that started them. Each run of the program has its own id.
    pub instance: Uuid,
    /// The tree's sequence number, unique within the instance.
    pub number: u64,
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.instance, self.number)
    }
}

/// Selects processes by their markers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum MarkerFilter {
    /// This marker.
    Exact(String),
    /// Any marker of the instance.
    Instance(Uuid),
}

impl MarkerFilter {
    fn matches(&self, process: &Process) -> bool {
        process.environ().iter().any(|variable| {
            let value = variable.to_str().and_then(|text| text.strip_prefix(MARKER_VARIABLE)?.strip_prefix('='));
            value.is_some_and(|value| match self {
                Self::Exact(marker) => value == marker,
                Self::Instance(instance) => {
                    value.split_once('/').is_some_and(|(uuid, _)| uuid.parse::<Uuid>().as_ref() == Ok(instance))
                }
            })
        })
    }
}

/// The processes of one or more trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessTree {
    /// The process whose descendants belong to the tree. It does not itself.
    root: Option<u32>,
    marker: Option<MarkerFilter>,
}

/// What the processes of a tree use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TreeUsage {
    /// The sum of their resident memory. Shared pages count for each process.
    pub memory: MemoryMb,
    /// The number of processes.
    pub processes: usize,
}

/// The result of ending a tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TreeEnd {
    /// The number of processes found.
    pub found: usize,
    /// The number of processes that could not be killed.
    pub left: usize,
}

/// A process of a tree. The start time tells it from a later process with the same pid.
struct Member {
    pid: Pid,
    started_at: u64,
    memory_bytes: u64,
}

impl ProcessTree {
    /// Selects the descendants of a process, without the process itself.
    #[must_use]
    pub fn below(root: u32) -> Self {
        Self { root: Some(root), marker: None }
    }

    /// Selects the processes with this marker.
    #[must_use]
    pub fn marked(marker: Marker) -> Self {
        Self::marked_as(marker.to_string())
    }

    /// Selects the processes with this marker, as read from an environment.
    #[must_use]
    pub fn marked_as(marker: String) -> Self {
        Self { root: None, marker: Some(MarkerFilter::Exact(marker)) }
    }

    /// Selects the processes with any marker of the instance.
    #[must_use]
    pub fn of_instance(instance: Uuid) -> Self {
        Self { root: None, marker: Some(MarkerFilter::Instance(instance)) }
    }

    /// Adds the descendants of a process, without the process itself.
    #[must_use]
    pub fn or_below(self, root: u32) -> Self {
        Self { root: Some(root), ..self }
    }

    /// Measures the tree. Reads the system's process table, which takes milliseconds.
    ///
    /// # Errors
    /// The system's process table cannot be read.
    pub fn usage(&self) -> io::Result<TreeUsage> {
        let members = ProcessTable::new()?.members(self);
        let bytes: u64 = members.iter().map(|member| member.memory_bytes).sum();
        Ok(TreeUsage { memory: MemoryMb(bytes.div_ceil(BYTES_OF_A_MB)), processes: members.len() })
    }

    /// Sends a signal to each process of the tree, and returns their number.
    ///
    /// # Errors
    /// The system's process table cannot be read.
    pub fn signal(&self, signal: Signal) -> io::Result<usize> {
        let mut table = ProcessTable::new()?;
        let members = table.members(self);
        for member in &members {
            // A process that has ended needs no signal. One that refuses the signal is found again by the caller.
            let _ = table.send(member, signal);
        }
        Ok(members.len())
    }

    /// Sends SIGTERM to the tree, SIGKILL when the grace is over, and waits until it has ended. Blocks the thread for
    /// up to the grace and some seconds.
    ///
    /// # Errors
    /// The system's process table cannot be read.
    pub fn end(&self, grace: Duration) -> io::Result<TreeEnd> {
        let found = if grace.is_zero() { 0 } else { self.signal(Signal::TERM)? };
        if found > 0 && self.ends_within(grace)? {
            return Ok(TreeEnd { found, left: 0 });
        }
        let until = Instant::now() + KILLED_WAIT_MAX;
        let mut found_max = found;
        loop {
            // Repeated, since the processes may have started others before they were killed.
            let left = self.signal(Signal::KILL)?;
            found_max = found_max.max(left);
            if left == 0 || Instant::now() > until {
                return Ok(TreeEnd { found: found_max, left });
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Waits until the tree has ended, but no longer than `limit`. Returns whether it has.
    fn ends_within(&self, limit: Duration) -> io::Result<bool> {
        let begun = Instant::now();
        loop {
            if ProcessTable::new()?.members(self).is_empty() {
                return Ok(true);
            }
            let left = limit.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            thread::sleep(POLL_INTERVAL.min(left));
        }
    }
}

/// A snapshot of the system's process table.
struct ProcessTable {
    system: System,
}

impl ProcessTable {
    fn new() -> io::Result<Self> {
        Ok(Self { system: System::new().map_err(|error| io::Error::other(error.to_string()))? })
    }

    fn members(&mut self, tree: &ProcessTree) -> Vec<Member> {
        let mut kind = ProcessRefreshKind::nothing().without_tasks().with_memory();
        if tree.marker.is_some() {
            kind = kind.with_environ(UpdateKind::Always).with_user(UpdateKind::Always);
        }
        self.system.refresh_processes_specifics(ProcessesToUpdate::All, true, kind);
        let mut members = tree.root.map(|root| self.descendants(Pid::from_u32(root))).unwrap_or_default();
        if let Some(marker) = &tree.marker {
            // The processes of other users never belong to a tree, even if they have a marker.
            let user = rustix::process::geteuid().as_raw();
            let is_own = |process: &Process| process.effective_user_id().is_some_and(|id| **id == user);
            let processes = self.system.processes().values();
            let marked = processes.filter(|process| is_own(process) && marker.matches(process));
            members.extend(marked.map(Process::pid));
        }
        members.remove(&Pid::from_u32(process::id()));
        members.retain(|pid| Some(pid.as_u32()) != tree.root);
        let member = |pid| {
            let process = self.system.process(pid)?;
            // A zombie has ended: only its exit status is left.
            let has_ended = matches!(process.status(), ProcessStatus::Zombie | ProcessStatus::Dead);
            (!has_ended).then(|| Member { pid, started_at: process.start_time(), memory_bytes: process.memory() })
        };
        members.into_iter().filter_map(member).collect()
    }

    fn descendants(&self, root: Pid) -> BTreeSet<Pid> {
        let mut children: BTreeMap<Pid, Vec<Pid>> = BTreeMap::new();
        for (parent, pid) in self.system.processes().values().filter_map(|one| Some((one.parent()?, one.pid()))) {
            children.entry(parent).or_default().push(pid);
        }
        let mut found = BTreeSet::new();
        let mut next = vec![root];
        while let Some(parent) = next.pop() {
            // A table that was read while pids were reused may have a cycle: each process is followed once.
            next.extend(children.remove(&parent).into_iter().flatten().filter(|child| found.insert(*child)));
        }
        found
    }

    /// Sends a signal to a process, if its pid still belongs to it.
    fn send(&mut self, member: &Member, signal: Signal) -> Result<(), Errno> {
        let raw = i32::try_from(member.pid.as_u32()).map_err(|_| Errno::SRCH)?;
        let pid = rustix::process::Pid::from_raw(raw).ok_or(Errno::SRCH)?;
        #[cfg(target_os = "linux")]
        {
            use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
            // An open pidfd refers to one process, so that its pid cannot be reused between the check and the signal.
            match pidfd_open(pid, PidfdFlags::empty()) {
                Ok(process) if self.is_unchanged(member) => return pidfd_send_signal(process, signal),
                Ok(_) | Err(Errno::SRCH) => return Err(Errno::SRCH),
                // Systems before Linux 5.3 have no pidfd.
                Err(_) => {}
            }
        }
        if self.is_unchanged(member) { rustix::process::kill_process(pid, signal) } else { Err(Errno::SRCH) }
    }

    /// Returns whether the pid still belongs to the process that was found.
    fn is_unchanged(&mut self, member: &Member) -> bool {
        let kind = ProcessRefreshKind::nothing().without_tasks();
        self.system.refresh_processes_specifics(ProcessesToUpdate::Some(&[member.pid]), true, kind);
        self.system.process(member.pid).is_some_and(|process| process.start_time() == member.started_at)
    }
}

/// Returns the start time of a process in seconds since 1970; none if it does not exist.
pub(super) fn started_at(pid: u32) -> Option<u64> {
    let pid = Pid::from_u32(pid);
    let mut system = System::new().ok()?;
    let kind = ProcessRefreshKind::nothing().without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, kind);
    system.process(pid).map(Process::start_time)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    /// A process that ends with its test.
    struct Sleep(Child);

    impl Sleep {
        fn start(marker: Marker) -> Self {
            let command = Command::new("sleep").arg("1000").env(MARKER_VARIABLE, marker.to_string()).spawn();
            Self(command.expect("a process"))
        }

        fn has_ended(&mut self) -> bool {
            self.0.try_wait().expect("a child").is_some()
        }
    }

    impl Drop for Sleep {
        fn drop(&mut self) {
            // It may be gone already.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn marker(number: u64) -> Marker {
        Marker { instance: Uuid::new_v4(), number }
    }

    #[test]
    fn a_signal_is_not_sent_to_a_later_process_with_the_pid() {
        let mut process = Sleep::start(marker(1));
        let mut table = ProcessTable::new().expect("a table");
        let pid = Pid::from_u32(process.0.id());
        let members = table.members(&ProcessTree::below(process::id()));
        let member = members.into_iter().find(|member| member.pid == pid).expect("the process");
        let earlier = Member { pid, started_at: member.started_at - 10, memory_bytes: 0 };
        assert_eq!(table.send(&earlier, Signal::KILL), Err(Errno::SRCH));
        assert!(!process.has_ended());
        assert_eq!(table.send(&member, Signal::KILL), Ok(()));
        process.0.wait().expect("an end");
        assert_eq!(table.send(&member, Signal::KILL), Err(Errno::SRCH));
    }

    #[test]
    fn a_tree_has_the_processes_with_its_marker() {
        let (one, other) = (marker(1), marker(2));
        let (mut first, mut second) = (Sleep::start(one), Sleep::start(other));
        let sibling = Marker { instance: one.instance, number: 11 };
        let mut third = Sleep::start(sibling);
        let end = ProcessTree::marked(one).end(Duration::from_secs(60)).expect("a table");
        assert_eq!(end, TreeEnd { found: 1, left: 0 });
        assert!(first.has_ended() && !second.has_ended() && !third.has_ended());
        assert_eq!(ProcessTree::of_instance(one.instance).usage().expect("a table").processes, 1);
        assert_eq!(ProcessTree::of_instance(one.instance).end(Duration::ZERO).expect("a table").found, 1);
        assert!(third.has_ended() && !second.has_ended());
        assert_eq!(ProcessTree::of_instance(Uuid::new_v4()).end(Duration::ZERO).expect("a table"), TreeEnd::default());
    }

    #[test]
    fn the_descendants_of_a_process_do_not_include_it() {
        let process = Sleep::start(marker(1));
        assert_eq!(ProcessTree::below(process.0.id()).usage().expect("a table"), TreeUsage::default());
        let usage = ProcessTree::below(process::id()).usage().expect("a table");
        assert!(usage.processes >= 1 && usage.memory.0 >= 1, "{usage:?}");
    }
}
