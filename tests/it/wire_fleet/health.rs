//! The health of an agent, as the list shows it.

use serde_json::{Value, json};

use crate::support::wait_until;
use crate::wire_fleet::fleet::{agent, claim, listed, ready, register, register_as, submit, work};

#[test]
fn nothing_is_known_of_a_new_agent() {
    let mut server = ready(&[]);
    register(&mut server, "agent-1");
    let health = listed(&mut server, "agent-1")["health"].clone();
    assert_eq!(
        health,
        json!({
            "score": 0.5, "success_rate": null, "response_time": null, "load": 1.0, "heartbeat_regularity": 1.0
        })
    );
}

#[test]
fn the_score_is_made_of_its_four_parts() {
    let check = |options: &[&str], results: &[(&str, u64)], held: u64, expected: Value| {
        let mut server = ready(options);
        register(&mut server, "agent-1");
        work(&mut server, "agent-1", results);
        for number in 0..held {
            submit(&mut server, &format!("held-{number}"), 1);
            claim(&mut server, "agent-1");
        }
        let shown = listed(&mut server, "agent-1");
        assert_eq!(shown["health"], expected, "{results:?}, {held} held");
        assert_eq!(shown["load"], json!({"current_tasks": held, "max_concurrent": 3}));
    };
    let health = |score: f64, success_rate: f64, response_time: f64, load: f64| {
        json!({
            "score": score, "success_rate": success_rate, "response_time": response_time, "load": load,
            "heartbeat_regularity": 1.0
        })
    };
    // 0.4 of 2/3, 0.3 of 1 - 1000/3000, 0.2 of its whole capacity, 0.1 of all heartbeats.
    check(&[], &[("success", 500), ("failure", 1_500), ("success", 1_000)], 0, health(0.767, 0.667, 0.667, 1.0));
    check(&[], &[("success", 0)], 0, health(1.0, 1.0, 1.0, 1.0));
    check(&[], &[("success", 0)], 1, health(0.933, 1.0, 1.0, 0.667));
    check(&[], &[("success", 0)], 3, health(0.8, 1.0, 1.0, 0.0));
    check(&[], &[("success", 3_000), ("timeout", 9_000)], 3, health(0.3, 0.5, 0.0, 0.0));
    // The target is a setting.
    check(&["--response-target-ms", "1000"], &[("success", 250)], 0, health(0.925, 1.0, 0.75, 1.0));
}

#[test]
fn missed_heartbeats_lower_the_score_of_an_agent() {
    let mut server = ready(&["--heartbeat-seconds", "2"]);
    register_as(&mut server, "agent-1", json!({}));
    // The agent sends a heartbeat just before it would be lost, so it has missed some.
    wait_until("an agent that is late", || listed(&mut server, "agent-1")["state"] == "unresponsive");
    server.answer("heartbeat_agent", &agent("agent-1"));
    let shown = listed(&mut server, "agent-1");
    assert_eq!(shown["state"], "idle", "{shown}");
    let regularity = shown["health"]["heartbeat_regularity"].as_f64().expect("a number");
    assert!((0.3..1.0).contains(&regularity), "{shown}");
}
