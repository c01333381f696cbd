//! One task queue for several sessions: agents and submitters may be clients of different processes.

use serde_json::{Value, json};

use crate::daemon::home::Home;
use crate::support::{
    pattern::check,
    server::{Server, call, cancel},
    wait_until,
};

/// Starts a session that offers all tools.
fn session(home: &Home) -> Server {
    home.session(&["--toolsets", "all"])
}

fn register(server: &mut Server, agent: &str) {
    let arguments = json!({"agent_id": agent, "agent_type": "worker", "capabilities": [], "max_concurrent": 3});
    server.answer("register_agent", &arguments);
}

/// Sends a claim that waits longer than any test. It is known to wait when this function returns.
fn wait_for_task(server: &mut Server, agent: &str) -> u64 {
    let arguments = json!({"agent_id": agent, "wait_seconds": 30});
    let id = server.send("tools/call", &json!({"name": "claim_task", "arguments": arguments}));
    server.ask("ping", &json!({}));
    id
}

fn claimed(server: &mut Server, request: u64) -> Value {
    let reply = server.reply(request);
    server.check_answer("claim_task", &reply["result"])
}

#[test]
fn a_task_submitted_in_one_session_wakes_the_agent_of_another() {
    let home = Home::new();
    let (mut coordinator, mut worker) = (session(&home), session(&home));
    register(&mut worker, "a");
    let waits = wait_for_task(&mut worker, "a");
    coordinator.answer("submit_task", &json!({"task_id": "t", "payload": [1]}));
    let answer = claimed(&mut worker, waits);
    check(&answer, &json!({"status": "claimed", "tasks": [{"task_id": "t", "payload": [1]}]}));
    let done = json!({
        "task_id": "t", "agent_id": "a", "fencing_token": answer["tasks"][0]["fencing_token"], "result": "success",
        "output": "done"
    });
    worker.answer("complete_task", &done);
    check(&coordinator.answer("get_task", &json!({"task_id": "t"})), &json!({"state": "completed", "output": "done"}));
}

#[test]
fn a_session_that_is_killed_while_it_waits_takes_nothing_with_it() {
    let home = Home::new();
    let (mut coordinator, mut worker) = (session(&home), session(&home));
    register(&mut worker, "a");
    register(&mut coordinator, "b");
    wait_for_task(&mut worker, "a");
    worker.signal("KILL");
    wait_until("the end of the session", || home.status("sessions").as_deref() == Some("1"));
    coordinator.answer("submit_task", &json!({"task_id": "t"}));
    check(&coordinator.answer("get_task", &json!({"task_id": "t"})), &json!({"state": "queued", "attempts": []}));
    let answer = coordinator.answer("claim_task", &json!({"agent_id": "b"}));
    check(&answer, &json!({"status": "claimed", "tasks": [{"task_id": "t", "attempt": 1}]}));
}

#[test]
fn a_session_that_ends_while_it_waits_is_gone_within_a_second() {
    let home = Home::new();
    for end in ["input", "TERM"] {
        let mut worker = session(&home);
        register(&mut worker, "a");
        let waits = wait_for_task(&mut worker, "a");
        if end == "input" {
            worker.close_input();
        } else {
            worker.signal(end);
        }
        worker.check_end();
        check(&claimed(&mut worker, waits), &json!({"status": "none", "reason": "no_task"}));
    }
}

#[test]
fn a_claim_that_is_cancelled_with_the_end_of_its_session_holds_nothing() {
    let home = Home::new();
    let mut coordinator = session(&home);
    for round in 0..20 {
        let mut worker = session(&home);
        register(&mut worker, "a");
        let task = json!({"task_id": format!("t{round}")});
        let [submits, claims] = [worker.new_id(), worker.new_id()];
        let lines = [
            call(submits, "submit_task", &task),
            call(claims, "claim_task", &json!({"agent_id": "a", "wait_seconds": 30})),
            cancel(claims),
        ];
        worker.write_line(lines.join("\n"));
        worker.close_input();
        worker.check_end();
        // A claim that was answered before its cancellation keeps the task, since its client knows of it.
        let is_answered = worker.rest().iter().any(|reply| reply["id"] == claims);
        wait_until("the end of the session", || home.status("sessions").as_deref() == Some("1"));
        let read = coordinator.answer("get_task", &task);
        check(&read, &json!({"state": if is_answered { "running" } else { "queued" }, "attempts": []}));
        coordinator.answer("cancel_task", &task);
    }
}

#[test]
fn a_claim_whose_daemon_is_lost_while_it_waits_may_be_repeated() {
    let home = Home::new();
    let mut worker = session(&home);
    register(&mut worker, "a");
    let waits = wait_for_task(&mut worker, "a");
    home.kill();
    check(&worker.reply(waits), &json!({"error": {"code": -32000, "data": {"retryable": true}}}));
    // The agent was lost with the in-memory state: the error asks it to register again.
    let error = worker.error("claim_task", &json!({"agent_id": "a", "wait_seconds": 30}));
    assert!(error.contains("register_agent"), "{error}");
    register(&mut worker, "a");
    let waits = wait_for_task(&mut worker, "a");
    worker.answer("submit_task", &json!({"task_id": "t"}));
    check(&claimed(&mut worker, waits), &json!({"status": "claimed", "tasks": [{"task_id": "t"}]}));
}
