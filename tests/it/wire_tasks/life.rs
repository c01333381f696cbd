//! The life of a task from its submission to its end, and the failures on the way.

use serde_json::{Value, json};

use crate::support::{
    pattern::{COUNT, TIME, check},
    server::{Server, call, cancel},
};
use crate::wire_tasks::fleet::{
    claim, claim_one, ids, ready, register, report, submit, task, timeless, wait_for_state,
};

/// Returns a task with all arguments.
fn full() -> Value {
    json!({
        "task_id": "task-1", "job_id": "job-1", "agent_type": "worker", "capabilities": [], "priority": "high",
        "estimated_tokens": 1500, "complexity": "complex", "input": "two words",
        "deadline": "9999-01-01T00:00:00+01:00",
        "batch_key": "batch", "payload": {"file": "a.rs", "lines": [1, 2.5, null]}, "max_attempts": 2,
        "lease_seconds": 60
    })
}

#[test]
fn a_task_from_its_submission_to_its_end() {
    let mut server = ready(&[]);
    register(&mut server, "agent-1", 3);
    check(
        &server.answer("submit_task", &full()),
        &json!({
            "status": "submitted", "task_id": "task-1", "job_id": "job-1", "state": "queued", "deferred_reason": null,
            "priority": "HIGH", "estimated_tokens": 1500, "is_estimated": false, "deadline": "9998-12-31T23:00:00.000Z",
            "lease_seconds": 60, "max_attempts": 2, "submitted_at": TIME
        }),
    );
    let queued = json!({
        "task_id": "task-1", "job_id": "job-1", "state": "queued", "deferred_reason": null, "priority": "HIGH",
        "effective_priority": "HIGH", "agent_type": "worker", "capabilities": [], "batch_key": "batch",
        "estimated_tokens": 1500, "is_estimated": false, "complexity": "complex", "input_characters": 9,
        "deadline": "9998-12-31T23:00:00.000Z", "lease_seconds": 60, "max_attempts": 2, "attempts_left": 2,
        "attempts": [], "lease": null, "payload": {"file": "a.rs", "lines": [1, 2.5, null]}, "output": null,
        "error": null, "tokens_used": 0,
        "timestamps": {"submitted_at": TIME, "started_at": null, "ended_at": null, "age_seconds": COUNT}
    });
    check(&task(&mut server, "task-1"), &queued);

    let claimed = claim(&mut server, "agent-1");
    check(
        &claimed,
        &json!({
            "status": "claimed", "count": 1,
            "tasks": [{
                "task_id": "task-1", "fencing_token": COUNT, "lease_expires_at": TIME, "attempt": 1, "max_attempts": 2,
                "priority": "HIGH", "estimated_tokens": 1500, "job_id": "job-1", "batch_key": "batch",
                "deadline": "9998-12-31T23:00:00.000Z", "payload": {"file": "a.rs", "lines": [1, 2.5, null]}
            }]
        }),
    );
    assert_eq!(claimed.get("reason"), None);
    let held = &claimed["tasks"][0];
    assert_eq!(held.get("payload_omitted"), None);
    let running = task(&mut server, "task-1");
    check(
        &running,
        &json!({
            "state": "running", "effective_priority": null, "attempts": [], "attempts_left": 1,
            "lease": {
                "agent_id": "agent-1", "fencing_token": held["fencing_token"], "attempt": 1, "leased_at": TIME,
                "expires_at": held["lease_expires_at"]
            },
            "timestamps": {"started_at": TIME, "ended_at": null}
        }),
    );

    let mut done = report(held, "agent-1", "success");
    done["tokens_used"] = json!(1234);
    done["duration_ms"] = json!(5678);
    done["output"] = json!({"answer": [42, "é"]});
    check(
        &server.answer("complete_task", &done),
        &json!({
            "status": "completed", "task_id": "task-1", "state": "completed", "deferred_reason": null,
            "result": "success", "tokens_used": 1234, "duration_ms": 5678, "attempts": 1, "max_attempts": 2,
            "attempts_left": 0, "reported_at": TIME
        }),
    );
    check(
        &task(&mut server, "task-1"),
        &json!({
            "state": "completed", "effective_priority": null, "lease": null, "output": {"answer": [42, "é"]},
            "error": null, "tokens_used": 1234, "attempts_left": 0,
            "attempts": [{
                "attempt": 1, "agent_id": "agent-1", "fencing_token": held["fencing_token"], "outcome": "success",
                "tokens_used": 1234, "duration_ms": 5678, "error": null, "started_at": TIME, "ended_at": TIME
            }],
            "timestamps": {"started_at": running["timestamps"]["started_at"], "ended_at": TIME}
        }),
    );
    check(&claim(&mut server, "agent-1"), &json!({"status": "none", "reason": "no_task"}));
}

