//! No process of a child outlives its end.

use std::time::{Duration, Instant};

use cortex_runtime::process::child::{ChildSpec, ExitReason};
use futures_util::future::join_all;
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use crate::children::processes::{
    LONG_GRACE, SHORT_GRACE, STUBBORN, check_gone, check_nothing_of, end_of, is_running, pids, shell, spawner_of, start,
};
use crate::support::wait_until_async;

/// A family: a grandchild, one in a session of its own, one that has no marker either, and a daemon that forked twice
/// and ignores TERM. Each writes its pid. The child then runs the commands that follow.
pub(crate) const FAMILY: &str = r#"
sleep 1000 & echo $! >&2
setsid sh -c 'echo $$ >&2; exec sleep 1000' </dev/null >/dev/null &
env -i PATH="$PATH" setsid sh -c 'echo $$ >&2; exec sleep 1000' &
python3 -c '
import os, signal, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(2, b"%d\n" % os.getpid())
os.closerange(0, 256)
time.sleep(1000)
'
"#;

/// The number of processes of the family that write their pid.
pub(crate) const FAMILY_MEMBERS: usize = 4;

#[tokio::test]
async fn one_that_sees_the_end_of_its_input_ends_by_itself() {
    let mut child = start(shell("cat; echo saved >&2; exit 7"));
    assert_eq!(child.stop().await, ExitReason::Exited(7));
    assert_eq!(child.lines(), ["saved"]);
}

#[tokio::test]
async fn one_that_ignores_its_input_is_asked() {
    let mut child = start(shell("trap 'echo asked >&2; exit 0' TERM; echo ready >&2; while :; do sleep 0.05; done"));
    crate::children::processes::lines(&child, 1).await;
    assert_eq!(child.stop().await, ExitReason::Exited(0));
    // The shell may report the end of the command that it waited for as well.
    assert_eq!(child.lines().last().map(String::as_str), Some("asked"));
}

#[tokio::test]
async fn one_that_ignores_being_asked_is_killed_when_the_grace_is_over() {
    let mut child = start(ChildSpec { grace: SHORT_GRACE, ..shell(&format!("echo $$ >&2; {STUBBORN}")) });
    let pids = pids(&child, 1).await;
    let begun = Instant::now();
    assert_eq!(child.stop().await, ExitReason::Signalled(9));
    assert!(begun.elapsed() >= SHORT_GRACE, "{:?}", begun.elapsed());
    check_gone(&pids);
}

#[tokio::test]
async fn the_whole_tree_is_ended() {
    let instance = Uuid::new_v4();
    let launch = ChildSpec { grace: SHORT_GRACE, ..shell(&format!("{FAMILY} cat")) };
    let mut child = spawner_of(instance).start(launch).expect("a child");
    let pids = pids(&child, FAMILY_MEMBERS).await;
    assert_eq!(child.stop().await, ExitReason::Exited(0));
    check_gone(&pids);
    check_nothing_of(instance);
}

#[tokio::test]
async fn processes_that_outlive_their_child_are_ended() {
    let mut child = start(shell(&format!("{FAMILY} read line; exit 5")));
    let pids = pids(&child, FAMILY_MEMBERS).await;
    let mut input = child.take_input().expect("an input");
    input.write_all(b"go\n").await.expect("a reader");
    let begun = Instant::now();
    assert_eq!(end_of(&mut child).await, ExitReason::Exited(5));
    check_gone(&pids);
    assert!(begun.elapsed() < LONG_GRACE / 2, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_tree_that_keeps_forking_is_ended() {
    let script = "trap '' TERM; echo $$ >&2; while :; do (trap '' TERM; sleep 0.2) & sleep 0.01; done";
    let instance = Uuid::new_v4();
    let mut child = spawner_of(instance).start(ChildSpec { grace: SHORT_GRACE, ..shell(script) }).expect("a child");
    pids(&child, 1).await;
    assert_eq!(child.stop().await, ExitReason::Signalled(9));
    check_nothing_of(instance);
}

#[tokio::test]
async fn an_input_that_another_holds_does_not_keep_it() {
    let mut child = start(shell("echo $$ >&2; cat"));
    let pids = pids(&child, 1).await;
    let input = child.take_input();
    assert_eq!(child.stop().await, ExitReason::Signalled(15));
    check_gone(&pids);
    drop(input);
}

#[tokio::test]
async fn dropping_it_ends_it() {
    let instance = Uuid::new_v4();
    let child = spawner_of(instance).start(shell(&format!("{FAMILY} cat"))).expect("a child");
    let mut pids = pids(&child, FAMILY_MEMBERS - 1).await;
    pids.push(child.pid());
    drop(child);
    // The process that ignores TERM has the whole grace.
    wait_until_async("the end", async || pids.iter().any(|pid| !is_running(*pid))).await;
    let tree = cortex_runtime::process::tree::ProcessTree::of_instance(instance);
    tokio::task::spawn_blocking(move || tree.end(Duration::ZERO)).await.expect("a thread").expect("a table");
    wait_until_async("the guardian", async || pids.iter().all(|pid| !is_running(*pid))).await;
}

#[tokio::test]
async fn many_end_concurrently() {
    const CHILDREN: u32 = 20;
    let (instance, grace) = (Uuid::new_v4(), Duration::from_secs(1));
    let spawner = spawner_of(instance);
    let launch = ChildSpec { grace, ..shell(&format!("echo $$ >&2; {STUBBORN}")) };
    let mut children: Vec<_> = (0..CHILDREN).map(|_| spawner.start(launch.clone()).expect("a child")).collect();
    for child in &children {
        pids(child, 1).await;
    }
    let begun = Instant::now();
    let ends = join_all(children.iter_mut().map(|child| child.stop())).await;
    let took = begun.elapsed();
    assert!(ends.iter().all(|end| *end == ExitReason::Signalled(9)), "{ends:?}");
    // One after another would take twenty times the grace.
    assert!(took < grace * CHILDREN / 2, "{took:?}");
    check_nothing_of(instance);
}
