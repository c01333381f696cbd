//! Bottlenecks: those that a call finds, and those that the planner finds and reports by itself.

use serde_json::{Value, json};

use crate::support::{
    pattern::{COUNT, TIME, check},
    server::Server,
    wait_until,
};
use crate::wire_fleet::fleet::{agent, claim, ready, register, register_as, report, submit, work};

/// Returns the present bottlenecks.
fn detect(server: &mut Server) -> Vec<Value> {
    let answer = server.answer("detect_bottlenecks", &json!({}));
    let found = answer["bottlenecks"].as_array().expect("a list").clone();
    assert_eq!(answer["count"], found.len());
    for one in &found {
        for text in ["description", "advice"] {
            assert!(one[text].as_str().is_some_and(|text| !text.is_empty()), "{text}: {one}");
        }
    }
    found
}

/// Checks the bottlenecks, by type, affected names and severity.
fn check_found(server: &mut Server, expected: &[(&str, &[&str], &str)]) -> Vec<Value> {
    let found = detect(server);
    let seen: Vec<Value> =
        found.iter().map(|one| json!([one["bottleneck_type"], one["affected"], one["severity"]])).collect();
    let expected: Vec<Value> = expected.iter().map(|(kind, names, severity)| json!([kind, names, severity])).collect();
    assert_eq!(seen, expected, "{found:#?}");
    found
}

/// Returns what the planner found in its last sample.
fn shown(server: &mut Server) -> Value {
    let reply = server.ask("resources/read", &json!({"uri": "cluster://bottlenecks"}));
    let text = reply["result"]["contents"][0]["text"].as_str().unwrap_or_else(|| panic!("{reply} has no text"));
    serde_json::from_str(text).expect("JSON")
}

/// Waits until the planner has taken a sample after a change.
fn wait_for_looks(server: &mut Server) {
    let mut looks = 0;
    let mut last = shown(server)["detected_at"].clone();
    wait_until("two more looks", || {
        let now = shown(server)["detected_at"].clone();
        looks += u32::from(now != last);
        last = now;
        looks >= 2
    });
}

#[test]
fn without_a_shortage_no_bottleneck_is_found() {
    let mut server = ready(&[]);
    let answer = server.answer("detect_bottlenecks", &json!({}));
    check(&answer, &json!({"bottlenecks": [], "count": 0, "detected_at": TIME}));
    check(&shown(&mut server), &json!({"bottlenecks": [], "count": 0, "detected_at": TIME}));
}

#[test]
fn tokens_that_run_out() {
    let mut server = ready(&["--token-budget", "1000"]);
    register(&mut server, "agent-1");
    server.answer("set_token_budget", &json!({"job_id": "job-1", "budget_tokens": 800}));
    server.answer("submit_task", &json!({"task_id": "a", "job_id": "job-1", "estimated_tokens": 800}));
    claim(&mut server, "agent-1");
    // All of the job's tokens, but exactly four fifths of the total, which does not exceed the limit.
    check_found(&mut server, &[("token_exhaustion", &["job-1"], "critical")]);
    submit(&mut server, "b", 10);
    claim(&mut server, "agent-1");
    let found =
        check_found(&mut server, &[("token_exhaustion", &["job-1"], "critical"), ("token_exhaustion", &[], "low")]);
    check(
        &found[1]["metrics"],
        &json!({
            "usage_ratio": 0.81, "remaining": 190, "total_budget": 1_000, "consumed": 0, "reserved": 810, "overrun": 0
        }),
    );
    server.answer("set_token_budget", &json!({"budget_tokens": 2_000}));
    server.answer("cancel_task", &json!({"task_id": "a"}));
    check_found(&mut server, &[]);
}

