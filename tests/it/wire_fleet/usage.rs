//! The usage of quotas, tokens and the queue, and how they are set.

use serde_json::{Value, json};

use crate::support::{
    durable::{Ending, Home, MODES, Mode},
    pattern::{COUNT, TIME, check},
    server::Server,
    wait_until,
};
use crate::wire_fleet::fleet::{claim, ready, register, register_as, report, submit, usage};

/// Sets a token budget, which must be accepted, and returns the tokens.
fn set_budget(server: &mut Server, arguments: &Value) -> Value {
    let answer = server.answer("set_token_budget", arguments);
    assert_eq!(answer["status"], "set", "{answer}");
    let mut tokens = answer["tokens"].clone();
    let mut now = usage(server)["tokens"].clone();
    // A window may end between the two calls.
    for block in [&mut tokens, &mut now] {
        block["refills_at"] = json!(block["refills_at"].is_string());
    }
    assert_eq!(tokens, now, "the answer is the new state");
    answer["tokens"].clone()
}

/// Has an agent claim a task and report the tokens used.
fn spend(server: &mut Server, task: &Value, used: u64) {
    let mut task = task.clone();
    task["max_attempts"] = json!(1);
    server.answer("submit_task", &task);
    let held = claim(server, "agent-1");
    report(server, &held, "agent-1", "success", 10, used);
}

#[test]
fn the_blocks_of_a_new_server_key_for_key() {
    let mut server = ready(&[]);
    let none = json!({"avg_ms": 0, "oldest_ms": 0});
    assert_eq!(
        usage(&mut server),
        json!({
            "agents": {
                "total_quotas": 10, "active_agents": 0, "available_slots": 10, "by_type": {}, "has_quota": false
            },
            "tokens": {
                "total_budget": 200_000, "consumed": 0, "remaining": 200_000, "usage_ratio": 0.0, "avg_per_task": null,
                "reserved": 0, "overrun": 0, "window_seconds": 0, "refills_at": null, "jobs": {}
            },
            "queue": {
                "pending_tasks": 0, "by_priority": {"CRITICAL": 0, "HIGH": 0, "MEDIUM": 0, "LOW": 0},
                "avg_wait_time_ms": 0, "oldest_task_age_ms": 0, "running_tasks": 0, "bytes": 0,
                "wait_by_priority": {"CRITICAL": none, "HIGH": none, "MEDIUM": none, "LOW": none}
            },
            "conservation": {
                "is_on": false, "active_tasks": 0, "deferred_tasks": 0, "estimated_tokens": 0,
                "remaining_tokens": 200_000
            }
        })
    );
}

#[test]
fn the_blocks_follow_the_work() {
    let mut server = ready(&["--token-budget", "10000"]);
    register_as(&mut server, "agent-1", json!({"agent_type": "backend"}));
    spend(&mut server, &json!({"task_id": "done", "estimated_tokens": 1_000}), 1_500);
    let job = json!({"job_id": "job-1", "budget_tokens": 4_000});
    set_budget(&mut server, &job);
    for (priority, count) in [("LOW", 1), ("MEDIUM", 3), ("HIGH", 2), ("CRITICAL", 1)] {
        for number in 0..count {
            let task = json!({
                "task_id": format!("{priority}-{number}"), "priority": priority, "estimated_tokens": 1_000,
                "job_id": if priority == "CRITICAL" { json!("job-1") } else { Value::Null }, "payload": {"a": 1}
            });
            server.answer("submit_task", &task);
        }
    }
    assert_eq!(claim(&mut server, "agent-1")["task_id"], "CRITICAL-0");
    let wait = json!({"avg_ms": COUNT, "oldest_ms": COUNT});
    check(
        &usage(&mut server),
        &json!({
            "agents": {
                "total_quotas": 10, "active_agents": 1, "available_slots": 9,
                "by_type": {"backend": {"quota": 10, "active": 1}}
            },
            "tokens": {
                "total_budget": 10_000, "consumed": 1_500, "reserved": 1_000, "remaining": 7_500, "usage_ratio": 0.25,
                "avg_per_task": 1_500, "overrun": 500,
                "jobs": {
                    "job-1": {
                        "total_budget": 4_000, "consumed": 0, "reserved": 1_000, "remaining": 3_000,
                        "usage_ratio": 0.25,
                        "overrun": 0
                    }
                }
            },
            "queue": {
                "pending_tasks": 6, "by_priority": {"CRITICAL": 0, "HIGH": 2, "MEDIUM": 3, "LOW": 1},
                "running_tasks": 1, "avg_wait_time_ms": COUNT, "oldest_task_age_ms": COUNT, "bytes": COUNT,
                "wait_by_priority": {
                    "CRITICAL": {"avg_ms": 0, "oldest_ms": 0}, "HIGH": wait, "MEDIUM": wait, "LOW": wait
                }
            },
            "conservation": {
                "is_on": false, "active_tasks": 6, "deferred_tasks": 0, "estimated_tokens": 6_000,
                "remaining_tokens": 7_500
            }
        }),
    );
    wait_until("a wait that shows", || {
        let queue = usage(&mut server)["queue"].clone();
        let waited = |value: &Value| value.as_u64().is_some_and(|waited| waited > 0);
        waited(&queue["avg_wait_time_ms"]) && waited(&queue["oldest_task_age_ms"])
    });
}

