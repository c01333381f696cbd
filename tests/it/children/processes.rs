//! The commands that the tests start, and checks whether they run.

use std::{fs, path::PathBuf, time::Duration};

use cortex_runtime::process::{
    child::{Child, ChildSpec, ExitReason, Input, Spawner},
    tree::ProcessTree,
};
use uuid::Uuid;

use crate::support::{wait_until_async, within};

/// A short grace, for children that do not end by themselves.
pub(crate) const SHORT_GRACE: Duration = Duration::from_millis(400);

/// A grace that is longer than any test.
pub(crate) const LONG_GRACE: Duration = Duration::from_secs(60);

/// A command that ignores TERM and the end of its input.
pub(crate) const STUBBORN: &str = "trap '' TERM; while :; do sleep 1000; done";

/// Returns the program that runs as guardian: the test binary cannot.
pub(crate) fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_cortex-resource-manager"))
}

pub(crate) fn spawner() -> Spawner {
    spawner_of(Uuid::new_v4())
}

pub(crate) fn spawner_of(instance: Uuid) -> Spawner {
    Spawner::new(instance).with_program(program())
}

/// Returns a shell script as a child that reads a pipe.
pub(crate) fn shell(script: &str) -> ChildSpec {
    ChildSpec {
        name: "test".to_owned(),
        command: "sh".to_owned(),
        arguments: vec!["-c".to_owned(), script.to_owned()],
        environment: Vec::new(),
        folder: None,
        memory: None,
        grace: LONG_GRACE,
        input: Input::Pipe,
    }
}

pub(crate) fn start(launch: ChildSpec) -> Child {
    spawner().start(launch).expect("a child")
}

/// Waits for the end of the child, and fails if it hangs.
pub(crate) async fn end_of(child: &mut Child) -> ExitReason {
    within(child.ended()).await
}

/// Waits until the child has written `count` lines, and returns its last lines.
pub(crate) async fn lines(child: &Child, count: usize) -> Vec<String> {
    wait_until_async("the lines", async || child.lines().len() >= count).await;
    child.lines()
}

/// Waits until the child has written `count` pids to standard error, one per line, and returns them.
pub(crate) async fn pids(child: &Child, count: usize) -> Vec<u32> {
    lines(child, count).await.iter().map(|line| line.trim().parse().expect("a pid")).collect()
}

/// Returns whether a process exists that has not ended. One that was not reaped yet has ended.
pub(crate) fn is_running(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The state follows the name, which may contain any character.
    stat.rsplit_once(')').is_some_and(|(_, rest)| !matches!(rest.split_whitespace().next(), Some("Z" | "X") | None))
}

#[track_caller]
pub(crate) fn check_gone(pids: &[u32]) {
    for pid in pids {
        assert!(!is_running(*pid), "{pid} still runs");
    }
}

/// Checks that no process of the instance runs.
#[track_caller]
pub(crate) fn check_nothing_of(instance: Uuid) {
    let usage = ProcessTree::of_instance(instance).usage().expect("a table of processes");
    assert_eq!(usage.processes, 0);
}

/// Sends a signal to a process that the test started.
pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("a process to send a signal to");
}
