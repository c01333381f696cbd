//! Daemons that are killed while sessions use them.

use serde_json::{Value, json};

use crate::daemon::home::{Home, signal, wait_until_gone};
use crate::daemon::refusals::pretend_at;
use crate::support::{
    WAIT_MAX,
    server::{Server, modern},
    wait_for, wait_until,
};

const CAPACITY: &str = "cluster://capacity";

/// Sends a call to a suspended daemon, which cannot answer it, and returns its id.
fn call_into_silence(home: &Home, session: &mut Server, params: &Value) -> u64 {
    signal("STOP", home.pid());
    session.send("tools/call", params)
}

#[track_caller]
fn check_lost(reply: &Value) {
    assert_eq!(reply["error"]["code"], -32000, "{reply}");
    assert_eq!(reply["error"]["data"], json!({"retryable": true}), "{reply}");
    let message = reply["error"]["message"].as_str().expect("a text");
    assert!(message.contains("all leases, agents and tasks are lost"), "{reply}");
}

#[test]
fn calls_in_flight_are_answered_and_later_ones_work() {
    let home = Home::new();
    let mut sessions = [home.session(&[]), home.session(&[])];
    for _ in 0..3 {
        let call = json!({"name": "get_capacity", "arguments": {}});
        let ids = sessions.each_mut().map(|session| call_into_silence(&home, session, &call));
        let pid = home.kill();
        for (session, id) in sessions.iter_mut().zip(ids) {
            check_lost(&session.reply(id));
        }
        for session in &mut sessions {
            assert_eq!(session.capacity()["total_workers"], 10);
            assert_eq!(session.ask("tools/list", &json!({}))["result"]["tools"].as_array().map(Vec::len), Some(6));
        }
        wait_until_gone(pid);
        assert_ne!(home.pid(), pid);
    }
    for mut session in sessions {
        session.close_input();
        session.check_end();
    }
}

#[test]
fn a_client_of_the_newer_protocol_continues_too() {
    let home = Home::new();
    let mut session = home.start(&[]);
    let capacity = modern(json!({"name": "get_capacity", "arguments": {}}));
    assert!(session.ask("tools/call", &capacity).get("result").is_some());
    let id = call_into_silence(&home, &mut session, &capacity);
    home.kill();
    check_lost(&session.reply(id));
    let reply = session.ask("tools/call", &capacity);
    assert_eq!(reply["result"]["structuredContent"]["total_workers"], 10, "{reply}");
}

#[test]
fn subscriptions_continue() {
    let home = Home::new();
    let check_notified = |session: &mut Server| {
        session.find("a notice", |message| message["method"] == "notifications/resources/updated");
    };
    let mut older = home.session(&[]);
    assert!(older.ask("resources/subscribe", &json!({"uri": CAPACITY})).get("result").is_some());
    let mut newer = home.start(&[]);
    let listen = modern(json!({"notifications": {"resourceSubscriptions": [CAPACITY]}}));
    let listening = newer.send("subscriptions/listen", &listen);
    let acknowledged = |message: &Value| message["method"] == "notifications/subscriptions/acknowledged";
    newer.find("an acknowledgement", acknowledged);
    let mut other = home.session(&[]);
    for round in 0..2 {
        home.kill();
        // The first notification to the older client reports that updates may have been missed.
        check_notified(&mut older);
        // An answered call shows that the session uses the new daemon and has renewed its subscriptions.
        let capacity = modern(json!({"name": "get_capacity", "arguments": {}}));
        wait_for("the newer session", || newer.ask("tools/call", &capacity).get("result").map(drop));
        wait_for("the other session", || {
            let arguments = json!({"job_id": "a", "mcp_servers": [], "workers": 1});
            other
                .ask("tools/call", &json!({"name": "request_resources", "arguments": arguments}))
                .get("result")
                .map(drop)
        });
        check_notified(&mut newer);
        check_notified(&mut older);
        assert_eq!(older.capacity()["allocated_workers"], 1, "round {round}");
    }
    newer.close_input();
    let rest = newer.rest();
    assert!(!rest.iter().any(acknowledged), "acknowledged once: {rest:?}");
    assert!(!rest.iter().any(|message| message["id"] == listening && message.get("error").is_some()), "{rest:?}");
}