#[test]
fn above_four_fifths_of_the_budget_tokens_are_conserved() {
    let mut server = ready(&["--token-budget", "1000"]);
    register(&mut server, "agent-1");
    spend(&mut server, &json!({"task_id": "done", "estimated_tokens": 850}), 850);
    for (task, priority, tokens) in
        [("dear", "LOW", 140), ("cheap", "HIGH", 10), ("middle", "MEDIUM", 100), ("huge", "CRITICAL", 151)]
    {
        server.answer("submit_task", &json!({"task_id": task, "priority": priority, "estimated_tokens": tokens}));
    }
    check(
        &usage(&mut server)["conservation"],
        &json!({
            "is_on": true, "active_tasks": 2, "deferred_tasks": 2, "estimated_tokens": 110, "remaining_tokens": 150
        }),
    );
    // A larger budget returns the tasks to the queue, and ends the conservation.
    let raised = server.answer("set_token_budget", &json!({"budget_tokens": 2_000}));
    check(
        &raised,
        &json!({
            "status": "set", "tokens": {"total_budget": 2_000, "consumed": 850, "usage_ratio": 0.425},
            "conservation": {
                "is_on": false, "active_tasks": 4, "deferred_tasks": 0, "estimated_tokens": 401,
                "remaining_tokens": 1_150
            }
        }),
    );
}

#[test]
fn a_budget_is_raised_and_lowered_but_not_below_what_is_used() {
    let mut server = ready(&["--token-budget", "1000"]);
    register(&mut server, "agent-1");
    spend(&mut server, &json!({"task_id": "done", "estimated_tokens": 100}), 300);
    submit(&mut server, "held", 200);
    claim(&mut server, "agent-1");
    let budget = |tokens: u64| json!({"budget_tokens": tokens});
    check(
        &set_budget(&mut server, &budget(5_000)),
        &json!({"total_budget": 5_000, "consumed": 300, "reserved": 200, "remaining": 4_500, "usage_ratio": 0.1}),
    );
    check(&set_budget(&mut server, &budget(500)), &json!({"remaining": 0, "usage_ratio": 1.0}));
    let error = server.error("set_token_budget", &budget(499));
    assert!(error.contains("499") && error.contains("300 are settled and 200 reserved"), "{error}");
    assert!(error.contains("give at least 500"), "the way out: {error}");
    assert_eq!(usage(&mut server)["tokens"]["total_budget"], 500);
}

#[test]
fn a_window_gives_back_what_was_used() {
    let mut server = ready(&["--token-budget", "1000"]);
    register(&mut server, "agent-1");
    spend(&mut server, &json!({"task_id": "done", "estimated_tokens": 100}), 600);
    submit(&mut server, "held", 200);
    claim(&mut server, "agent-1");
    // A new window alone does not change the tokens.
    check(
        &set_budget(&mut server, &json!({"window_seconds": 31_536_000})),
        &json!({"total_budget": 1_000, "window_seconds": 31_536_000, "refills_at": TIME, "consumed": 600}),
    );
    set_budget(&mut server, &json!({"budget_tokens": 900, "window_seconds": 1}));
    wait_until("a refill", || usage(&mut server)["tokens"]["consumed"] == 0);
    check(
        &usage(&mut server)["tokens"],
        &json!({"total_budget": 900, "reserved": 200, "remaining": 700, "window_seconds": 1, "overrun": 0}),
    );
    check(
        &set_budget(&mut server, &json!({"window_seconds": 0})),
        &json!({"total_budget": 900, "window_seconds": 0, "refills_at": null}),
    );
}

#[test]
fn a_job_may_have_a_budget_of_its_own() {
    let mut server = ready(&["--token-budget", "10000"]);
    register(&mut server, "agent-1");
    let set = server.answer("set_token_budget", &json!({"job_id": "job-1", "budget_tokens": 1_000}));
    check(
        &set,
        &json!({"status": "set", "tokens": {"total_budget": 10_000, "jobs": {"job-1": {"total_budget": 1_000}}}}),
    );
    spend(&mut server, &json!({"task_id": "a", "job_id": "job-1", "estimated_tokens": 700}), 700);
    spend(&mut server, &json!({"task_id": "b", "job_id": "job-2", "estimated_tokens": 700}), 700);
    let submitted = server.answer("submit_task", &json!({"task_id": "c", "job_id": "job-1", "estimated_tokens": 301}));
    check(&submitted, &json!({"state": "deferred", "deferred_reason": "insufficient_job_tokens"}));
    check(
        &usage(&mut server)["tokens"],
        &json!({"consumed": 1_400, "jobs": {"job-1": {"consumed": 700, "remaining": 300, "usage_ratio": 0.7}}}),
    );
    let error = server.error("set_token_budget", &json!({"job_id": "job-1", "budget_tokens": 699}));
    assert!(error.contains("700 are settled"), "{error}");

    let removed = server.answer("set_token_budget", &json!({"job_id": "job-1", "remove": true}));
    check(&removed, &json!({"status": "removed", "tokens": {"total_budget": 10_000}}));
    assert_eq!(removed["tokens"]["jobs"], json!({}));
    check(&server.answer("get_task", &json!({"task_id": "c"})), &json!({"state": "queued"}));
    // Removing an absent value changes nothing.
    let removed = server.answer("set_token_budget", &json!({"job_id": "job-1", "remove": true}));
    assert_eq!(removed["tokens"]["jobs"], json!({}));
}

