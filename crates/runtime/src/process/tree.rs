//! The processes of a child's tree: how they are found, ended and counted.
//!
//! A tree is what descends from its guardian, and what carries its marker in the environment, however it got away from its
//! parents. Invariants: a signal only goes to a process that was just seen to be the same as when it was found, never to
//! one that has its pid now; and never to this process itself.

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

/// The time between two looks whether a tree is gone.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// How long a tree that was killed is waited for: some processes cannot be killed, such as one in the midst of a read that
/// the system does not interrupt.
const KILLED_WAIT_MAX: Duration = Duration::from_secs(3);

const BYTES_OF_A_MB: u64 = 1 << 20;

/// What the processes of one tree carry: which manager started them, and its how manieth tree they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    /// The manager's life.
    pub instance: Uuid,
    /// A number that no other tree of the instance has.
    pub number: u64,
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.instance, self.number)
    }
}

/// The markers that are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Marked {
    /// This very marker.
    Exactly(String),
    /// Any marker of the instance.
    By(Uuid),
}

impl Marked {
    fn is_on(&self, process: &Process) -> bool {
        process.environ().iter().any(|variable| {
            let value = variable.to_str().and_then(|text| text.strip_prefix(MARKER_VARIABLE)?.strip_prefix('='));
            value.is_some_and(|value| match self {
                Self::Exactly(marker) => value == marker,
                Self::By(instance) => {
                    value.split_once('/').is_some_and(|(uuid, _)| uuid.parse::<Uuid>().as_ref() == Ok(instance))
                }
            })
        })
    }
}

/// Some processes that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// What the processes descend from. It is not one of them.
    root: Option<u32>,
    marked: Option<Marked>,
}

/// What a tree takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// The sum of what its processes have in memory; pages that they share count for each.
    pub memory: MemoryMb,
    /// How many processes it has.
    pub processes: usize,
}

/// What came of ending a tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TreeEnd {
    /// How many processes were there.
    pub found: usize,
    /// How many still are: they could not be killed.
    pub left: usize,
}

/// A process of a tree. The time at which it began tells it from a later one with its pid.
struct Member {
    pid: Pid,
    started_at: u64,
    memory_bytes: u64,
}

impl Tree {
    /// What descends from this process, itself not counted.
    #[must_use]
    pub fn below(root: u32) -> Self {
        Self { root: Some(root), marked: None }
    }

    /// What carries this marker.
    #[must_use]
    pub fn marked(marker: Marker) -> Self {
        Self::marked_as(marker.to_string())
    }

    /// What carries this marker, as it was read from an environment.
    #[must_use]
    pub fn marked_as(marker: String) -> Self {
        Self { root: None, marked: Some(Marked::Exactly(marker)) }
    }

    /// What carries any marker of the instance.
    #[must_use]
    pub fn of_instance(instance: Uuid) -> Self {
        Self { root: None, marked: Some(Marked::By(instance)) }
    }

    /// The same, and what descends from this process, which itself does not count.
    #[must_use]
    pub fn or_below(self, root: u32) -> Self {
        Self { root: Some(root), ..self }
    }

    /// What the tree takes. It reads the system's table of processes, which takes milliseconds.
    ///
    /// # Errors
    /// The system does not show its processes.
    pub fn usage(&self) -> io::Result<Usage> {
        let members = Table::new()?.members(self);
        let bytes: u64 = members.iter().map(|member| member.memory_bytes).sum();
        Ok(Usage { memory: MemoryMb(bytes.div_ceil(BYTES_OF_A_MB)), processes: members.len() })
    }

    /// Sends a signal to each process of the tree. Gives how many there were.
    ///
    /// # Errors
    /// The system does not show its processes.
    pub fn signal(&self, signal: Signal) -> io::Result<usize> {
        let mut table = Table::new()?;
        let members = table.members(self);
        for member in &members {
            // One that ended meanwhile needs no signal; one that may not be sent any is found again.
            let _ = table.send(member, signal);
        }
        Ok(members.len())
    }

