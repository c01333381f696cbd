//! The tasks that a claim returns, and their order.

use serde_json::{Value, json};

use crate::support::{
    pattern::check,
    server::{Server, TRANSPORTS, call, cancel},
};
use crate::wire_tasks::fleet::{claim, claim_one, ids, ready, register, report, submit, task};

/// Returns the ids of all tasks that an agent gets, one claim after the other.
fn claim_all(server: &mut Server, agent: &str) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let answer = claim(server, agent);
        if answer["status"] == "none" {
            return all;
        }
        all.extend(ids(&answer).into_iter().map(str::to_owned));
    }
}

/// Submits tasks with these ids, in this order.
fn submit_all(server: &mut Server, tasks: &[(&str, Value)]) {
    for (id, arguments) in tasks {
        let mut arguments = arguments.clone();
        arguments["task_id"] = json!(id);
        submit(server, &arguments);
    }
}

#[test]
fn the_most_urgent_come_first_and_the_oldest_among_equals() {
    let mut server = ready(&[]);
    register(&mut server, "a", 10);
    submit_all(
        &mut server,
        &[
            ("low", json!({"priority": "LOW"})),
            ("medium 1", json!({})),
            ("critical", json!({"priority": "critical"})),
            ("medium 2", json!({"priority": "normal"})),
            ("high 1", json!({"priority": "HIGH"})),
            ("high 2", json!({"priority": "High"})),
        ],
    );
    let order = ["critical", "high 1", "high 2", "medium 1", "medium 2", "low"];
    assert_eq!(claim_all(&mut server, "a"), order);
}

#[test]
fn a_task_whose_time_runs_short_goes_before_others_of_its_priority() {
    // A task is urgent if the time until its deadline is less than twice its duration.
    let mut server = ready(&["--response-target-ms", "60000"]);
    register(&mut server, "a", 10);
    let soon = chrono::Utc::now() + chrono::Duration::seconds(20);
    submit_all(
        &mut server,
        &[
            ("old", json!({})),
            ("later", json!({"deadline": "9999-01-01T00:00:00Z"})),
            ("soon", json!({"deadline": soon.to_rfc3339()})),
            ("high", json!({"priority": "HIGH"})),
        ],
    );
    assert_eq!(claim_all(&mut server, "a"), ["high", "soon", "old", "later"]);
}

#[test]
fn an_agent_is_given_only_what_it_can_do() {
    let mut server = ready(&[]);
    submit_all(
        &mut server,
        &[
            ("rust for testers", json!({"agent_type": "tester", "capabilities": ["rust"]})),
            ("rust and sql", json!({"capabilities": ["sql", "rust"]})),
            ("for testers", json!({"agent_type": "tester"})),
            ("rust", json!({"capabilities": ["rust"]})),
            ("anything", json!({})),
        ],
    );
    let mut gives = |agent: &str, agent_type: &str, capabilities: Value, expected: &[&str]| {
        server.answer(
            "register_agent",
            &json!({
                "agent_id": agent, "agent_type": agent_type, "capabilities": capabilities, "max_concurrent": 10
            }),
        );
        assert_eq!(claim_all(&mut server, agent), expected, "{agent}");
    };
    gives("plain", "worker", json!([]), &["anything"]);
    gives("sql", "worker", json!(["sql"]), &[]);
    gives("both", "worker", json!(["go", "rust", "sql"]), &["rust and sql", "rust"]);
    gives("tester", "tester", json!(["rust"]), &["rust for testers", "for testers"]);
}

#[test]
fn tasks_of_one_batch_go_together_where_there_is_room() {
    let mut server = ready(&[]);
    register(&mut server, "three", 3);
    register(&mut server, "many", 10);
    submit_all(
        &mut server,
        &[
            ("b1", json!({"batch_key": "b"})),
            ("other", json!({})),
            ("b2", json!({"batch_key": "b", "priority": "LOW"})),
            ("not for it", json!({"batch_key": "b", "capabilities": ["rust"]})),
            ("b3", json!({"batch_key": "b"})),
            ("b4", json!({"batch_key": "b", "priority": "LOW"})),
            ("c1", json!({"batch_key": "c"})),
        ],
    );
    let together = claim(&mut server, "three");
    let mut given = ids(&together);
    assert_eq!(given[0], "b1", "the best one first");
    given.sort_unstable();
    assert_eq!(given, ["b1", "b2", "b3"]);
    let tokens: Vec<_> = together["tasks"].as_array().expect("a list").iter().map(|t| &t["fencing_token"]).collect();
    assert!(tokens.windows(2).all(|pair| pair[0] != pair[1]), "{tokens:?}");
    check(&claim(&mut server, "three"), &json!({"status": "none", "reason": "agent_is_full", "count": 0}));
    assert_eq!(ids(&claim(&mut server, "many")), ["other"]);
    assert_eq!(ids(&claim(&mut server, "many")), ["c1"]);
    assert_eq!(ids(&claim(&mut server, "many")), ["b4"]);
    // Each task is reported separately.
    let done = server.answer("complete_task", &report(&together["tasks"][1], "three", "success"));
    check(&done, &json!({"status": "completed"}));
    let held = server.answer("list_tasks", &json!({"agent_id": "three", "state": "running"}));
    check(&held, &json!({"total": 2}));
}

