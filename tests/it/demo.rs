//! The demo, as a new user runs it.

use crate::support::server::command;
use std::process::Stdio;

#[test]
fn the_demo_shares_a_server_refuses_expires_and_leaves_nothing_running() {
    let output = command(&["demo"]).stdin(Stdio::null()).output().expect("a demo that runs");
    let shown = String::from_utf8(output.stdout).expect("text");
    let errors = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success(), "{shown}\n{errors}");
    assert_eq!(errors, "");
    for line in [
        "review added a note, release-notes reads [\"found a bug in login\"]",
        "failed: Insufficient workers: requested 3, available 1",
        "job \"hotfix\" got the worker at once",
        "its token is refused now (HTTP 401)",
    ] {
        assert!(shown.contains(line), "{line} is missing in {shown}");
    }
    let pid = shown.split("(pid ").nth(1).and_then(|rest| rest.split(')').next()).expect("the pid of the server");
    let alive = std::process::Command::new("ps").args(["-p", pid]).stdout(Stdio::null()).status().expect("ps");
    assert!(!alive.success(), "process {pid} still runs");
}

#[test]
fn a_reader_of_the_demo_may_stop_reading() {
    let mut demo = command(&["demo"]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("a demo that runs");
    drop(demo.stdout.take());
    assert!(demo.wait().expect("an end").success());
}