#[test]
fn omitted_arguments_of_a_task_have_defaults() {
    let mut server = ready(&["--task-lease-seconds", "77"]);
    register(&mut server, "a", 3);
    let submitted = server.answer("submit_task", &json!({}));
    check(
        &submitted,
        &json!({
            "status": "submitted", "job_id": null, "state": "queued", "priority": "MEDIUM", "estimated_tokens": 1000,
            "is_estimated": true, "deadline": null, "lease_seconds": 77, "max_attempts": 3
        }),
    );
    let id = submitted["task_id"].as_str().expect("an id");
    check(
        &task(&mut server, id),
        &json!({
            "agent_type": null, "capabilities": [], "batch_key": null, "complexity": "medium", "input_characters": 0,
            "payload": null
        }),
    );
    let held = claim_one(&mut server, "a");
    check(&held, &json!({"task_id": id, "job_id": null, "batch_key": null, "deadline": null, "payload": null}));
    // Values that the agent does not report come from the estimate and the clock.
    let done = server.answer("complete_task", &report(&held, "a", "success"));
    check(&done, &json!({"status": "completed", "tokens_used": 1000, "duration_ms": COUNT}));
}

#[test]
fn tokens_are_estimated_from_complexity_and_input_unless_they_are_given() {
    let mut server = ready(&[]);
    let input = "é".repeat(1_000);
    for (arguments, expected, is_estimated) in [
        (json!({"complexity": "simple"}), 500, true),
        (json!({"complexity": "Medium"}), 1000, true),
        (json!({"complexity": "complex"}), 2000, true),
        (json!({"input": input}), 1750, true),
        (json!({"input": input, "complexity": "simple"}), 1250, true),
        (json!({"input": input, "complexity": "simple", "estimated_tokens": 7}), 7, false),
        (json!({"estimated_tokens": 1_000_000_000_000_u64}), 1_000_000_000_000_u64, false),
    ] {
        let submitted = server.answer("submit_task", &arguments);
        check(&submitted, &json!({"estimated_tokens": expected, "is_estimated": is_estimated}));
    }
}

#[test]
fn a_task_that_fails_goes_back_until_its_attempts_are_used_up() {
    let mut server = ready(&[]);
    register(&mut server, "a", 3);
    register(&mut server, "b", 3);
    let id = submit(&mut server, &json!({"max_attempts": 3, "estimated_tokens": 100}));
    let mut history = Vec::new();
    for (round, agent, result, then, left) in
        [(1, "a", "failure", "requeued", 2), (2, "b", "timeout", "requeued", 1), (3, "a", "failure", "failed", 0)]
    {
        let held = claim_one(&mut server, agent);
        check(&held, &json!({"task_id": id, "attempt": round, "max_attempts": 3}));
        let mut failed = report(&held, agent, result);
        failed["tokens_used"] = json!(round * 10);
        failed["duration_ms"] = json!(round * 100);
        failed["error"] = json!(format!("round {round}\nline 2\t\u{0}"));
        let state = if then == "failed" { "failed" } else { "queued" };
        check(
            &server.answer("complete_task", &failed),
            &json!({
                "status": then, "state": state, "result": result, "tokens_used": round * 10, "attempts": round,
                "attempts_left": left
            }),
        );
        history.push(json!({
            "attempt": round, "agent_id": agent, "fencing_token": held["fencing_token"], "outcome": result,
            "tokens_used": round * 10, "duration_ms": round * 100, "error": failed["error"]
        }));
        check(
            &task(&mut server, &id),
            &json!({
                "state": state, "attempts": history, "attempts_left": left, "error": failed["error"],
                "tokens_used": (1..=round).sum::<u32>() * 10, "output": null
            }),
        );
    }
    check(&claim(&mut server, "b"), &json!({"status": "none", "reason": "no_task"}));
}

