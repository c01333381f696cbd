//! Waiting claims: what wakes them, their progress notifications, and what ends them.

use serde_json::{Value, json};

use crate::support::{
    pattern::check,
    server::{Server, TRANSPORTS, call, cancel, command, modern, request},
};
use crate::wire_tasks::fleet::{claim, claim_one, ids, ready, register, report, submit, task};

/// Sends a claim that waits longer than any test, and returns the id of the request.
fn wait_for_task(server: &mut Server, agent: &str) -> u64 {
    let arguments = json!({"agent_id": agent, "wait_seconds": 30});
    server.send("tools/call", &json!({"name": "claim_task", "arguments": arguments}))
}

/// Returns the answer to an earlier claim.
fn claimed(server: &mut Server, request: u64) -> Value {
    let reply = server.reply(request);
    server.check_answer("claim_task", &reply["result"])
}

#[test]
fn a_submitted_task_wakes_a_waiting_claim() {
    for transport in TRANSPORTS {
        let mut server = Server::ready_on(transport, &["--toolsets", "all"]);
        server.answer("register_agent", &json!({"agent_id": "other", "agent_type": "other", "capabilities": []}));
        register(&mut server, "first", 3);
        register(&mut server, "second", 3);
        let other = wait_for_task(&mut server, "other");
        let first = wait_for_task(&mut server, "first");
        let second = wait_for_task(&mut server, "second");
        let one = submit(&mut server, &json!({"agent_type": "worker"}));
        let two = submit(&mut server, &json!({"agent_type": "worker"}));
        // The longest waiting claim is served first, and a claim that does not match is skipped.
        assert_eq!(ids(&claimed(&mut server, first)), [&one]);
        assert_eq!(ids(&claimed(&mut server, second)), [&two]);
        let three = submit(&mut server, &json!({"agent_type": "other"}));
        assert_eq!(ids(&claimed(&mut server, other)), [&three]);
    }
}

#[test]
fn a_requeued_task_wakes_a_waiting_claim() {
    let mut server = ready(&["--token-budget", "1000"]);
    register(&mut server, "a", 1);
    register(&mut server, "b", 1);
    let id = submit(&mut server, &json!({"estimated_tokens": 500}));
    let held = claim_one(&mut server, "a");
    let waits = wait_for_task(&mut server, "b");
    server.answer("complete_task", &report(&held, "a", "failure"));
    let answer = claimed(&mut server, waits);
    check(&answer, &json!({"tasks": [{"task_id": id, "attempt": 2}]}));
    server.answer("complete_task", &report(&answer["tasks"][0], "b", "success"));
    // So do tokens.
    let dear = submit(&mut server, &json!({"estimated_tokens": 2000}));
    let waits = wait_for_task(&mut server, "b");
    server.answer("set_token_budget", &json!({"budget_tokens": 5000}));
    assert_eq!(ids(&claimed(&mut server, waits)), [&dear]);
}

#[test]
fn an_assigned_task_reaches_the_agent_that_waits() {
    for _ in 0..20 {
        let mut server = ready(&[]);
        register(&mut server, "a", 2);
        let waits = wait_for_task(&mut server, "a");
        let [submits, assigns] = [server.new_id(), server.new_id()];
        let lines = [
            call(submits, "submit_task", &json!({"task_id": "t", "payload": "p"})),
            call(assigns, "assign_task", &json!({"task_id": "t"})),
        ];
        server.write_line(lines.join("\n"));
        // The claim or the assignment gives the task to the agent. In both cases the agent gets it with its payload.
        let answer = claimed(&mut server, waits);
        check(&answer, &json!({"status": "claimed", "tasks": [{"task_id": "t", "payload": "p"}]}));
        let assigned = server.reply(assigns)["result"].clone();
        match assigned.get("structuredContent") {
            Some(assigned) => check(assigned, &json!({"status": "assigned", "agent_id": "a"})),
            None => assert!(assigned.to_string().contains("held by agent a"), "{assigned}"),
        }
    }
}

#[test]
fn a_claim_waits_no_longer_than_requested() {
    let mut server = ready(&[]);
    register(&mut server, "a", 3);
    let answer = server.answer("claim_task", &json!({"agent_id": "a", "wait_seconds": 1}));
    check(&answer, &json!({"status": "none", "reason": "no_task"}));
}

#[test]
fn a_waiting_agent_stays_responsive() {
    let mut server = ready(&["--heartbeat-seconds", "1"]);
    register(&mut server, "a", 3);
    let answer = server.answer("claim_task", &json!({"agent_id": "a", "wait_seconds": 5}));
    check(&answer, &json!({"status": "none", "reason": "no_task"}));
    let id = submit(&mut server, &json!({}));
    assert_eq!(ids(&claim(&mut server, "a")), [&id]);
}

