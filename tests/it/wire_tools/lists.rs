//! The list of allocations: its filters, its order and its pages.

use serde_json::json;

use crate::support::{
    list::ListTool,
    pattern::{COUNT, check},
    server::{Server, call},
};

const ALLOCATIONS: ListTool = ListTool { name: "list_allocations", entries: "allocations", id: "allocation_id" };

/// Starts a server with 30 allocations of two jobs: granted, refused and released in turn. Returns the ids, oldest
/// first.
fn filled() -> (Server, Vec<String>) {
    let mut server = Server::ready(&[]);
    let mut created = Vec::new();
    for round in 0..30 {
        let job = if round < 12 { "a" } else { "b" };
        let workers = if round % 3 == 1 { 99 } else { 0 };
        let request = json!({"job_id": job, "mcp_servers": ["s"], "workers": workers});
        let answer = server.answer("request_resources", &request);
        let id = answer["allocation_id"].as_str().expect("an id").to_owned();
        if round % 3 == 2 {
            server.answer("release_resources", &json!({"allocation_id": id}));
        }
        created.push(id);
    }
    (server, created)
}

#[test]
fn an_entry_has_what_the_api_says() {
    let mut server = Server::ready(&[]);
    let id = server.grant(&json!({"job_id": "job-001", "mcp_servers": ["s"], "workers": 4, "priority": "high"}));
    check(
        &server.answer("list_allocations", &json!({})),
        &json!({
            "allocations": [{
                "allocation_id": id,
                "job_id": "job-001",
                "state": "active",
                "priority": "high",
                "workers": 4,
                "age_seconds": COUNT,
                "is_expired": false
            }],
            "count": 1,
            "total": 1
        }),
    );
}

#[test]
fn nothing_is_an_empty_list() {
    let mut server = Server::ready(&[]);
    check(&server.answer("list_allocations", &json!({})), &json!({"allocations": [], "count": 0, "total": 0}));
}

#[test]
fn the_oldest_come_first_and_refusals_among_them() {
    let (mut server, created) = filled();
    let page = server.answer("list_allocations", &json!({}));
    assert_eq!(ALLOCATIONS.ids(&page), created);
    let states: Vec<_> = page["allocations"].as_array().expect("a list").iter().map(|entry| &entry["state"]).collect();
    assert_eq!(states[..3], ["active", "failed", "released"]);
}

#[test]
fn pages_of_any_size_give_each_allocation_once() {
    let (mut server, created) = filled();
    for limit in [1, 7, 10, 29, 30, 31, 1000] {
        assert_eq!(ALLOCATIONS.read_pages(&mut server, &json!({}), limit), created, "limit {limit}");
    }
}

#[test]
fn filters_hold_on_every_page() {
    let (mut server, created) = filled();
    let every_third = |rest: usize| {
        let chosen = created.iter().enumerate().filter(move |(index, _)| index % 3 == rest);
        chosen.map(|(_, id)| id.clone()).collect::<Vec<_>>()
    };
    for (filter, expected) in [
        (json!({"state": "active"}), every_third(0)),
        (json!({"state": "failed"}), every_third(1)),
        (json!({"state": "released"}), every_third(2)),
        (json!({"state": "pending"}), vec![]),
        (json!({"state": "releasing"}), vec![]),
        (json!({"job_id": "a"}), created[..12].to_vec()),
        (json!({"job_id": "b"}), created[12..].to_vec()),
        (json!({"job_id": "nobody"}), vec![]),
        (json!({"job_id": "a", "state": "failed"}), every_third(1)[..4].to_vec()),
        (json!({"job_id": null, "state": null, "cursor": null}), created.clone()),
    ] {
        for limit in [3, 1000] {
            assert_eq!(ALLOCATIONS.read_pages(&mut server, &filter, limit), expected, "{filter} limit {limit}");
        }
    }
}

#[test]
fn a_page_begins_after_the_last_one_even_if_entries_have_ended_since() {
    let mut server = Server::ready(&[]);
    let request = json!({"job_id": "a", "mcp_servers": ["s"]});
    let created: Vec<_> = (0..9).map(|_| server.grant(&request)).collect();
    let first = server.answer("list_allocations", &json!({"limit": 4, "state": "active"}));
    assert_eq!(ALLOCATIONS.ids(&first), created[..4]);
    for id in &created[2..6] {
        server.answer("release_resources", &json!({"allocation_id": id}));
    }
    let arguments = json!({"limit": 4, "state": "active", "cursor": first["next_cursor"]});
    assert_eq!(ALLOCATIONS.ids(&server.answer("list_allocations", &arguments)), created[6..]);
}

#[test]
fn a_list_has_a_thousand_entries_by_default() {
    let mut server = Server::ready(&[]);
    let request = json!({"job_id": "a", "mcp_servers": ["s"]});
    let ids: Vec<_> = (0..1001).map(|_| server.new_id()).collect();
    server.write(ids.iter().map(|id| call(*id, "request_resources", &request) + "\n").collect::<String>());
    let page = server.answer("list_allocations", &json!({}));
    assert_eq!(page["count"], 1000);
    assert_eq!(page["total"], 1001);
    let last = server.answer("list_allocations", &json!({"cursor": page["next_cursor"]}));
    assert_eq!(last["count"], 1);
    assert_eq!(last.get("next_cursor").filter(|cursor| !cursor.is_null()), None);
}
