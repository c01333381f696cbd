//! The properties of a grant: names and ports, its fencing token, and the `request_id` that makes its request
//! repeatable.

use serde_json::{Value, json};

use crate::support::{
    pattern::check,
    server::{Server, call, cancel},
};

/// Returns the values under a key in a list of objects.
fn column<'a>(list: &'a Value, key: &str) -> Vec<&'a str> {
    list.as_array().expect("a list").iter().map(|item| item[key].as_str().expect("a text")).collect()
}

#[test]
fn worker_numbers_of_a_job_continue_over_its_allocations() {
    let mut server = Server::ready(&[]);
    let request = json!({"job_id": "a", "mcp_servers": [], "workers": 2});
    let first = server.answer("request_resources", &request);
    let second = server.answer("request_resources", &request);
    assert_eq!(column(&first["workers_allocated"], "worker_id"), ["worker-a-000", "worker-a-001"]);
    assert_eq!(column(&second["workers_allocated"], "worker_id"), ["worker-a-002", "worker-a-003"]);
    let other = server.answer("request_resources", &json!({"job_id": "b", "mcp_servers": [], "workers": 1}));
    assert_eq!(column(&other["workers_allocated"], "worker_id"), ["worker-b-000"]);
    // While the second lease is live, a third must not get one of its names.
    server.answer("release_resources", &json!({"allocation_id": first["allocation_id"]}));
    let third = server.answer("request_resources", &json!({"job_id": "a", "mcp_servers": [], "workers": 4}));
    let mut names = column(&third["workers_allocated"], "worker_id");
    names.extend(column(&second["workers_allocated"], "worker_id"));
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 6);
    let mut endpoints = column(&third["workers_allocated"], "endpoint");
    endpoints.extend(column(&second["workers_allocated"], "endpoint"));
    endpoints.extend(column(&other["workers_allocated"], "endpoint"));
    endpoints.sort_unstable();
    endpoints.dedup();
    assert_eq!(endpoints.len(), 7, "no port is handed out twice");
}

#[test]
fn a_server_is_shared_on_one_port_while_anyone_holds_it() {
    let mut server = Server::ready(&[]);
    let ask = |server: &mut Server, names: &[&str]| {
        server.answer("request_resources", &json!({"job_id": "a", "mcp_servers": names}))
    };
    let first = ask(&mut server, &["filesystem", "github", "filesystem"]);
    assert_eq!(column(&first["mcp_servers"], "name"), ["filesystem", "github"], "named twice counts once");
    let second = ask(&mut server, &["github"]);
    assert_eq!(second["mcp_servers"][0]["endpoint"], first["mcp_servers"][1]["endpoint"]);
    server.answer("release_resources", &json!({"allocation_id": first["allocation_id"]}));
    assert_eq!(server.capacity()["running_mcp_servers"], json!(["github"]));
    let third = ask(&mut server, &["database", "github"]);
    assert_eq!(third["mcp_servers"][1]["endpoint"], first["mcp_servers"][1]["endpoint"]);
    assert_ne!(third["mcp_servers"][0]["endpoint"], third["mcp_servers"][1]["endpoint"]);
    for answer in [&second, &third] {
        server.answer("release_resources", &json!({"allocation_id": answer["allocation_id"]}));
    }
    assert_eq!(server.capacity()["running_mcp_servers"], json!([]));
}

#[test]
fn a_priority_is_taken_in_either_spelling_and_any_case() {
    let mut server = Server::ready(&[]);
    for (given, shown) in [
        ("low", "low"),
        ("normal", "normal"),
        ("high", "high"),
        ("critical", "critical"),
        ("LOW", "low"),
        ("MEDIUM", "normal"),
        ("medium", "normal"),
        ("Normal", "normal"),
        ("High", "high"),
        ("CRITICAL", "critical"),
    ] {
        let id = server.grant(&json!({"job_id": "a", "mcp_servers": ["s"], "priority": given}));
        assert_eq!(server.allocation(&id)["priority"], shown, "{given}");
    }
}