#[test]
fn quotas_that_are_reached() {
    let mut server = ready(&[]);
    server.answer("set_agent_quota", &json!({"agent_type": "backend", "quota": 1}));
    register_as(&mut server, "agent-1", json!({"agent_type": "backend"}));
    for number in 2..=9 {
        register(&mut server, &format!("agent-{number}"));
    }
    let found = check_found(&mut server, &[("quota_exceeded", &["backend"], "high"), ("quota_exceeded", &[], "low")]);
    check(&found[1]["metrics"], &json!({"quota": 10, "active_agents": 9, "available_slots": 1, "usage_ratio": 0.9}));
    server.answer("unregister_agent", &agent("agent-1"));
    check_found(&mut server, &[]);
}

#[test]
fn agents_that_are_slow_or_fail() {
    let mut server = ready(&[]);
    for name in ["good", "slow", "bad"] {
        register(&mut server, name);
    }
    work(&mut server, "good", &[("success", 100); 10]);
    work(&mut server, "slow", &[("success", 1_000); 5]);
    work(&mut server, "bad", &[("failure", 100); 4]);
    // Four failures are too few for a rate. The slow agent is compared with the 14 tasks of the others.
    let found = check_found(&mut server, &[("slow_agent", &["slow"], "high")]);
    check(
        &found[0]["metrics"],
        &json!({
            "ended_tasks": 5, "success_rate": 1.0, "avg_duration_ms": 1_000, "others_avg_duration_ms": 100
        }),
    );
    server.answer("submit_task", &json!({"task_id": "fifth", "estimated_tokens": 1, "max_attempts": 1}));
    let fifth = claim(&mut server, "bad");
    report(&mut server, &fifth, "bad", "success", 100, 0);
    let found = check_found(&mut server, &[("slow_agent", &["bad"], "high"), ("slow_agent", &["slow"], "high")]);
    check(&found[0]["metrics"], &json!({"ended_tasks": 5, "success_rate": 0.2}));
    assert!(found[0]["description"].as_str().expect("a text").contains("1 of its 5 tasks"), "{found:?}");
}

#[test]
fn each_change_of_a_bottleneck_is_logged_once() {
    let mut server = ready(&["--plan-seconds", "1"]);
    server.ask("resources/subscribe", &json!({"uri": "cluster://bottlenecks"}));
    let is_notice = |message: &Value| {
        message["method"] == "notifications/resources/updated" && message["params"]["uri"] == "cluster://bottlenecks"
    };
    for number in 0..49 {
        submit(&mut server, &format!("task-{number}"), 1);
    }
    check_found(&mut server, &[]);
    submit(&mut server, "task-49", 1);
    let found = check_found(&mut server, &[("task_queue_backlog", &[], "critical")]);
    check(
        &found[0]["metrics"],
        &json!({
            "pending_tasks": 50, "deferred_tasks": 0, "running_tasks": 0, "active_agents": 0,
            "avg_wait_time_ms": COUNT, "oldest_task_age_ms": COUNT
        }),
    );
    // A call does not cause a notification. The planner's own samples do.
    wait_until("what the planner finds", || shown(&mut server)["count"] == 1);
    server.find("a notice", is_notice);
    check(
        &shown(&mut server),
        &json!({
            "count": 1, "bottlenecks": [{"bottleneck_type": "task_queue_backlog", "affected": []}],
            "detected_at": TIME
        }),
    );
    wait_for_looks(&mut server);
    register(&mut server, "agent-1");
    let task = claim(&mut server, "agent-1");
    report(&mut server, &task, "agent-1", "success", 1, 1);
    check_found(&mut server, &[]);
    wait_until("what the planner finds", || shown(&mut server)["count"] == 0);
    wait_for_looks(&mut server);
    submit(&mut server, "task-50", 1);
    wait_until("what the planner finds", || shown(&mut server)["count"] == 1);
    wait_for_looks(&mut server);
    let log = server.log();
    let count = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    assert_eq!((count("bottleneck appeared"), count("bottleneck is gone")), (2, 1), "{log}");
    let line = log.lines().find(|line| line.contains("bottleneck appeared")).unwrap_or_default();
    for part in ["WARN", "task_queue_backlog", "critical", "50 tasks wait"] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
}
