//! Logging in a separate process, whose parent reads standard error late or never, or has closed it.
//!
//! The process is this test binary, started with a filter for [`the_process_that_logs`] and a variable that selects its
//! role.

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Stdio},
    sync::mpsc::channel,
    thread,
    time::Duration,
};

use cortex_config::{LogFormat, LogLevel};
use cortex_telemetry as telemetry;
use serde_json::Value;

/// The variable that selects the role.
const ROLE: &str = "LOGGING_TEST_PART";

/// The text that the process writes to standard output once it has logged everything.
const DONE: &str = "everything is logged";

/// A log target of this workspace; lines of other targets are not written at this level.
const OURS: &str = "cortex_test";

/// The number of lines in a flood: many times the capacity of a pipe and the queue.
const FLOOD_LINES: u32 = 50_000;

/// Far longer than any of these tests: it turns a hang into a failure.
const HANG: Duration = Duration::from_secs(120);

/// The process whose standard error the other tests read. In an ordinary test run it has no role, and does nothing.
#[test]
fn the_process_that_logs() {
    let Ok(role) = env::var(ROLE) else { return };
    let guard = telemetry::init(LogLevel::Info, LogFormat::Json).expect("logging is not set up yet");
    if role == "flood" {
        let filling = "0123456789012345678901234567890123456789";
        for number in 0..FLOOD_LINES {
            tracing::info!(target: OURS, number, filling, "flood");
        }
    } else {
        let ended = thread::spawn(|| panic!("a panic of {}", "the test")).join();
        assert!(ended.is_err());
    }
    writeln!(std::io::stdout(), "{DONE}").expect("a parent that reads standard output");
    // The parent decides when this process goes on to its end.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    drop(guard);
}

/// Starts the process that logs.
fn start(role: &str, stderr: Stdio) -> Child {
    let executable = env::current_exe().expect("this test binary");
    Command::new(executable)
        .args(["--exact", "telemetry::the_process_that_logs", "--nocapture"])
        .env(ROLE, role)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .expect("this test binary can be started")
}

/// Waits until the process has logged everything, while its standard error is not read.
fn wait_until_done(child: &mut Child) {
    let output = child.stdout.take().expect("standard output is a pipe");
    let (found, done) = channel();
    // The thread goes on reading, so that the end of the process never waits for standard output.
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if line.contains(DONE) {
                let _ = found.send(());
            }
        }
    });
    if done.recv_timeout(HANG).is_err() {
        let _ = child.kill();
        panic!("the process hangs, or has ended too early");
    }
}

/// Lets the process end, and checks that it ends by itself.
fn check_end(mut child: Child) {
    drop(child.stdin.take());
    let (ended, end) = channel();
    let id = child.id();
    // Standard error stays open and unread in the thread until the process has ended.
    thread::spawn(move || ended.send(child.wait().map(|status| status.success())));
    match end.recv_timeout(HANG) {
        Ok(result) => assert!(result.expect("a process to wait for")),
        Err(_) => panic!("process {id} does not end"),
    }
}

/// Returns the JSON objects that the process logs, up to the one for which `enough` returns true.
fn read_until(child: &mut Child, mut enough: impl FnMut(&Value) -> bool + Send + 'static) -> Vec<Value> {
    let log = child.stderr.take().expect("standard error is a pipe");
    let (sender, objects) = channel();
    thread::spawn(move || {
        let mut read = Vec::new();
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            let object = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?} is no JSON: {error}"));
            let last = enough(&object);
            read.push(object);
            if last {
                let _ = sender.send(read);
                return;
            }
        }
    });
    objects.recv_timeout(HANG).expect("enough lines, all of them JSON")
}

#[test]
fn a_parent_that_never_reads_stops_nothing() {
    let mut child = start("flood", Stdio::piped());
    wait_until_done(&mut child);
    check_end(child);
}

#[test]
fn a_parent_that_reads_late_learns_what_was_dropped() {
    let mut child = start("flood", Stdio::piped());
    wait_until_done(&mut child);
    let mut accounted = 0;
    let objects = read_until(&mut child, move |object| {
        let fields = &object["fields"];
        accounted += u64::from(fields["number"].is_u64());
        accounted += fields["dropped"].as_u64().unwrap_or(0);
        accounted == u64::from(FLOOD_LINES)
    });
    let values = |key| objects.iter().filter_map(move |object| object["fields"][key].as_u64());
    assert!(values("dropped").sum::<u64>() > 0);
    assert!(values("number").is_sorted());
    check_end(child);
}

#[test]
fn a_parent_that_closed_standard_error_stops_nothing() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut child = start("flood", writer.into());
    wait_until_done(&mut child);
    check_end(child);
}

#[test]
fn a_panic_is_a_log_line_like_any_other() {
    let mut child = start("panic", Stdio::piped());
    wait_until_done(&mut child);
    let objects = read_until(&mut child, |_| true);
    assert_eq!(objects[0]["level"], "ERROR");
    assert_eq!(objects[0]["fields"]["panic"], "a panic of the test");
    check_end(child);
}