#[test]
fn a_task_that_failed_goes_back_to_its_old_place() {
    let mut server = ready(&[]);
    register(&mut server, "a", 1);
    let first = submit(&mut server, &json!({}));
    submit(&mut server, &json!({}));
    let held = claim_one(&mut server, "a");
    assert_eq!(held["task_id"], first);
    server.answer("complete_task", &report(&held, "a", "failure"));
    assert_eq!(claim_one(&mut server, "a")["task_id"], first);
}

#[test]
fn a_report_may_be_repeated_and_counts_once() {
    let mut server = ready(&[]);
    register(&mut server, "a", 3);
    let id = submit(&mut server, &json!({"max_attempts": 3}));
    let first = claim_one(&mut server, "a");
    let mut failed = report(&first, "a", "failure");
    failed["tokens_used"] = json!(5);
    let reported = server.answer("complete_task", &failed);
    let before = timeless(task(&mut server, &id));
    check(
        &server.answer("complete_task", &failed),
        &json!({
            "status": "already_reported", "state": "queued", "result": "failure", "tokens_used": 5, "attempts": 1,
            "reported_at": reported["reported_at"]
        }),
    );
    assert_eq!(timeless(task(&mut server, &id)), before);
    // Also during the next attempt, and after the end.
    let second = claim_one(&mut server, "a");
    check(&server.answer("complete_task", &failed), &json!({"status": "already_reported", "state": "running"}));
    server.answer("complete_task", &report(&second, "a", "success"));
    for (held, result) in [(&first, "failure"), (&second, "success")] {
        let again = server.answer("complete_task", &report(held, "a", result));
        check(&again, &json!({"status": "already_reported", "state": "completed", "result": result, "attempts": 2}));
    }
    // A report with other content is not a repeat.
    let error = server.error("complete_task", &report(&first, "a", "success"));
    assert!(error.contains("fencing_token"), "{error}");
}

#[test]
fn a_late_report_is_refused_and_changes_nothing() {
    let mut server = ready(&[]);
    register(&mut server, "slow", 3);
    register(&mut server, "quick", 3);
    let id = submit(&mut server, &json!({"lease_seconds": 1, "max_attempts": 3}));
    let late = claim_one(&mut server, "slow");
    let queued = wait_for_state(&mut server, &id, "queued");
    check(
        &queued,
        &json!({"attempts": [{"outcome": "lease_expired", "agent_id": "slow", "tokens_used": 0}], "attempts_left": 2}),
    );
    // While no agent holds it, while another one does, and while its first agent holds it under a new token.
    let check_refused = |server: &mut Server| {
        let before = timeless(task(server, &id));
        let error = server.error("complete_task", &report(&late, "slow", "success"));
        assert!(error.contains(&id) && error.contains("drop the work") || error.contains("quick"), "{error}");
        assert_eq!(timeless(task(server, &id)), before);
    };
    check_refused(&mut server);
    let held = claim_one(&mut server, "quick");
    check_refused(&mut server);
    server.answer("complete_task", &report(&held, "quick", "failure"));
    let again = claim_one(&mut server, "slow");
    assert!(again["fencing_token"].as_u64() > late["fencing_token"].as_u64());
    check_refused(&mut server);
    check(&server.answer("complete_task", &report(&again, "slow", "success")), &json!({"status": "completed"}));
    check_refused(&mut server);
}

