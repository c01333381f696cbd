//! The list of tasks: its filters, its order and its pages.

use serde_json::json;

use crate::support::{
    list::ListTool,
    pattern::{COUNT, TIME, check},
    server::Server,
};
use crate::wire_tasks::fleet::{claim_one, ids, ready, register, report, submit};

const TASKS: ListTool = ListTool { name: "list_tasks", entries: "tasks", id: "task_id" };

/// Starts a server with 30 tasks of two jobs, of which every third is queued, running or completed. Returns the ids,
/// oldest first.
fn filled() -> (Server, Vec<String>) {
    let mut server = ready(&[]);
    register(&mut server, "a", 100);
    register(&mut server, "b", 100);
    let mut created = Vec::new();
    for round in 0..30 {
        let job = if round < 12 { "one" } else { "two" };
        let agent = if round < 15 { "a" } else { "b" };
        let priority = if round % 3 == 0 { "LOW" } else { "HIGH" };
        created.push(submit(&mut server, &json!({"job_id": job, "priority": priority, "estimated_tokens": 1})));
        if round % 3 > 0 {
            let held = claim_one(&mut server, agent);
            if round % 3 == 2 {
                server.answer("complete_task", &report(&held, agent, "success"));
            }
        }
    }
    (server, created)
}

#[test]
fn an_entry_leaves_out_payload_and_output() {
    let mut server = ready(&[]);
    register(&mut server, "a", 3);
    let arguments = json!({
        "task_id": "t", "job_id": "j", "agent_type": "worker", "priority": "CRITICAL", "estimated_tokens": 5,
        "deadline": "9999-01-01T00:00:00Z", "payload": "given", "max_attempts": 7
    });
    submit(&mut server, &arguments);
    let entry = json!({
        "task_id": "t", "job_id": "j", "state": "queued", "deferred_reason": null, "priority": "CRITICAL",
        "agent_type": "worker", "agent_id": null, "estimated_tokens": 5, "attempts": 0, "max_attempts": 7,
        "deadline": "9999-01-01T00:00:00.000Z", "submitted_at": TIME, "age_seconds": COUNT
    });
    let page = server.answer("list_tasks", &json!({}));
    check(&page, &json!({"tasks": [entry], "count": 1, "total": 1}));
    let held = claim_one(&mut server, "a");
    check(
        &server.answer("list_tasks", &json!({})),
        &json!({"tasks": [{"state": "running", "agent_id": "a", "attempts": 0}]}),
    );
    let mut done = report(&held, "a", "success");
    done["output"] = json!("came of it");
    server.answer("complete_task", &done);
    let page = server.answer("list_tasks", &json!({}));
    check(&page, &json!({"tasks": [{"state": "completed", "agent_id": null, "attempts": 1}]}));
    assert!(!page.to_string().contains("given") && !page.to_string().contains("came of it"), "{page}");
}

#[test]
fn nothing_is_an_empty_list() {
    let mut server = ready(&[]);
    assert_eq!(server.answer("list_tasks", &json!({})), json!({"tasks": [], "count": 0, "total": 0}));
}

#[test]
fn filters_hold_on_pages_of_any_size() {
    let (mut server, created) = filled();
    let every_third = |rest: usize| {
        let chosen = created.iter().enumerate().filter(move |(index, _)| index % 3 == rest);
        chosen.map(|(_, id)| id.clone()).collect::<Vec<_>>()
    };
    for (filter, expected) in [
        (json!({}), created.clone()),
        (json!({"state": "queued"}), every_third(0)),
        (json!({"state": "RUNNING"}), every_third(1)),
        (json!({"state": "completed"}), every_third(2)),
        (json!({"state": "failed"}), vec![]),
        (json!({"state": "cancelled"}), vec![]),
        (json!({"state": "deferred"}), vec![]),
        (json!({"job_id": "one"}), created[..12].to_vec()),
        (json!({"job_id": "two"}), created[12..].to_vec()),
        (json!({"job_id": "nobody"}), vec![]),
        (json!({"job_id": "one", "state": "running"}), every_third(1)[..4].to_vec()),
        (json!({"agent_id": "a"}), every_third(1)[..5].to_vec()),
        (json!({"agent_id": "b", "state": "running"}), every_third(1)[5..].to_vec()),
        (json!({"agent_id": "nobody"}), vec![]),
        (json!({"job_id": null, "state": null, "agent_id": null, "cursor": null}), created.clone()),
    ] {
        for limit in [1, 7, 30, 500] {
            assert_eq!(TASKS.read_pages(&mut server, &filter, limit), expected, "{filter} limit {limit}");
        }
    }
}

#[test]
fn a_page_begins_after_the_last_one_even_if_entries_have_ended_since() {
    let (mut server, created) = filled();
    let first = server.answer("list_tasks", &json!({"limit": 4, "state": "queued"}));
    let queued: Vec<_> = created.iter().step_by(3).collect();
    assert_eq!(ids(&first), queued[..4]);
    for id in &queued[2..6] {
        server.answer("cancel_task", &json!({"task_id": id}));
    }
    let arguments = json!({"limit": 4, "state": "queued", "cursor": first["next_cursor"]});
    assert_eq!(ids(&server.answer("list_tasks", &arguments)), queued[6..]);
}

#[test]
fn a_list_has_a_hundred_entries_by_default() {
    let mut server = ready(&[]);
    for _ in 0..101 {
        submit(&mut server, &json!({}));
    }
    let page = server.answer("list_tasks", &json!({}));
    check(&page, &json!({"count": 100, "total": 101}));
    let last = server.answer("list_tasks", &json!({"cursor": page["next_cursor"]}));
    check(&last, &json!({"count": 1, "total": 101}));
    assert_eq!(last.get("next_cursor"), None);
}
