//! The pipes, environment, descriptors, output and end of a child.

use crate::support::wait_until_async;
use std::{
    fs::File,
    io::Read,
    process::{Command, Stdio},
};

use cortex_runtime::process::child::{Child, ChildSpec, ExitReason, Input, LINES_MAX};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::children::processes::{end_of, is_running, lines, program, shell, spawner, start};

/// Returns all that the child writes to standard output.
async fn output_of(child: &mut Child) -> String {
    let mut text = String::new();
    child.take_output().expect("an output").read_to_string(&mut text).await.expect("a text");
    text
}

#[tokio::test]
async fn it_speaks_through_its_pipes() {
    let mut child = start(shell("while read line; do echo \"got $line\"; done; echo 'saw the end' >&2; exit 3"));
    let mut input = child.take_input().expect("an input");
    let mut output = child.take_output().expect("an output");
    assert!(child.take_input().is_none() && child.take_output().is_none());
    input.write_all(b"one\ntwo\n").await.expect("a reader");
    let mut bytes = [0; 16];
    output.read_exact(&mut bytes).await.expect("two lines");
    assert_eq!(&bytes, b"got one\ngot two\n");
    drop(input);
    assert_eq!(end_of(&mut child).await, ExitReason::Exited(3));
    assert_eq!(child.lines(), ["saw the end"]);
    child.note_line("no JSON: \u{1b}[2J");
    child.last_lines().note("more");
    assert_eq!(child.lines(), ["saw the end", "no JSON: \u{fffd}[2J", "more"]);
    assert_eq!(child.stop().await, ExitReason::Exited(3));
}

#[tokio::test]
async fn the_end_of_its_output_is_seen_while_it_runs() {
    let mut child = start(shell("exec >&-; echo closed >&2; read line"));
    assert_eq!(output_of(&mut child).await, "");
    assert_eq!(lines(&child, 1).await, ["closed"]);
    assert!(is_running(child.pid()));
    assert_eq!(child.stop().await, ExitReason::Exited(1));
}

#[tokio::test]
async fn one_that_reads_nothing_writes_to_the_log() {
    let worker = ChildSpec { input: Input::Nothing, ..shell("cat; echo to output; echo $$ >&2; sleep 1000") };
    let mut child = start(worker);
    assert!(child.take_output().is_none());
    let lines = lines(&child, 2).await;
    assert!(lines.contains(&"to output".to_owned()), "{lines:?}");
    assert_eq!(child.stop().await, ExitReason::Signalled(15));
}

#[tokio::test]
async fn its_environment_is_what_is_documented() {
    let spawner = spawner();
    let mut launch = shell("");
    (launch.command, launch.arguments) = ("env".to_owned(), Vec::new());
    launch.environment = vec![("TOKEN".to_owned(), "a=b c".to_owned()), ("LANG".to_owned(), "xx".to_owned())];
    let mut child = spawner.start(launch.clone()).expect("a child");
    let text = output_of(&mut child).await;
    let mut seen: Vec<&str> = text.lines().collect();
    seen.sort_unstable();
    let marker = format!("CORTEX_PROCESS_TREE={}", child.marker());
    let mut expected = vec!["LANG=xx".to_owned(), "TOKEN=a=b c".to_owned(), marker];
    for name in ["PATH", "HOME", "TMPDIR"] {
        expected.extend(std::env::var(name).ok().map(|value| format!("{name}={value}")));
    }
    expected.sort_unstable();
    assert_eq!(seen, expected);
    assert_eq!(end_of(&mut child).await, ExitReason::Exited(0));
    assert!(!format!("{launch:?}").contains("a=b c"));
}

#[tokio::test]
async fn it_has_no_descriptors_but_its_own() {
    let mut child = start(shell("ls /proc/self/fd | grep -v '^3$'"));
    // The third is that of the folder.
    assert_eq!(output_of(&mut child).await, "0\n1\n2\n");
    assert_eq!(end_of(&mut child).await, ExitReason::Exited(0));
}