#[test]
fn a_session_whose_daemons_keep_dying_gives_up() {
    let home = Home::new();
    let mut session = home.session(&[]);
    let mut last = 0;
    wait_until("the session to give up", || {
        // The daemon is killed as soon as the session is attached. An earlier kill would not count as a loss of the
        // session.
        let log = session.log();
        let pid = log.rsplit_once("pid=").and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
        if let Some(pid) = pid.filter(|pid| *pid != last) {
            signal("KILL", pid);
            last = pid;
        }
        session.log().contains("error: ")
    });
    assert_eq!(session.end().code(), Some(3), "{}", session.log());
    assert!(session.log().contains("5 daemons were lost within 30 s"), "{}", session.log());
}

#[test]
fn the_end_comes_within_a_second_while_the_daemon_is_silent() {
    let home = Home::new();
    for end in ["input", "TERM"] {
        let mut session = home.session(&[]);
        call_into_silence(&home, &mut session, &json!({"name": "get_capacity", "arguments": {}}));
        if end == "input" {
            session.close_input();
        } else {
            session.signal(end);
        }
        session.check_end();
        signal("CONT", home.pid());
    }
}

#[test]
fn the_end_comes_within_a_second_while_a_new_daemon_does_not_agree() {
    for end in ["input", "TERM"] {
        let home = Home::new();
        let mut session = home.session(&[]);
        let pid = home.pid();
        let (aside, socket) = (home.path("aside.sock"), home.file("sock"));
        let version = env!("CARGO_PKG_VERSION");
        let answered = pretend_at(&aside, &json!({"protocol": 1, "version": version, "pid": 1}).to_string());
        // The daemon is suspended so that it does not recreate its socket.
        signal("STOP", pid);
        std::fs::rename(&aside, &socket).expect("the socket's place");
        signal("KILL", pid);
        answered.recv_timeout(WAIT_MAX).expect("the session at the next daemon");
        wait_until("the session to go on", || session.log().contains("connected to another daemon"));
        if end == "input" {
            session.close_input();
        } else {
            session.signal(end);
        }
        session.check_end();
        std::fs::remove_file(&socket).expect("the socket");
    }
}

#[test]
fn a_listen_that_was_lost_before_it_was_acknowledged_is_acknowledged() {
    let home = Home::new();
    let mut session = home.start(&[]);
    let capacity = modern(json!({"name": "get_capacity", "arguments": {}}));
    assert!(session.ask("tools/call", &capacity).get("result").is_some());
    signal("STOP", home.pid());
    let listen = modern(json!({"notifications": {"resourceSubscriptions": [CAPACITY]}}));
    session.send("subscriptions/listen", &listen);
    let id = session.send("tools/call", &capacity);
    home.kill();
    check_lost(&session.reply(id));
    let acknowledged = |message: &Value| message["method"] == "notifications/subscriptions/acknowledged";
    session.find("an acknowledgement", acknowledged);
    home.kill();
    wait_for("the next daemon", || session.ask("tools/call", &capacity).get("result").map(drop));
    session.close_input();
    let rest = session.rest();
    assert!(!rest.iter().any(acknowledged), "acknowledged once: {rest:?}");
}

#[test]
fn starts_of_a_daemon_that_cannot_read_its_settings_are_limited() {
    let home = Home::new();
    let file = home.path("settings.toml");
    std::fs::write(&file, "total_workers = 4\n").expect("a file");
    let mut session = home.session(&["--config", file.to_str().expect("a path")]);
    assert_eq!(session.capacity()["total_workers"], 4);
    std::fs::write(&file, "total_workers = [\n").expect("a file");
    home.kill();
    wait_until("the session to give up", || session.log().contains("error: "));
    assert_eq!(session.end().code(), Some(3), "{}", session.log());
    let expected = "5 daemons exited at startup without reporting an error, the last with exit status: 2: see the log ";
    assert!(session.log().contains(expected), "{}", session.log());
    let log = std::fs::read_to_string(home.file("log")).expect("the daemon's log");
    assert_eq!(log.matches("error: ").count(), 5, "{log}");
}