    /// Asks the tree to end, makes it when the grace is over, and waits until it is gone. This blocks the thread, some
    /// seconds longer than the grace at most.
    ///
    /// # Errors
    /// The system does not show its processes.
    pub fn end(&self, grace: Duration) -> io::Result<TreeEnd> {
        let found = if grace.is_zero() { 0 } else { self.signal(Signal::TERM)? };
        if found > 0 && self.is_gone_within(grace)? {
            return Ok(TreeEnd { found, left: 0 });
        }
        let until = Instant::now() + KILLED_WAIT_MAX;
        let mut found_at_most = found;
        loop {
            // Again and again, since processes may have begun others meanwhile.
            let left = self.signal(Signal::KILL)?;
            found_at_most = found_at_most.max(left);
            if left == 0 || Instant::now() > until {
                return Ok(TreeEnd { found: found_at_most, left });
            }
            thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Waits until the tree is gone, but no longer than this.
    fn is_gone_within(&self, limit: Duration) -> io::Result<bool> {
        let begun = Instant::now();
        loop {
            if Table::new()?.members(self).is_empty() {
                return Ok(true);
            }
            let left = limit.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            thread::sleep(LOOK_INTERVAL.min(left));
        }
    }
}

/// The system's processes, as they were when it was made.
struct Table {
    system: System,
}

impl Table {
    fn new() -> io::Result<Self> {
        Ok(Self { system: System::new().map_err(|error| io::Error::other(error.to_string()))? })
    }

    fn members(&mut self, tree: &Tree) -> Vec<Member> {
        let mut kind = ProcessRefreshKind::nothing().without_tasks().with_memory();
        if tree.marked.is_some() {
            kind = kind.with_environ(UpdateKind::Always).with_user(UpdateKind::Always);
        }
        self.system.refresh_processes_specifics(ProcessesToUpdate::All, true, kind);
        let mut belonging = tree.root.map(|root| self.descendants(Pid::from_u32(root))).unwrap_or_default();
        if let Some(marked) = &tree.marked {
            // What another user started is none of ours, whatever it carries.
            let user = rustix::process::geteuid().as_raw();
            let is_ours = |process: &Process| process.effective_user_id().is_some_and(|id| **id == user);
            let processes = self.system.processes().values();
            belonging.extend(processes.filter(|one| is_ours(one) && marked.is_on(one)).map(|one| one.pid()));
        }
        belonging.remove(&Pid::from_u32(process::id()));
        belonging.retain(|pid| Some(pid.as_u32()) != tree.root);
        let member = |pid| {
            let process = self.system.process(pid)?;
            // One that ended and was not waited for is no process any more, only its status.
            let is_there = !matches!(process.status(), ProcessStatus::Zombie | ProcessStatus::Dead);
            is_there.then(|| Member { pid, started_at: process.start_time(), memory_bytes: process.memory() })
        };
        belonging.into_iter().filter_map(member).collect()
    }

    fn descendants(&self, root: Pid) -> BTreeSet<Pid> {
        let mut children: BTreeMap<Pid, Vec<Pid>> = BTreeMap::new();
        for (parent, pid) in self.system.processes().values().filter_map(|one| Some((one.parent()?, one.pid()))) {
            children.entry(parent).or_default().push(pid);
        }
        let mut found = BTreeSet::new();
        let mut next = vec![root];
        while let Some(parent) = next.pop() {
            // What was read while pids were given anew could go round in a circle.
            next.extend(children.remove(&parent).into_iter().flatten().filter(|child| found.insert(*child)));
        }
        found
    }

    /// Sends a signal to the process that was found, if it still has its pid.
    fn send(&mut self, member: &Member, signal: Signal) -> Result<(), Errno> {
        let raw = i32::try_from(member.pid.as_u32()).map_err(|_| Errno::SRCH)?;
        let pid = rustix::process::Pid::from_raw(raw).ok_or(Errno::SRCH)?;
        #[cfg(target_os = "linux")]
        {
            use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
            // Once it is open it stands for one process, so that nothing can come between the look and the signal.
            match pidfd_open(pid, PidfdFlags::empty()) {
                Ok(process) if self.is_still(member) => return pidfd_send_signal(process, signal),
                Ok(_) | Err(Errno::SRCH) => return Err(Errno::SRCH),
                // Systems of long ago do not know this.
                Err(_) => {}
            }
        }
        if self.is_still(member) { rustix::process::kill_process(pid, signal) } else { Err(Errno::SRCH) }
    }

    fn is_still(&mut self, member: &Member) -> bool {
        let kind = ProcessRefreshKind::nothing().without_tasks();
        self.system.refresh_processes_specifics(ProcessesToUpdate::Some(&[member.pid]), true, kind);
        self.system.process(member.pid).is_some_and(|process| process.start_time() == member.started_at)
    }
}

/// When a process began, in seconds since 1970; nothing if there is none of this number.
pub(super) fn started_at(pid: u32) -> Option<u64> {
    let pid = Pid::from_u32(pid);
    let mut system = System::new().ok()?;
    let what = ProcessRefreshKind::nothing().without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, what);
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
    fn a_signal_spares_what_has_the_pid_now() {
        let mut process = Sleep::start(marker(1));
        let mut table = Table::new().expect("a table");
        let pid = Pid::from_u32(process.0.id());
        let members = table.members(&Tree::below(process::id()));
        let member = members.into_iter().find(|member| member.pid == pid).expect("the process");
        let earlier = Member { pid, started_at: member.started_at - 10, memory_bytes: 0 };
        assert_eq!(table.send(&earlier, Signal::KILL), Err(Errno::SRCH));
        assert!(!process.has_ended());
        assert_eq!(table.send(&member, Signal::KILL), Ok(()));
        process.0.wait().expect("an end");
        assert_eq!(table.send(&member, Signal::KILL), Err(Errno::SRCH));
    }

    #[test]
    fn a_tree_is_what_carries_its_marker() {
        let (one, other) = (marker(1), marker(2));
        let (mut first, mut second) = (Sleep::start(one), Sleep::start(other));
        let sibling = Marker { instance: one.instance, number: 11 };
        let mut third = Sleep::start(sibling);
        let end = Tree::marked(one).end(Duration::from_secs(60)).expect("a table");
        assert_eq!(end, TreeEnd { found: 1, left: 0 });
        assert!(first.has_ended() && !second.has_ended() && !third.has_ended());
        assert_eq!(Tree::of_instance(one.instance).usage().expect("a table").processes, 1);
        assert_eq!(Tree::of_instance(one.instance).end(Duration::ZERO).expect("a table").found, 1);
        assert!(third.has_ended() && !second.has_ended());
        assert_eq!(Tree::of_instance(Uuid::new_v4()).end(Duration::ZERO).expect("a table"), TreeEnd::default());
    }

    #[test]
    fn what_descends_from_a_process_does_not_include_it() {
        let process = Sleep::start(marker(1));
        assert_eq!(Tree::below(process.0.id()).usage().expect("a table"), Usage::default());
        let usage = Tree::below(process::id()).usage().expect("a table");
        assert!(usage.processes >= 1 && usage.memory.0 >= 1, "{usage:?}");
    }
}