#[test]
fn each_grant_has_a_larger_fencing_token() {
    let mut server = Server::ready(&[]);
    let mut tokens = Vec::new();
    for round in 0..20 {
        let answer = server.answer("request_resources", &json!({"job_id": "a", "mcp_servers": [], "workers": 1}));
        tokens.push(answer["fencing_token"].as_u64().expect("a token"));
        server.answer("request_resources", &json!({"job_id": "a", "mcp_servers": [], "workers": 99}));
        let by_id = json!({"allocation_id": answer["allocation_id"]});
        assert_eq!(server.answer("get_allocation", &by_id)["fencing_token"], answer["fencing_token"]);
        if round % 3 > 0 {
            server.answer("release_resources", &by_id);
        }
    }
    assert!(tokens.is_sorted_by(|earlier, later| earlier < later), "{tokens:?}");
}

/// Returns a request with a `request_id`.
fn with_request_id(workers: u32) -> Value {
    json!({"job_id": "a", "mcp_servers": ["s"], "workers": workers, "request_id": "once", "metadata": {"x": [1, 2]}})
}

#[test]
fn a_repeated_request_answers_for_the_first_grant() {
    let mut server = Server::ready(&[]);
    let first = server.answer("request_resources", &with_request_id(4));
    assert_eq!(server.answer("request_resources", &with_request_id(4)), first);
    check(&server.capacity(), &json!({"allocated_workers": 4, "active_allocations": 1}));
    // The same body with another order of keys, and explicit defaults.
    let worded = json!({
        "priority": "MEDIUM", "request_id": "once", "metadata": {"x": [1, 2]}, "workers": 4, "ttl_seconds": 3600,
        "mcp_servers": ["s"], "job_id": "a"
    });
    assert_eq!(server.answer("request_resources", &worded), first);
    server.answer("release_resources", &json!({"allocation_id": first["allocation_id"]}));
    let today = server.answer("request_resources", &with_request_id(4));
    check(&today, &json!({"allocation_id": first["allocation_id"], "status": "released"}));
    check(&server.capacity(), &json!({"allocated_workers": 0, "active_allocations": 0}));
}

#[test]
fn the_same_request_id_with_another_body_is_an_error() {
    let mut server = Server::ready(&[]);
    server.grant(&with_request_id(4));
    for (key, value) in [
        ("job_id", json!("b")),
        ("mcp_servers", json!(["s", "t"])),
        ("workers", json!(3)),
        ("priority", json!("low")),
        ("ttl_seconds", json!(60)),
        ("metadata", json!({"x": [1, 3]})),
    ] {
        let mut other = with_request_id(4);
        other[key] = value;
        let error = server.error("request_resources", &other);
        assert!(error.contains("request_id") && error.contains("once"), "{key}: {error}");
    }
    check(&server.capacity(), &json!({"allocated_workers": 4, "active_allocations": 1}));
}

#[test]
fn a_refusal_is_not_remembered() {
    let mut server = Server::ready(&[]);
    let holder = server.grant(&json!({"job_id": "holder", "mcp_servers": [], "workers": 8}));
    assert_eq!(server.answer("request_resources", &with_request_id(4))["status"], "failed");
    assert_eq!(server.answer("request_resources", &with_request_id(4))["status"], "failed");
    server.answer("release_resources", &json!({"allocation_id": holder}));
    server.grant(&with_request_id(4));
}

#[test]
fn a_request_id_is_kept_as_long_as_its_record() {
    let mut server = Server::ready(&["--history-count", "0"]);
    let first = server.grant(&with_request_id(4));
    server.answer("release_resources", &json!({"allocation_id": first}));
    assert_ne!(server.grant(&with_request_id(4)), first);
}

#[test]
fn cancelling_a_repeat_does_not_undo_the_first_grant() {
    let mut server = Server::ready(&[]);
    let first = server.grant(&with_request_id(4));
    let id = server.new_id();
    // Both are in one write, so that the server reads the cancellation before it answers.
    server.write_line([call(id, "request_resources", &with_request_id(4)), cancel(id)].join("\n"));
    check(&server.capacity(), &json!({"allocated_workers": 4, "active_allocations": 1}));
    assert_eq!(server.allocation(&first)["state"], "active");
}
