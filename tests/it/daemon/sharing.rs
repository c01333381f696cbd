//! Several sessions on one state.

use std::{collections::BTreeSet, os::unix::fs::PermissionsExt, thread};

use serde_json::json;

use crate::daemon::home::{Home, children, is_running, wait_until_gone};
use crate::support::{server::TRANSPORTS, wait_until};

#[test]
fn sessions_share_the_state_and_outlive_each_other() {
    let home = Home::new();
    for transport in TRANSPORTS {
        let mut one = home.start_on(transport, &[]);
        one.greet("2025-11-25");
        one.learn_schemas();
        let mut two = home.session(&[]);
        let id = one.grant(&json!({"job_id": "a", "mcp_servers": [], "workers": 10}));
        assert_eq!(two.allocation(&id)["allocation_id"], json!(id));
        let refused = two.call("request_resources", &json!({"job_id": "b", "mcp_servers": [], "workers": 1}));
        assert_eq!(refused["structuredContent"]["status"], "failed", "{refused}");

        one.signal("KILL");
        wait_until("the end of the session", || home.status("sessions").as_deref() == Some("1"));
        assert_eq!(two.capacity()["allocated_workers"], 10, "the lease of a killed session stays");
        two.answer("release_resources", &json!({"allocation_id": id}));
        assert_eq!(home.status("leases").as_deref(), Some("0"));
        two.close_input();
        two.check_end();
    }
}

#[test]
fn the_settings_of_a_session_apply_to_it_alone() {
    let home = Home::new();
    let mut one = home.session(&["--toolsets", "all", "--max-ttl-seconds", "5000", "--max-line-bytes", "2000"]);
    let mut two = home.session(&["--default-ttl-seconds", "77"]);
    let names = |server: &mut crate::support::server::Server| -> BTreeSet<String> {
        server.learn_schemas().iter().map(|tool| tool["name"].as_str().expect("a name").to_owned()).collect()
    };
    assert!(names(&mut one).contains("renew_allocation"));
    assert!(!names(&mut two).contains("renew_allocation"));
    let id = two.grant(&json!({"job_id": "a", "mcp_servers": [], "workers": 1}));
    assert_eq!(one.allocation(&id)["ttl_seconds"], 77);
    assert!(
        one.error("request_resources", &json!({"job_id": "a", "mcp_servers": [], "workers": 1, "ttl_seconds": 6000}))
            .contains("5000")
    );
    // The session itself answers a line that is too long, with its id.
    let long = one.send("tools/call", &json!({"name": "x".repeat(3_000)}));
    let refused = one.reply(long);
    assert!(refused["error"]["message"].as_str().expect("a text").contains("at most 2000 bytes"), "{refused}");
    assert_eq!(one.capacity()["allocated_workers"], 1);
}

#[test]
fn two_that_start_at_once_end_with_one_daemon() {
    for round in 0..20 {
        let home = Home::new();
        let pids: BTreeSet<u64> = thread::scope(|scope| {
            let start = || {
                let mut server = home.session(&[]);
                server.capacity();
                let pid = home.pid();
                // The running session reaps the daemons that lost the race. Only the daemon itself may remain.
                wait_until("the end of those that lost", || {
                    let children = children(server.process_id());
                    children.iter().all(|child| child.starts_with(&format!("{pid} ")))
                });
                server.close_input();
                server.check_end();
                pid
            };
            let threads = [(); 2].map(|()| scope.spawn(start));
            threads.map(|thread| thread.join().expect("no panic")).into()
        });
        assert_eq!(pids.len(), 1, "round {round}");
        let pid = home.pid();
        assert!(is_running(pid));
        assert!(home.printed(&["stop"]).contains(&format!("process {pid}")));
        wait_until_gone(pid);
    }
}

#[test]
fn the_status_describes_the_daemon() {
    let home = Home::new();
    assert_eq!(home.printed(&["status"]), "no daemon is running for the in-memory state\n");
    let mut session = home.session(&["--total-workers", "7", "--sweep-seconds", "1"]);
    session.grant(&json!({"job_id": "a", "mcp_servers": [], "workers": 3}));
    let status = |name: &str| home.status(name).unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(status("pid"), home.pid().to_string());
    assert_eq!(status("version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(status("state"), "the in-memory state");
    assert_eq!(status("sessions"), "1");
    assert_eq!(status("workers"), "4 free of 7");
    assert_eq!(status("cpu_cores"), "13 free of 16");
    assert_eq!((status("leases"), status("leases_expired")), ("1".to_owned(), "0".to_owned()));
    assert_eq!(status("instance").len(), 36);
    assert!(status("planner").contains(", last at "));
    assert_eq!(status("log"), home.file("log").display().to_string());
    wait_until("a sweep", || status("sweep").ends_with(": fine"));
}

#[test]
fn the_files_are_the_users_alone() {
    let home = Home::new();
    let _session = home.session(&[]);
    let mode = |path| std::fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode(home.path("cortex-resource-manager")), 0o700);
    assert_eq!(mode(home.file("log")), 0o600);
    let record = home.record().expect("a record");
    assert_eq!(record["socket"], json!(home.file("sock")));
    assert_eq!((&record["version"], &record["protocol"]), (&json!(env!("CARGO_PKG_VERSION")), &json!(1)));
}

#[test]
fn a_state_has_a_daemon_of_its_own_and_an_owner_that_is_none_is_named() {
    let home = Home::new();
    let (state, other) = (home.path("one.db"), home.path("two.db"));
    let (state, other) = (state.to_str().expect("a path"), other.to_str().expect("a path"));
    let on = |state| {
        let mut server = crate::support::server::Server::start_on(TRANSPORTS[0], home.command(&["--state", state]));
        server.greet("2025-11-25");
        server.learn_schemas();
        server
    };
    let (mut one, mut two, mut elsewhere) = (on(state), on(state), on(other));
    one.grant(&json!({"job_id": "a", "mcp_servers": [], "workers": 4}));
    assert_eq!(two.capacity()["allocated_workers"], 4);
    assert_eq!(elsewhere.capacity()["allocated_workers"], 0);
    assert!(home.printed(&["status", "--state", state]).contains(&format!("state: {state}\n")));
    let text = home.refusal(&["--daemon", "never", "--state", state]);
    let record = std::fs::read_to_string(format!("{state}.lock")).expect("a record");
    let pid = serde_json::from_str::<serde_json::Value>(&record).expect("JSON")["pid"].to_string();
    assert!(text.contains(&format!("process {pid} ")), "{text}");
    for state in [state, other] {
        assert!(home.printed(&["stop", "--state", state]).contains("has stopped"));
    }

    let mut alone =
        crate::support::server::Server::start_on(TRANSPORTS[0], home.command(&["--daemon", "never", "--state", state]));
    alone.greet("2025-11-25");
    let text = home.refusal(&["--state", state]);
    assert!(text.contains(&format!("process {} ", alone.process_id())), "{text}");
    assert!(home.printed(&["status", "--state", state]).contains(&format!("process {} ", alone.process_id())));
    let text = home.refusal(&["stop", "--state", state]);
    assert!(
        text.contains("no daemon is running for") && text.contains(&format!("process {} ", alone.process_id())),
        "{text}"
    );
    alone.close_input();
    alone.check_end();
}