#[test]
fn only_the_holder_reports_on_a_task() {
    let mut server = ready(&[]);
    register(&mut server, "a", 3);
    register(&mut server, "b", 3);
    let id = submit(&mut server, &json!({}));
    let held = claim_one(&mut server, "a");
    let before = timeless(task(&mut server, &id));
    let error = server.error("complete_task", &report(&held, "b", "success"));
    assert!(error.contains(&id) && error.contains("not by agent b") && error.contains("by agent a"), "{error}");
    let mut stale = report(&held, "a", "success");
    stale["fencing_token"] = json!(held["fencing_token"].as_u64().expect("a token") + 1);
    let error = server.error("complete_task", &stale);
    assert!(error.contains("fencing_token") && error.contains(&stale["fencing_token"].to_string()), "{error}");
    assert_eq!(timeless(task(&mut server, &id)), before);
}

#[test]
fn a_task_may_be_submitted_again_under_its_id() {
    let mut server = ready(&[]);
    let first = server.answer("submit_task", &full());
    let mut worded = full();
    worded["priority"] = json!("HIGH");
    worded["deadline"] = json!("9998-12-31T23:00:00Z");
    worded["payload"] = json!({"lines": [1, 2.5, null], "file": "a.rs"});
    for again in [full(), worded] {
        let mut expected = first.clone();
        expected["status"] = json!("already_submitted");
        assert_eq!(server.answer("submit_task", &again), expected);
    }
    for (key, value) in [
        ("job_id", json!("job-2")),
        ("agent_type", Value::Null),
        ("capabilities", json!(["rust"])),
        ("priority", json!("LOW")),
        ("estimated_tokens", json!(1501)),
        ("deadline", json!("9998-12-31T23:00:01Z")),
        ("batch_key", Value::Null),
        ("payload", json!({"file": "a.rs"})),
        ("max_attempts", json!(3)),
        ("lease_seconds", json!(61)),
    ] {
        let mut other = full();
        other[key] = value;
        let error = server.error("submit_task", &other);
        assert!(error.contains("task_id") && error.contains("task-1"), "{key}: {error}");
    }
    check(&server.answer("list_tasks", &json!({})), &json!({"total": 1}));
    // A repeated submission returns the present task.
    server.answer("cancel_task", &json!({"task_id": "task-1"}));
    check(&server.answer("submit_task", &full()), &json!({"status": "already_submitted", "state": "cancelled"}));
}

#[test]
fn a_task_is_taken_back_wherever_it_is() {
    let mut server = ready(&[]);
    register(&mut server, "a", 3);
    let waiting = submit(&mut server, &json!({}));
    let by_id = json!({"task_id": waiting});
    let cancelled = server.answer("cancel_task", &by_id);
    check(
        &cancelled,
        &json!({"status": "cancelled", "task_id": waiting, "state": "cancelled", "agent_id": null, "ended_at": TIME}),
    );
    let again = server.answer("cancel_task", &by_id);
    check(&again, &json!({"status": "already_ended", "state": "cancelled", "ended_at": cancelled["ended_at"]}));

    let running = submit(&mut server, &json!({}));
    let held = claim_one(&mut server, "a");
    let cancelled = server.answer("cancel_task", &json!({"task_id": running}));
    check(&cancelled, &json!({"status": "cancelled", "state": "cancelled", "agent_id": "a"}));
    let error = server.error("complete_task", &report(&held, "a", "success"));
    assert!(error.contains(&running), "{error}");
    check(
        &task(&mut server, &running),
        &json!({"state": "cancelled", "attempts": [{"outcome": "cancelled", "agent_id": "a"}], "attempts_left": 0}),
    );

    let done = submit(&mut server, &json!({}));
    let held = claim_one(&mut server, "a");
    server.answer("complete_task", &report(&held, "a", "success"));
    let after = server.answer("cancel_task", &json!({"task_id": done}));
    check(&after, &json!({"status": "already_ended", "state": "completed", "agent_id": null}));
}

