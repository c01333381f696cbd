//! The ends of sessions and of the daemon.

use serde_json::json;

use crate::daemon::home::{Home, signal, wait_until_gone};
use crate::support::{server::TRANSPORTS, wait_until};

#[test]
fn a_session_ends_within_a_second_and_leaves_the_daemon() {
    let home = Home::new();
    for transport in TRANSPORTS {
        for name in [None, Some("TERM"), Some("INT")] {
            let mut session = home.start_on(transport, &[]);
            session.greet("2025-11-25");
            match name {
                None => session.close_input(),
                Some(name) => session.signal(name),
            }
            session.check_end();
        }
        let mut silent = home.start_on(transport, &[]);
        silent.close_input();
        silent.check_end();
    }
    let pid = home.pid();
    wait_until("the end of all sessions", || home.status("sessions").as_deref() == Some("0"));
    assert_eq!(home.status("pid"), Some(pid.to_string()), "it is the first daemon still");
}

#[test]
fn messages_before_the_end_of_input_are_answered() {
    let home = Home::new();
    let mut session = home.session(&[]);
    let ids: Vec<u64> =
        (0..500).map(|_| session.send("tools/call", &json!({"name": "get_capacity", "arguments": {}}))).collect();
    let last = session.new_id();
    session.write(crate::support::server::request(last, "ping", &json!({})));
    session.close_input();
    for id in ids.into_iter().chain([last]) {
        assert!(session.reply(id).get("result").is_some());
    }
    assert_eq!(session.rest(), Vec::<serde_json::Value>::new());
    session.check_end();
}

#[test]
fn an_unused_daemon_ends() {
    let home = Home::new();
    let mut session = home.session(&["--daemon-idle-seconds", "1"]);
    let id = session.grant(&json!({"job_id": "a", "mcp_servers": [], "workers": 1, "ttl_seconds": 600}));
    let pid = home.pid();
    session.close_input();
    session.check_end();
    // A lease keeps the daemon running. Nothing tells when the daemon has found that it is in use, so the test waits
    // three times the idle time.
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(home.status("pid"), Some(pid.to_string()));
    let mut session = home.session(&[]);
    session.answer("release_resources", &json!({"allocation_id": id}));
    session.close_input();
    session.check_end();
    wait_until_gone(pid);
    assert!(!home.file("sock").exists() && !home.file("json").exists());
}

#[test]
fn a_lease_past_its_deadline_keeps_no_daemon_and_is_recorded_at_its_end() {
    let home = Home::new();
    let state = home.path("state.db");
    let state = state.to_str().expect("a path");
    // The next sweep is far in the future.
    let options = ["--state", state, "--daemon-idle-seconds", "1", "--sweep-seconds", "86400"];
    let mut session = home.session(&options);
    session.grant(&json!({"job_id": "a", "mcp_servers": [], "workers": 1, "ttl_seconds": 1}));
    let status = home.printed(&["status", "--state", state]);
    let pid = status.lines().find_map(|line| line.strip_prefix("pid: ")).expect("a daemon").parse().expect("a number");
    session.close_input();
    session.check_end();
    wait_until_gone(pid);
    let status = home.printed(&["status", "--state", state]);
    assert!(status.contains("\nleases: 0\n"), "{status}");
}

#[test]
fn without_a_state_there_is_nothing_to_stop() {
    let home = Home::new();
    let state = home.path("mistyped.db");
    let text = home.refusal(&["stop", "--state", state.to_str().expect("a path")]);
    assert!(text.contains("there is no state"), "{text}");
    assert!(!state.exists());
}

#[test]
fn a_stopped_daemon_ends_and_its_sessions_continue_at_their_next_call() {
    let home = Home::new();
    assert_eq!(home.printed(&["stop"]), "no daemon is running for the in-memory state\n");
    for name in [None, Some("TERM")] {
        let mut session = home.session(&[]);
        session.grant(&json!({"job_id": "a", "mcp_servers": [], "workers": 1}));
        let pid = home.pid();
        match name {
            None => assert!(home.printed(&["stop"]).contains(&format!("has stopped (process {pid})"))),
            Some(name) => signal(name, pid),
        }
        wait_until_gone(pid);
        wait_until("the session to have noticed", || session.log().contains("daemon was stopped"));
        assert_eq!(
            home.printed(&["status"]),
            "no daemon is running for the in-memory state\n",
            "nobody starts one yet"
        );
        assert_eq!(session.capacity()["allocated_workers"], 0, "another memory");
        assert_ne!(home.pid(), pid);
        session.close_input();
        session.check_end();
        home.printed(&["stop"]);
    }
}

#[test]
fn a_daemon_runs_in_the_foreground_too() {
    let home = Home::new();
    let mut daemon = home.command(&["daemon"]);
    let mut daemon =
        daemon.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().expect("it");
    let mut line = String::new();
    let output = daemon.stdout.take().expect("a pipe");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).expect("a line");
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(line, json!({"ready": true, "pid": daemon.id()}));
    let text = home.refusal(&["daemon"]);
    assert!(text.contains(&format!("process {} ", daemon.id())), "{text}");
    assert_eq!(home.session(&[]).capacity()["allocated_workers"], 0);
    signal("TERM", daemon.id().into());
    let output = daemon.wait_with_output().expect("it ends");
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("daemon ready"), "its log is on standard error");
}

#[test]
fn a_stopped_daemon_does_not_count_as_a_loss() {
    let home = Home::new();
    let mut session = home.session(&[]);
    // There are more daemons than may be lost. A notification wakes the session and gets no answer.
    for ended in 1..=7 {
        assert!(home.printed(&["stop"]).contains("has stopped"));
        wait_until("the session to have heard", || session.log().matches("daemon was stopped").count() == ended);
        session.write_line(json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}).to_string());
        wait_until("another daemon", || home.status("sessions").as_deref() == Some("1"));
    }
    assert_eq!(session.capacity()["total_workers"], 10);
}

#[test]
fn the_end_is_seen_before_there_is_an_answer_from_a_daemon() {
    let home = Home::new();
    let first = home.session(&[]);
    let pid = home.pid();
    signal("STOP", pid);
    let mut silent = home.start(&[]);
    silent.close_input();
    silent.check_end();
    let mut asking = home.start(&[]);
    let id = asking.send("ping", &json!({}));
    asking.close_input();
    assert_eq!(asking.reply(id)["error"]["data"], json!({"retryable": true}));
    assert_eq!(asking.end().code(), Some(3), "{}", asking.log());
    let expected = "error: the input ended, and no daemon for the in-memory state responded";
    assert!(asking.log().contains(expected), "{}", asking.log());
    signal("CONT", pid);
    drop(first);
}