#[test]
fn a_quota_is_set_and_taken_away() {
    let mut server = ready(&[]);
    let set = |server: &mut Server, arguments: Value, status: &str| {
        let answer = server.answer("set_agent_quota", &arguments);
        assert_eq!(answer["status"], status, "{answer}");
        assert_eq!(answer["agents"], usage(server)["agents"], "the answer is the new state");
        answer["agents"].clone()
    };
    let backend = || json!({"agent_type": "backend"});
    let with = |mut arguments: Value, key: &str, value: Value| {
        arguments[key] = value;
        arguments
    };
    check(
        &set(&mut server, with(backend(), "quota", json!(0)), "set"),
        &json!({"total_quotas": 10, "by_type": {"backend": {"quota": 0, "active": 0, "has_own_quota": true}}}),
    );
    server.error("register_agent", &json!({"agent_id": "b", "agent_type": "backend"}));
    check(&set(&mut server, json!({"quota": 4_294_967_295_u64}), "set"), &json!({"total_quotas": 4_294_967_295_u64}));
    let agents = set(&mut server, with(backend(), "remove", json!(true)), "removed");
    assert_eq!(agents["by_type"], json!({}));
    register_as(&mut server, "b", backend());
    check(
        &set(&mut server, json!({"remove": true, "agent_type": null}), "removed"),
        &json!({"total_quotas": 10, "has_quota": false, "by_type": {"backend": {"quota": 10}}}),
    );
}

/// Returns the budget and the window of a server on the state.
fn budget_on(server: &mut Server) -> (Value, Value) {
    let tokens = usage(server)["tokens"].clone();
    (tokens["total_budget"].clone(), tokens["window_seconds"].clone())
}

#[test]
fn a_state_remembers_its_budget() {
    for mode in MODES {
        let home = Home::new();
        let check = |options: &[&str], expected: (u64, u64), warning: Option<&str>| {
            let mut server = home.server(mode, options);
            assert_eq!(budget_on(&mut server), (json!(expected.0), json!(expected.1)), "{options:?}");
            if let Some(warning) = warning {
                let log = || server.log() + &home.daemon_log();
                wait_until(warning, || log().contains(warning));
            }
            server
        };
        let server = check(&["--token-budget", "500", "--token-window-seconds", "60"], (500, 60), None);
        home.end(server, Ending::InOrder);
        let mut server = check(&[], (500, 60), None);
        set_budget(&mut server, &json!({"budget_tokens": 700}));
        home.end(server, Ending::Killed);
        let warning = "token_budget is 900, but the state has 700, which is used: change it with set_token_budget, \
                       or give --resize yes";
        let server = check(&["--token-budget", "900"], (700, 60), Some(warning));
        home.end(server, Ending::InOrder);
        let warning = "token_window_seconds is 30, but the state has 60, which is used";
        let server = check(&["--token-window-seconds", "30"], (700, 60), Some(warning));
        home.end(server, Ending::InOrder);
        let server = check(&["--token-budget", "900", "--resize", "yes"], (900, 60), None);
        home.end(server, Ending::InOrder);
        // A budget of 0, which stops all work, is not raised by a restart.
        let mut server = check(&[], (900, 60), None);
        set_budget(&mut server, &json!({"budget_tokens": 0, "window_seconds": 0}));
        home.end(server, Ending::InOrder);
        let server = check(&[], (0, 0), None);
        home.end(server, Ending::InOrder);
        home.printed("verify", &[]);
    }
}

#[test]
fn a_session_with_another_budget_gets_a_warning() {
    let home = Home::new();
    let mut first = home.server(Mode::Auto, &["--token-budget", "500"]);
    let mut second = home.server(Mode::Auto, &["--token-budget", "600", "--heartbeat-seconds", "7"]);
    assert_eq!(budget_on(&mut second), (json!(500), json!(0)));
    for expected in ["token_budget is 600, but 500", "set_token_budget", "heartbeat_seconds is 7, but 10"] {
        wait_until(expected, || second.log().contains(expected));
    }
    assert_eq!(register(&mut second, "agent-1")["heartbeat_seconds"], 10, "that of the daemon");
    assert_eq!(usage(&mut first)["agents"]["active_agents"], 1);
    drop(second);
    home.end(first, Ending::InOrder);
}