#[test]
fn a_task_can_be_made_more_or_less_urgent() {
    let mut server = ready(&[]);
    register(&mut server, "a", 9);
    let tasks: Vec<_> = (0..3).map(|_| submit(&mut server, &json!({}))).collect();
    let update = |server: &mut Server, id: &str, key: &str, value: &str| {
        server.answer("update_task", &json!({"task_id": id, key: value}))
    };
    let updated = update(&mut server, &tasks[2], "priority", "critical");
    check(
        &updated,
        &json!({
            "status": "updated", "task_id": tasks[2], "state": "queued", "deferred_reason": null,
            "priority": "CRITICAL", "deadline": null
        }),
    );
    update(&mut server, &tasks[0], "priority", "Low");
    let updated = update(&mut server, &tasks[0], "deadline", "9999-01-01T00:00:00Z");
    check(&updated, &json!({"priority": "LOW", "deadline": "9999-01-01T00:00:00.000Z"}));
    check(
        &task(&mut server, &tasks[0]),
        &json!({"priority": "LOW", "effective_priority": "LOW", "deadline": "9999-01-01T00:00:00.000Z"}),
    );
    let order: Vec<_> = (0..3).map(|_| claim_one(&mut server, "a")).collect();
    let order: Vec<_> = order.iter().map(|held| held["task_id"].as_str().expect("an id")).collect();
    assert_eq!(order, [&tasks[2], &tasks[1], &tasks[0]]);
    // A task that has ended does not change.
    server.answer("cancel_task", &json!({"task_id": tasks[1]}));
    let error = server.error("update_task", &json!({"task_id": tasks[1], "priority": "LOW"}));
    assert!(error.contains(&tasks[1]) && error.contains("cancelled"), "{error}");
}

#[test]
fn a_deadline_that_has_passed_is_refused() {
    let mut server = ready(&[]);
    let id = submit(&mut server, &json!({"deadline": "9999-01-01T00:00:00Z"}));
    for past in ["2001-01-01T00:00:00Z", "1969-12-31T23:59:59.999+05:30", "0000-01-01T00:00:00Z"] {
        let error = server.error("submit_task", &json!({"deadline": past}));
        assert!(error.contains("deadline is") && error.contains("passed"), "{error}");
        let error = server.error("update_task", &json!({"task_id": id, "deadline": past}));
        assert!(error.contains("deadline is") && error.contains("passed"), "{error}");
    }
    check(&server.answer("list_tasks", &json!({})), &json!({"total": 1}));
    check(&task(&mut server, &id), &json!({"deadline": "9999-01-01T00:00:00.000Z"}));
}

