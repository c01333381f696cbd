//! The limits of children: memory and open files.

use std::process::Command;

use cortex_core::units::MemoryMb;
use cortex_runtime::process::{
    child::{ChildSpec, ExitReason},
    memory_limit::{Enforcement, MemoryLimiter},
};

use rustix::process::{Resource, getrlimit};

use crate::children::processes::{end_of, program, shell, spawner, start};

#[tokio::test]
async fn one_that_takes_too_much_is_stopped_by_the_limit() {
    let hog = |mb: u32| ChildSpec {
        memory: Some(MemoryMb(150)),
        ..shell(&format!("python3 -c 'x = bytearray({mb} << 20); print(len(x))'"))
    };
    let mut child = start(hog(400));
    assert_eq!(child.enforcement(), Some(&Enforcement::Rlimit));
    assert_eq!(end_of(&mut child).await, ExitReason::Exited(1));
    assert_eq!(child.lines().last().map(String::as_str), Some("MemoryError"));
    assert_eq!(end_of(&mut start(hog(20))).await, ExitReason::Exited(0));
}

#[tokio::test]
async fn one_with_a_cgroup_is_in_it_before_it_runs() {
    // A folder that looks like a cgroup: writing creates the files.
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("cgroup.controllers"), "memory").expect("a file");
    let spawner = spawner().with_limiter(MemoryLimiter::in_cgroup(folder.path()));
    let launch = ChildSpec { memory: Some(MemoryMb(64)), ..shell("echo $$ >&2; cat */cgroup.procs >&2") };
    let mut child = spawner.start(ChildSpec { folder: Some(folder.path().to_owned()), ..launch }).expect("a child");
    assert_eq!(child.enforcement(), Some(&Enforcement::Cgroup));
    assert_eq!(end_of(&mut child).await, ExitReason::Exited(0));
    // The manager wrote its pid to the same file first, without a newline.
    let (lines, own) = (child.lines(), std::process::id().to_string());
    assert_eq!(lines[1], format!("{own}{}", lines[0]), "{lines:?}");
}

/// Not a test but a manager that is started with few open files: it raises its own
/// limit, and its children get the limit that it was started with.
#[tokio::test]
#[ignore = "it is started by a test"]
async fn manager_of_few_files() {
    let limit = getrlimit(Resource::Nofile);
    let few = limit.current.expect("a limit");
    let mut child = start(shell("ulimit -Sn >&2; ulimit -Hn >&2"));
    assert_eq!(end_of(&mut child).await, ExitReason::Exited(0));
    let now = getrlimit(Resource::Nofile);
    assert_eq!((now.current, now.maximum), (Some(limit.maximum.unwrap_or(u64::MAX).min(65_536)), limit.maximum));
    let most = limit.maximum.map_or_else(|| "unlimited".to_owned(), |most| most.to_string());
    assert_eq!((few, child.lines()), (500, vec![few.to_string(), most]));
}

#[test]
fn the_limit_of_open_files_is_raised_for_the_manager_alone() {
    let output = Command::new("sh")
        .args([
            "-c",
            "ulimit -Sn 500 && exec \"$0\" --exact children::limits::manager_of_few_files --ignored --nocapture",
        ])
        .arg(std::env::current_exe().expect("this program"))
        .output()
        .expect("an end");
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
}

#[test]
fn a_limit_that_is_refused_keeps_the_command_from_running() {
    let launch = Command::new(program()).args(["launch", "cgroup=/no/such/cgroup", "--", "echo", "ran"]).output();
    let output = launch.expect("an end");
    assert_eq!(output.status.code(), Some(126));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    let written = String::from_utf8_lossy(&output.stderr);
    assert!(written.starts_with("the limit of the cgroup /no/such/cgroup cannot be set ("), "{written}");
    assert_eq!(written.lines().count(), 1);
}