#[test]
fn a_claim_that_finds_nothing_says_why() {
    let mut server = ready(&["--token-budget", "1000"]);
    register(&mut server, "a", 1);
    let check_none = |server: &mut Server, reason: &str| {
        let answer = claim(server, "a");
        check(&answer, &json!({"status": "none", "reason": reason, "count": 0, "tasks": []}));
        assert!(answer["detail"].as_str().is_some_and(|text| !text.is_empty()), "{answer}");
    };
    check_none(&mut server, "no_task");
    submit(&mut server, &json!({"capabilities": ["rust"]}));
    check_none(&mut server, "no_task");
    submit(&mut server, &json!({"estimated_tokens": 2000}));
    check_none(&mut server, "no_tokens");
    submit(&mut server, &json!({"estimated_tokens": 10}));
    claim_one(&mut server, "a");
    check_none(&mut server, "agent_is_full");
}

#[test]
fn a_task_without_tokens_is_deferred_until_the_budget_is_raised() {
    let mut server = ready(&["--token-budget", "1000"]);
    register(&mut server, "a", 5);
    let submitted = server.answer("submit_task", &json!({"task_id": "dear", "estimated_tokens": 5000}));
    check(&submitted, &json!({"status": "submitted", "state": "deferred", "deferred_reason": "insufficient_tokens"}));
    let deferred =
        json!({"state": "deferred", "deferred_reason": "insufficient_tokens", "effective_priority": "MEDIUM"});
    check(&task(&mut server, "dear"), &deferred);
    let listed = server.answer("list_tasks", &json!({"state": "deferred"}));
    check(&listed, &json!({"total": 1, "tasks": [{"task_id": "dear", "deferred_reason": "insufficient_tokens"}]}));
    let error = server.error("assign_task", &json!({"task_id": "dear"}));
    assert!(error.contains("dear") && error.contains("5000") && error.contains("1000"), "{error}");
    // It does not block tasks that the budget can pay for.
    submit(&mut server, &json!({"task_id": "cheap", "estimated_tokens": 400}));
    let cheap = claim_one(&mut server, "a");
    assert_eq!(cheap["task_id"], "cheap");
    let updated = server.answer("update_task", &json!({"task_id": "dear", "priority": "CRITICAL"}));
    check(&updated, &json!({"state": "deferred", "deferred_reason": "insufficient_tokens"}));
    server.answer("set_token_budget", &json!({"budget_tokens": 10_000}));
    check(&task(&mut server, "dear"), &json!({"state": "queued", "deferred_reason": null}));
    assert_eq!(claim_one(&mut server, "a")["task_id"], "dear");
}

#[test]
fn a_job_cannot_exceed_its_own_budget() {
    let mut server = ready(&[]);
    register(&mut server, "a", 5);
    server.answer("set_token_budget", &json!({"job_id": "poor", "budget_tokens": 100}));
    let submitted = server.answer("submit_task", &json!({"task_id": "t", "job_id": "poor", "estimated_tokens": 200}));
    check(&submitted, &json!({"state": "deferred", "deferred_reason": "insufficient_job_tokens"}));
    check(&claim(&mut server, "a"), &json!({"status": "none", "reason": "no_tokens"}));
    submit(&mut server, &json!({"task_id": "rich", "job_id": "other", "estimated_tokens": 200}));
    assert_eq!(claim_one(&mut server, "a")["task_id"], "rich");
    server.answer("set_token_budget", &json!({"job_id": "poor", "budget_tokens": 200}));
    assert_eq!(claim_one(&mut server, "a")["task_id"], "t");
}

#[test]
fn the_task_of_a_cancelled_claim_goes_back_uncounted() {
    for transport in TRANSPORTS {
        let mut server = Server::ready_on(transport, &["--toolsets", "all"]);
        register(&mut server, "a", 3);
        let id = submit(&mut server, &json!({"max_attempts": 1}));
        submit(&mut server, &json!({}));
        for wait_seconds in [0, 30].repeat(25) {
            let request = server.new_id();
            let arguments = json!({"agent_id": "a", "wait_seconds": wait_seconds});
            // Both are in one write, so that the server can read the cancellation before it answers.
            server.write_line([call(request, "claim_task", &arguments), cancel(request)].join("\n"));
            check(&task(&mut server, &id), &json!({"state": "queued", "attempts": [], "attempts_left": 1}));
        }
        let held = claim_one(&mut server, "a");
        check(&held, &json!({"task_id": id, "attempt": 1}));
        server.close_input();
        assert_eq!(server.rest(), Vec::<Value>::new(), "a cancelled call gets no reply");
    }
}

#[test]
fn a_claim_that_is_answered_already_cannot_be_cancelled() {
    let mut server = ready(&[]);
    register(&mut server, "a", 3);
    let id = submit(&mut server, &json!({}));
    let request = server.new_id();
    server.write_line(call(request, "claim_task", &json!({"agent_id": "a"})));
    let claimed = server.reply(request)["result"]["structuredContent"].clone();
    server.write_line(cancel(request));
    check(&task(&mut server, &id), &json!({"state": "running"}));
    let done = server.answer("complete_task", &report(&claimed["tasks"][0], "a", "success"));
    check(&done, &json!({"status": "completed"}));
}