#[test]
fn a_task_is_assigned_to_an_agent_that_can_take_it() {
    let mut server = ready(&[]);
    let id = submit(&mut server, &json!({"agent_type": "worker", "batch_key": "k", "payload": "secret"}));
    let error = server.error("assign_task", &json!({"task_id": id}));
    assert!(error.contains(&id) && error.contains("register one"), "{error}");
    server.answer("register_agent", &json!({"agent_id": "other", "agent_type": "other", "capabilities": []}));
    register(&mut server, "a", 2);
    let friend = submit(&mut server, &json!({"batch_key": "k"}));
    let assigned = server.answer("assign_task", &json!({"task_id": id}));
    check(
        &assigned,
        &json!({
            "status": "assigned", "agent_id": "a", "count": 2,
            "tasks": [{
                "task_id": id, "fencing_token": COUNT, "lease_expires_at": TIME, "attempt": 1, "max_attempts": 3,
                "priority": "MEDIUM", "estimated_tokens": 1000, "job_id": null, "batch_key": "k", "deadline": null
            }, {"task_id": friend}]
        }),
    );
    assert_eq!(assigned["tasks"][0].get("payload"), None);
    let error = server.error("assign_task", &json!({"task_id": id}));
    assert!(error.contains(&id) && error.contains("held by agent a"), "{error}");
    check(&claim(&mut server, "a"), &json!({"status": "none", "reason": "agent_is_full"}));
    let third = submit(&mut server, &json!({"agent_type": "worker"}));
    let error = server.error("assign_task", &json!({"task_id": third}));
    assert!(error.contains(&third) && error.contains("1 are full"), "{error}");
    let done = server.answer("complete_task", &report(&assigned["tasks"][0], "a", "success"));
    check(&done, &json!({"status": "completed"}));
    let error = server.error("assign_task", &json!({"task_id": id}));
    assert!(error.contains(&id) && error.contains("completed"), "{error}");
}

#[test]
fn an_unknown_id_is_an_error_that_names_it() {
    let mut server = ready(&[]);
    register(&mut server, "a", 1);
    let id = submit(&mut server, &json!({}));
    let report =
        |task: &str, agent: &str| json!({"task_id": task, "agent_id": agent, "fencing_token": 1, "result": "success"});
    for (tool, arguments) in [
        ("get_task", json!({"task_id": "nowhere"})),
        ("assign_task", json!({"task_id": "nowhere"})),
        ("cancel_task", json!({"task_id": "nowhere"})),
        ("update_task", json!({"task_id": "nowhere", "priority": "LOW"})),
        ("complete_task", report("nowhere", "a")),
    ] {
        let error = server.error(tool, &arguments);
        assert!(error.starts_with("Task nowhere not found: ") && error.contains("list_tasks"), "{tool}: {error}");
    }
    for (tool, arguments) in [
        ("claim_task", json!({"agent_id": "nobody"})),
        ("claim_task", json!({"agent_id": "nobody", "wait_seconds": 30})),
    ] {
        let error = server.error(tool, &arguments);
        assert!(error.starts_with("Agent nobody not found") && error.contains("register_agent"), "{tool}: {error}");
    }
    // No report is accepted for a task that has no holder or another holder.
    let error = server.error("complete_task", &report(&id, "nobody"));
    assert!(error.contains(&id) && error.contains("no agent holds it"), "{error}");
    let held = claim_one(&mut server, "a");
    let mut foreign = report(&id, "nobody");
    foreign["fencing_token"] = held["fencing_token"].clone();
    let error = server.error("complete_task", &foreign);
    assert!(error.contains(&id) && error.contains("held by agent a, not by agent nobody"), "{error}");
}

#[test]
fn a_cancelled_submission_leaves_no_task() {
    let mut server = ready(&[]);
    register(&mut server, "a", 3);
    for _ in 0..50 {
        let id = server.new_id();
        // Both are in one write, so that the server can read the cancellation before it answers.
        server.write_line([call(id, "submit_task", &json!({})), cancel(id)].join("\n"));
        check(&claim(&mut server, "a"), &json!({"status": "none", "reason": "no_task"}));
    }
    // A task with an id from its submitter can be submitted again, so it stays in the queue.
    for round in 0..50 {
        let (id, task) = (server.new_id(), json!({"task_id": format!("own {round}")}));
        server.write_line([call(id, "submit_task", &task), cancel(id)].join("\n"));
        let again = server.answer("submit_task", &task);
        assert_eq!(again["state"], "queued", "{again}");
        let held = claim_one(&mut server, "a");
        assert_eq!(held["task_id"], task["task_id"]);
        server.answer("complete_task", &report(&held, "a", "success"));
    }
    assert_eq!(ids(&claim(&mut server, "a")), Vec::<&str>::new());
}