#[test]
fn what_the_manager_was_left_open_is_not_passed_on() {
    let script = "exec 5</dev/null 9>/dev/null; exec \"$0\" guardian -- sh -c 'ls /proc/self/fd | grep -v \"^3$\"'";
    let mut guardian = Command::new("sh")
        .args(["-c", script])
        .arg(program())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a guardian");
    let mut text = String::new();
    guardian.stdout.take().expect("an output").read_to_string(&mut text).expect("a text");
    assert!(guardian.wait().expect("an end").success());
    assert_eq!(text, "0\n1\n2\n");
}

#[tokio::test]
async fn it_runs_in_its_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().canonicalize().expect("a path");
    File::create(path.join("here")).expect("a file");
    let mut child = start(ChildSpec { folder: Some(path.clone()), ..shell("ls; pwd -P") });
    assert_eq!(output_of(&mut child).await, format!("here\n{}\n", path.display()));
    assert_eq!(end_of(&mut child).await, ExitReason::Exited(0));
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let unknown = ChildSpec { command: "/no/such/command".to_owned(), ..shell("") };
    let no_folder = ChildSpec { folder: Some("/no/such/folder".into()), ..shell("") };
    for (launch, line) in [
        (
            unknown,
            "/no/such/command cannot be started (No such file or directory (os error 2)): check its path, and the \
             interpreter in its first line if it is a script",
        ),
        (no_folder, "the folder /no/such/folder cannot be used (No such file or directory (os error 2)): create it"),
    ] {
        let mut child = start(launch);
        let ended = end_of(&mut child).await;
        assert_eq!((ended.to_string().as_str(), child.lines()), ("could not be started", vec![line.to_owned()]));
    }
    let refused = ChildSpec { environment: vec![("A=B".to_owned(), "secret".to_owned())], ..shell("") };
    let error = spawner().start(refused).expect_err("no variable").to_string();
    assert!(error.contains("A=B") && !error.contains("secret"), "{error}");
}

#[tokio::test]
async fn its_exit_reason_is_readable() {
    for (script, words) in [
        ("exit 0", "exited with code 0"),
        ("exit 1", "exited with code 1"),
        ("kill -SEGV $$", "was ended by signal 11 (SEGV)"),
        ("kill -KILL $$", "was ended by signal 9 (KILL)"),
    ] {
        assert_eq!(end_of(&mut start(shell(script))).await.to_string(), words);
    }
}

#[tokio::test]
async fn a_flood_on_standard_error_is_bounded() {
    let before = resident_kb();
    let flood =
        "yes 'a line that is not read' | head -n 1000000 >&2; head -c 20000000 /dev/zero >&2; echo >&2; echo last >&2";
    let mut child = start(shell(flood));
    assert_eq!(end_of(&mut child).await, ExitReason::Exited(0));
    let lines = child.lines();
    assert_eq!(lines.len(), LINES_MAX);
    assert_eq!(lines[0], "a line that is not read");
    assert_eq!(lines[LINES_MAX - 1], "last");
    assert!(lines[LINES_MAX - 2].ends_with("(19995904 more bytes)"));
    let grown = resident_kb().saturating_sub(before);
    assert!(grown < 30_000, "{grown} KB more than before");
}

/// Returns the resident memory of this process in KB.
fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test]
async fn what_it_takes_is_counted() {
    let mut child = start(shell("sleep 1000 & sleep 1000 & echo started >&2; cat"));
    lines(&child, 1).await;
    // The shell may not have started its last command yet.
    let usage = async || child.usage().await.expect("a table of processes");
    wait_until_async("four processes", async || usage().await.processes >= 4).await;
    let usage = usage().await;
    assert_eq!(usage.processes, 4);
    assert!((1..100).contains(&usage.memory.0), "{usage:?}");
    assert_eq!(child.stop().await, ExitReason::Exited(0));
    assert_eq!(child.usage().await.expect("nothing").processes, 0);
}