#[test]
fn a_client_that_asks_for_progress_gets_notifications() {
    let with_progress = |agent: &str| {
        json!({
            "name": "claim_task", "arguments": {"agent_id": agent, "wait_seconds": 30},
            "_meta": {"progressToken": "token"}
        })
    };
    let register = |agent: &str| {
        json!({
            "name": "register_agent", "arguments": {"agent_id": agent, "agent_type": "worker", "capabilities": []}
        })
    };
    let submit = json!({"name": "submit_task", "arguments": {}});
    let mut old = ready(&[]);
    let mut new = Server::start_on(TRANSPORTS[0], command(&["--toolsets", "all"]));
    let [asks, silent] = ["asks", "silent"].map(|agent| {
        old.ask("tools/call", &register(agent));
        let mut claim = with_progress(agent);
        if agent == "silent" {
            claim["_meta"] = json!({});
        }
        old.send("tools/call", &claim)
    });
    new.ask("tools/call", &modern(register("asks")));
    let mut claim = modern(with_progress("asks"));
    claim["_meta"]["progressToken"] = json!(7);
    let modern_claim = new.send("tools/call", &claim);

    for (server, token) in [(&mut old, json!("token")), (&mut new, json!(7))] {
        let notice = server.find("a notice", |message| message["method"] == "notifications/progress");
        check(&notice, &json!({"params": {"progressToken": token, "total": 30.0}}));
        let progress = notice["params"]["progress"].as_f64().expect("a number");
        assert!((5.0..30.0).contains(&progress), "{notice}");
        assert!(notice["params"]["message"].as_str().is_some_and(|text| text.contains("waiting")), "{notice}");
    }
    for id in [asks, silent] {
        old.ask("tools/call", &submit);
        check(&old.reply(id), &json!({"result": {"structuredContent": {"status": "claimed"}}}));
    }
    new.ask("tools/call", &modern(submit));
    check(&new.reply(modern_claim), &json!({"result": {"structuredContent": {"status": "claimed"}}}));
    // Only the client that asked for progress is notified, and nothing follows an answer.
    for mut server in [old, new] {
        server.close_input();
        let rest = server.rest();
        assert!(rest.iter().all(|message| message["method"] == "notifications/progress"), "{rest:?}");
        server.check_end();
    }
}

#[test]
fn a_cancelled_claim_stops_waiting() {
    for transport in TRANSPORTS {
        let mut server = Server::ready_on(transport, &["--toolsets", "all"]);
        register(&mut server, "a", 3);
        register(&mut server, "b", 3);
        let waits = wait_for_task(&mut server, "a");
        server.ask("ping", &json!({}));
        server.write_line(cancel(waits));
        let id = submit(&mut server, &json!({}));
        check(&task(&mut server, &id), &json!({"state": "queued", "attempts": []}));
        assert_eq!(ids(&claim(&mut server, "b")), [&id]);
        // A cancelled claim no longer counts as in flight: these are more than may be in flight concurrently.
        for _ in 0..300 {
            let waits = wait_for_task(&mut server, "a");
            server.write_line(cancel(waits));
        }
        server.ask("ping", &json!({}));
        server.close_input();
        assert_eq!(server.rest(), Vec::<Value>::new());
        server.check_end();
    }
}

#[test]
fn the_end_of_the_input_ends_the_waiting() {
    for transport in TRANSPORTS {
        let mut server = Server::ready_on(transport, &["--toolsets", "all"]);
        register(&mut server, "a", 3);
        let waits = [wait_for_task(&mut server, "a"), wait_for_task(&mut server, "a")];
        server.close_input();
        server.check_end();
        for waits in waits {
            let answer = claimed(&mut server, waits);
            check(&answer, &json!({"status": "none", "reason": "no_task", "count": 0}));
        }
    }
}

#[test]
fn a_signal_ends_the_waiting() {
    for transport in TRANSPORTS {
        for signal in ["TERM", "INT"] {
            let mut server = Server::ready_on(transport, &["--toolsets", "all"]);
            register(&mut server, "a", 3);
            let waits = wait_for_task(&mut server, "a");
            server.ask("ping", &json!({}));
            server.signal(signal);
            server.check_end();
            check(&claimed(&mut server, waits), &json!({"status": "none", "reason": "no_task"}));
        }
    }
}

#[test]
fn queued_tasks_are_still_assigned_at_the_end_of_the_input() {
    for transport in TRANSPORTS {
        let mut server = Server::ready_on(transport, &["--toolsets", "all"]);
        register(&mut server, "a", 3);
        let [submits, claims] = [server.new_id(), server.new_id()];
        let lines = [
            call(submits, "submit_task", &json!({})),
            call(claims, "claim_task", &json!({"agent_id": "a", "wait_seconds": 30})),
        ];
        server.write_line(lines.join("\n"));
        server.close_input();
        server.check_end();
        check(&claimed(&mut server, claims), &json!({"status": "claimed", "count": 1}));
    }
}

#[test]
fn a_client_that_never_reads_cannot_hold_up_the_end() {
    let mut server = ready(&[]);
    register(&mut server, "a", 3);
    let id = server.new_id();
    let arguments = json!({"agent_id": "a", "wait_seconds": 30});
    let claim = json!({"name": "claim_task", "arguments": arguments, "_meta": {"progressToken": id}});
    server.write_line(request(id, "tools/call", &claim));
    server.ask("ping", &json!({}));
    server.signal("TERM");
    server.check_end();
}

#[test]
fn a_claim_ends_at_once_when_its_agent_leaves() {
    let mut server = ready(&[]);
    register(&mut server, "a", 1);
    let waits = wait_for_task(&mut server, "a");
    server.answer("unregister_agent", &json!({"agent_id": "a"}));
    let reply = server.reply(waits);
    assert!(reply["result"]["content"][0]["text"].to_string().contains("Agent a not found"), "{reply}");
}

#[test]
fn claims_that_wait_leave_room_for_other_calls() {
    let mut server = ready(&["--max-calls-in-flight", "4"]);
    for agent in ["a", "b", "c", "d", "e"] {
        register(&mut server, agent, 1);
    }
    let waiting = ["a", "b"].map(|agent| wait_for_task(&mut server, agent));
    for agent in ["c", "d", "e"] {
        let at_once = wait_for_task(&mut server, agent);
        check(&claimed(&mut server, at_once), &json!({"status": "none", "reason": "no_task"}));
    }
    server.answer("heartbeat_agent", &json!({"agent_id": "a"}));
    for request in waiting {
        let id = submit(&mut server, &json!({}));
        assert_eq!(ids(&claimed(&mut server, request)), [&id]);
    }
}
