//! A child whose manager or guardian is killed.

use std::{
    env,
    io::{self, BufRead, BufReader, Write},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use cortex_runtime::process::child::{ChildSpec, ExitReason};
use rustix::process::Signal;
use uuid::Uuid;

use crate::children::endings::{FAMILY, FAMILY_MEMBERS};
use crate::children::processes::{
    SHORT_GRACE, STUBBORN, check_gone, check_nothing_of, end_of, is_running, lines, pids, program, shell, signal,
    spawner_of, start,
};
use crate::support::{wait_for, wait_within};

/// Makes this program a manager that is killed, with the instance in its value.
const MANAGER_VARIABLE: &str = "CORTEX_TEST_MANAGER";

/// Not a test but the manager that a test kills: starts a family, writes the pids of its members, and waits.
#[tokio::test]
#[ignore = "it is started by a test"]
async fn manager() {
    let Ok(instance) = env::var(MANAGER_VARIABLE) else { return };
    let spawner = spawner_of(instance.parse().expect("an instance"));
    let script = format!("{FAMILY} echo $$ >&2; {STUBBORN}");
    let child = spawner.start(ChildSpec { grace: SHORT_GRACE, ..shell(&script) }).expect("a child");
    let mut members = pids(&child, FAMILY_MEMBERS + 1).await;
    members.push(child.pid());
    let written: String = members.iter().map(|pid| format!("{pid}\n")).collect();
    io::stderr().write_all(written.as_bytes()).expect("a test that reads");
    std::future::pending::<()>().await;
}

#[test]
fn a_manager_that_is_killed_leaves_nothing_behind() {
    let instance = Uuid::new_v4();
    let mut manager = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", "children::guardian::manager", "--ignored", "--nocapture"])
        .env(MANAGER_VARIABLE, instance.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a manager");
    let lines = BufReader::new(manager.stderr.take().expect("an output")).lines();
    let pids: Vec<u32> =
        lines.map(|line| line.expect("a line").parse().expect("a pid")).take(FAMILY_MEMBERS + 2).collect();
    manager.kill().expect("a running manager");
    manager.wait().expect("an end");
    let gone = || pids.iter().all(|pid| !is_running(*pid)).then_some(());
    let is_gone = wait_within(SHORT_GRACE + Duration::from_secs(1), gone);
    // Even if the test fails, no process may be left.
    wait_for("the end of all", gone);
    assert!(is_gone.is_some(), "it took longer than a second beyond the grace");
    check_nothing_of(instance);
}

#[tokio::test]
async fn the_tree_of_a_guardian_that_is_killed_is_ended() {
    let instance = Uuid::new_v4();
    // The process without a marker cannot be found without its guardian.
    let script = FAMILY.replace("env -i PATH=\"$PATH\"", "env");
    let mut child = spawner_of(instance).start(shell(&format!("{script} {STUBBORN}"))).expect("a child");
    let pids = pids(&child, FAMILY_MEMBERS).await;
    signal(child.pid(), Signal::KILL);
    let ended = end_of(&mut child).await;
    assert_eq!(ended.to_string(), "was killed because its guardian was ended by signal 9 (KILL)");
    check_gone(&pids);
    check_nothing_of(instance);
}

#[tokio::test]
async fn a_guardian_that_hangs_is_killed_with_its_tree() {
    let launch = ChildSpec { grace: SHORT_GRACE, ..shell(&format!("{FAMILY} {STUBBORN}")) };
    let mut child = start(launch);
    let mut pids = pids(&child, FAMILY_MEMBERS).await;
    pids.push(child.pid());
    signal(child.pid(), Signal::STOP);
    let begun = Instant::now();
    assert!(matches!(child.stop().await, ExitReason::GuardianLost(_)));
    check_gone(&pids);
    assert!(begun.elapsed() >= SHORT_GRACE);
}

#[tokio::test]
async fn signals_end_a_guardian() {
    for stop in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut child = start(shell("trap '' INT HUP; echo ready >&2; cat"));
        lines(&child, 1).await;
        signal(child.pid(), stop);
        assert_eq!(end_of(&mut child).await, ExitReason::Signalled(15), "{stop:?}");
    }
}

#[test]
fn nothing_is_started_for_a_guardian_that_is_gone() {
    // The parent is this test, whose pid is not that of the first process.
    let launch = Command::new(program()).args(["launch", "guardian=1", "--", "echo", "ran"]).output();
    let output = launch.expect("an end");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(127), &b""[..]));
    assert_eq!(output.stderr, b"the guardian ended before the command was started\n");
}
