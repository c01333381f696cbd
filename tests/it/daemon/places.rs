//! The files by which other processes find a daemon, and its behavior when they are copied or removed, or when it is
//! silent.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::daemon::home::{Home, signal, wait_until_gone};
use crate::support::{
    server::{Server, TRANSPORTS},
    wait_for, wait_until,
};

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in text")
}

fn on_state(home: &Home, state: &Path) -> Server {
    let mut server = Server::start_on(TRANSPORTS[0], home.command(&["--state", text(state)]));
    server.greet("2025-11-25");
    server.learn_schemas();
    server
}

/// Returns the owner record in the lock of a state.
fn owner(state: &Path) -> Value {
    let lock = PathBuf::from(format!("{}.lock", text(state)));
    wait_for("the owner's record", || serde_json::from_str(&fs::read_to_string(&lock).ok()?).ok())
}

#[test]
fn a_copy_of_a_state_is_a_state_of_its_own() {
    let home = Home::new();
    let folders = ["one", "two"].map(|name| home.path(name));
    for folder in &folders {
        fs::create_dir(folder).expect("a folder");
    }
    let [original, copy] = folders.each_ref().map(|folder| folder.join("state.db"));
    let mut one = on_state(&home, &original);
    one.grant(&json!({"job_id": "a", "mcp_servers": [], "workers": 4}));
    let record = owner(&original);
    let pid = record["pid"].as_u64().expect("a process id");
    for entry in fs::read_dir(&folders[0]).expect("a folder") {
        let entry = entry.expect("a file");
        fs::copy(entry.path(), folders[1].join(entry.file_name())).expect("a copy");
    }
    assert_eq!(owner(&copy), record, "the copied record names the daemon of the original");

    for command in ["status", "stop"] {
        let said = home.printed(&[command, "--state", text(&copy)]);
        assert!(said.starts_with(&format!("no daemon is running for {}\n", copy.display())), "{command}: {said}");
    }
    for ask in ["session", "status", "stop"] {
        let socket = record["socket"].as_str().expect("a path");
        let mut stream = UnixStream::connect(socket).expect("the daemon's socket");
        writeln!(stream, "{}", json!({"protocol": 1, "version": "0", "ask": ask, "state": copy})).expect("a listener");
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).expect("an answer");
        let answer: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(answer["other_state"], true, "{ask}: {answer}");
        assert!(answer["refused"].as_str().expect("a text").contains(text(&original)), "{ask}: {answer}");
    }

    let mut two = on_state(&home, &copy);
    two.grant(&json!({"job_id": "b", "mcp_servers": [], "workers": 3}));
    assert_eq!(two.capacity()["allocated_workers"], 7);
    assert_eq!(one.capacity()["allocated_workers"], 4);
    assert!(home.printed(&["stop", "--state", text(&copy)]).contains("has stopped"));
    let status = home.printed(&["status", "--state", text(&original)]);
    assert!(status.contains(&format!("pid: {pid}\n")), "{status}");
    assert!(home.printed(&["stop", "--state", text(&original)]).contains("has stopped"));
}

#[test]
fn removed_files_are_created_again() {
    let home = Home::new();
    let mut session = home.session(&[]);
    session.grant(&json!({"job_id": "a", "mcp_servers": [], "workers": 3}));
    let pid = home.pid();
    for removed in [&["sock"][..], &["json"], &["lock"], &["sock", "json", "lock"]] {
        for ending in removed {
            fs::remove_file(home.file(ending)).expect("a file of the daemon");
        }
        for ending in ["lock", "sock", "json"] {
            wait_until("the daemon's files", || home.file(ending).exists());
        }
        assert_eq!(home.pid(), pid);
        assert_eq!(home.status("pid"), Some(pid.to_string()), "{removed:?}");
        assert_eq!(home.session(&[]).capacity()["allocated_workers"], 3, "{removed:?}");
    }
    fs::remove_dir_all(home.path("cortex-resource-manager")).expect("the daemon's directory");
    wait_until("the daemon's socket", || home.file("json").exists());
    wait_until("the daemon's log", || home.file("log").exists());
    assert_eq!(home.status("pid"), Some(pid.to_string()));
    assert_eq!(session.capacity()["allocated_workers"], 3);
}

#[test]
fn a_session_waits_for_the_socket_of_a_state_that_is_owned() {
    let home = Home::new();
    let state = home.path("state.db");
    let mut session = on_state(&home, &state);
    session.grant(&json!({"job_id": "a", "mcp_servers": [], "workers": 3}));
    let before = owner(&state);
    fs::remove_dir_all(home.path("cortex-resource-manager")).expect("the daemon's directory");
    let status = home.printed(&["status", "--state", text(&state)]);
    assert!(status.contains(&format!("pid: {}\n", before["pid"])), "{status}");
    fs::remove_file(before["socket"].as_str().expect("a path")).expect("the socket");
    assert_eq!(on_state(&home, &state).capacity()["allocated_workers"], 3);
    assert_eq!(owner(&state), before);
    assert!(home.printed(&["stop", "--state", text(&state)]).contains("has stopped"));
}

#[test]
fn a_daemon_whose_memory_another_has_taken_over_ends() {
    let home = Home::new();
    let mut first = home.session(&[]);
    let pid = home.pid();
    // The daemon is suspended so that it does not recreate its files before the other daemon runs.
    signal("STOP", pid);
    fs::remove_dir_all(home.path("cortex-resource-manager")).expect("the daemon's directory");
    let mut second = home.session(&[]);
    second.grant(&json!({"job_id": "a", "mcp_servers": [], "workers": 3}));
    let other = home.pid();
    assert_ne!(pid, other);
    signal("CONT", pid);
    wait_until_gone(pid);
    assert_eq!(home.status("pid"), Some(other.to_string()));
    let log = fs::read_to_string(home.file("log")).expect("the log");
    assert!(log.contains("daemon stopping: another daemon is running"), "{log}");
    wait_until("the first session", || home.status("sessions").as_deref() == Some("2"));
    assert_eq!(first.capacity()["allocated_workers"], 3);
}

#[test]
fn an_unreachable_daemon_is_named() {
    let home = Home::new();
    let _session = home.session(&[]);
    let pid = home.pid();
    signal("STOP", pid);
    for command in ["status", "stop"] {
        let said = home.refusal(&[command]);
        let process = format!("process {pid} ");
        for part in ["invalid response from the daemon", "(timed out)", &process, "end that process"] {
            assert!(said.contains(part), "{command}: {said}");
        }
    }
    fs::remove_file(home.file("sock")).expect("the socket");
    for command in ["status", "stop"] {
        let said = home.refusal(&[command]);
        for part in
            ["no daemon for the in-memory state responded within 5 s", &format!("process {pid} "), "end that process"]
        {
            assert!(said.contains(part), "{command}: {said}");
        }
    }
    signal("CONT", pid);
    assert_eq!(home.status("pid"), Some(pid.to_string()), "it makes its socket anew");
}

#[test]
fn connections_that_say_nothing_do_not_keep_a_daemon_from_being_ended() {
    let home = Home::new();
    let mut session = home.session(&[]);
    let mut mute = Vec::new();
    for _ in 0..400 {
        // A full backlog is sufficient.
        mute.extend(UnixStream::connect(home.file("sock")).ok());
    }
    assert_eq!(session.capacity()["total_workers"], 10);
    assert!(home.printed(&["stop"]).contains("has stopped"));
}
