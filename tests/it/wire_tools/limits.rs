//! The limits, and the answers at the limits.

use serde_json::{Value, json};

use crate::support::{
    pattern::check,
    server::{Server, call, command},
    wait_until,
};

/// Returns the text of a refusal.
fn refusal(server: &mut Server, request: &Value) -> String {
    let answer = server.answer("request_resources", request);
    assert_eq!(answer["status"], "failed", "{request}: {answer}");
    answer["error"].as_str().expect("a text").to_owned()
}

#[test]
fn the_number_of_server_ports_is_limited_to_a_hundred() {
    let mut server = Server::ready(&[]);
    let names = |from: u32| (from..from + 50).map(|number| format!("server {number}")).collect::<Vec<_>>();
    let first = server.grant(&json!({"job_id": "a", "mcp_servers": names(0)}));
    server.grant(&json!({"job_id": "b", "mcp_servers": names(50)}));
    let more = json!({"job_id": "c", "mcp_servers": ["one more"], "workers": 3});
    let error = refusal(&mut server, &more);
    assert!(error.contains("100") && error.contains("port"), "{error}");
    check(&server.capacity(), &json!({"allocated_workers": 0, "active_allocations": 2}));
    // Each of the 100 servers has its own port between 9000 and 9099. Running servers can still be shared.
    let mut ports = Vec::new();
    for from in [0, 50] {
        let id = server.grant(&json!({"job_id": "d", "mcp_servers": names(from)}));
        let record = server.allocation(&id);
        ports.extend(record["mcp_servers"].as_array().expect("a list").iter().map(|item| item["port"].as_u64()));
    }
    ports.sort_unstable();
    assert_eq!(ports, (9000..9100).map(Some).collect::<Vec<_>>());
    // The names still have holders, so their ports do not become available with the first of these.
    server.answer("release_resources", &json!({"allocation_id": first}));
    refusal(&mut server, &more);
}

#[test]
fn the_number_of_live_allocations_is_limited() {
    let mut server = Server::ready(&["--max-live-allocations", "3"]);
    let request = json!({"job_id": "a", "mcp_servers": ["s"]});
    let held: Vec<_> = (0..3).map(|_| server.grant(&request)).collect();
    let error = refusal(&mut server, &request);
    assert!(error.contains("max_live_allocations") && error.contains('3'), "{error}");
    server.answer("release_resources", &json!({"allocation_id": held[0]}));
    server.grant(&request);
}

#[test]
fn the_number_of_worker_ports_is_limited() {
    let all = 65535 - 8000 + 1 - 100;
    let totals = ["--total-workers", &all.to_string(), "--total-cpu", "1000000", "--total-memory", "1000000000"];
    let mut server = Server::ready(&totals);
    let id = server.grant(&json!({"job_id": "a", "mcp_servers": [], "workers": all}));
    check(&server.allocation(&id), &json!({"resources": {"workers": all}}));
    let error = refusal(&mut server, &json!({"job_id": "a", "mcp_servers": [], "workers": 1}));
    assert_eq!(error, "Insufficient workers: requested 1, available 0");
    // A long answer is truncated, and says so.
    let answer = server.allocation(&id);
    let shown = answer["workers"].as_array().expect("a list").len();
    assert_eq!(answer["workers_omitted"], all - shown);
    assert!(answer.to_string().len() < 5 << 20, "text and structure together stay under 10 MiB");
}

#[test]
fn the_first_check_that_fails_gives_the_text() {
    for (arguments, request, start) in [
        (
            ["--total-cpu", "3"],
            json!({"job_id": "a", "mcp_servers": [], "workers": 4}),
            "Insufficient CPU: requested 4",
        ),
        (
            ["--total-memory", "4096"],
            json!({"job_id": "a", "mcp_servers": [], "workers": 4}),
            "Insufficient memory: requested 8192",
        ),
        (
            ["--total-memory", "1"],
            json!({"job_id": "a", "mcp_servers": [], "workers": 11}),
            "Insufficient workers: requested 11, available 10",
        ),
    ] {
        let mut server = Server::ready(&arguments);
        let error = refusal(&mut server, &request);
        assert!(error.starts_with(start), "{arguments:?}: {error}");
    }
}

#[test]
fn the_largest_number_of_workers_is_refused_like_any_other() {
    let mut server = Server::ready(&[]);
    let request = json!({"job_id": "a", "mcp_servers": [], "workers": 4_294_967_295_u32});
    let answer = server.answer("request_resources", &request);
    let error = "Insufficient workers: requested 4294967295, available 10";
    check(&answer, &json!({"status": "failed", "error": error}));
    let record = server.allocation(answer["allocation_id"].as_str().expect("an id"));
    check(&record, &json!({"state": "failed", "error": error}));
    check(&server.answer("list_allocations", &json!({"state": "failed"})), &json!({"count": 1, "total": 1}));
}

#[test]
fn totals_that_cannot_be_served_end_the_start() {
    for value in ["57437", "4294967296", "-1", "many"] {
        let output = command(&["--total-workers", value]).output().expect("the binary");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{value}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.contains("total-workers") && error.contains(value) && error.contains("57436"), "{error}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn the_number_of_released_records_is_limited() {
    let mut server = Server::ready(&["--history-count", "3"]);
    let request = json!({"job_id": "a", "mcp_servers": ["s"]});
    let live = server.grant(&request);
    let released: Vec<_> = (0..5)
        .map(|_| {
            let id = server.grant(&request);
            server.answer("release_resources", &json!({"allocation_id": id}));
            id
        })
        .collect();
    for id in &released[..2] {
        let error = server.error("get_allocation", &json!({"allocation_id": id}));
        assert_eq!(error, format!("Allocation {id} not found"));
    }
    for id in &released[2..] {
        assert_eq!(server.allocation(id)["state"], "released");
    }
    assert_eq!(server.allocation(&live)["state"], "active");
    assert_eq!(server.answer("list_allocations", &json!({}))["total"], 4);
}

#[test]
fn released_records_are_kept_for_a_limited_time() {
    let mut server = Server::ready(&["--history-seconds", "1", "--sweep-seconds", "1"]);
    let request = json!({"job_id": "a", "mcp_servers": ["s"]});
    let live = server.grant(&request);
    let id = server.grant(&request);
    server.answer("release_resources", &json!({"allocation_id": id}));
    assert_eq!(server.allocation(&id)["state"], "released");
    let not_found = json!({"allocation_id": id});
    wait_until("the end of the record", || server.call("get_allocation", &not_found)["isError"] == true);
    assert_eq!(server.allocation(&live)["state"], "active");
}

#[test]
fn the_number_of_kept_refusals_is_limited() {
    let mut server = Server::ready(&[]);
    let request = json!({"job_id": "a", "mcp_servers": [], "workers": 99});
    let first = server.answer("request_resources", &request)["allocation_id"].clone();
    // The number of records is limited: after this many the first one is dropped.
    let many = 5_000;
    let ids: Vec<_> = (0..many).map(|_| server.new_id()).collect();
    server.write(ids.iter().map(|id| call(*id, "request_resources", &request) + "\n").collect::<String>());
    for id in ids {
        assert_eq!(server.reply(id)["result"]["structuredContent"]["status"], "failed");
    }
    let error = server.error("get_allocation", &json!({"allocation_id": first}));
    assert!(error.ends_with("not found"), "{error}");
    let total = server.answer("list_allocations", &json!({"state": "failed"}))["total"].as_u64();
    assert!(total.is_some_and(|total| (1..many).contains(&total)), "{total:?}");
}
