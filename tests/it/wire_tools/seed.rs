//! The examples of the resource allocation API, request by request.

use serde_json::{Value, json};

use crate::support::{
    pattern::{COUNT, ID, TIME, check},
    server::Server,
};

const JOB: &str = "job-001";

/// Returns the request on the first pages of the API.
fn feature() -> Value {
    json!({
        "job_id": JOB,
        "mcp_servers": ["filesystem", "github"],
        "workers": 4,
        "priority": "high",
        "ttl_seconds": 7200,
        "metadata": {"task_type": "feature"}
    })
}

/// Returns the worker with this number, as in the answer to a request.
fn worker(number: u16) -> Value {
    json!({
        "worker_id": format!("worker-{JOB}-{number:03}"),
        "endpoint": format!("http://localhost:{}", 8000 + number),
        "cpu": 1.0,
        "memory": 2048
    })
}

/// Returns the same worker, as in an allocation.
fn worker_specification(number: u16) -> Value {
    let mut specification = worker(number);
    specification["worker_type"] = "cortex-worker".into();
    specification["status"] = "active".into();
    specification
}

#[test]
fn a_request_answers_with_endpoints() {
    let mut server = Server::ready(&[]);
    let answer = server.answer("request_resources", &feature());
    check(
        &answer,
        &json!({
            "allocation_id": ID,
            "status": "active",
            "job_id": JOB,
            "mcp_servers": [
                {"name": "filesystem", "endpoint": "http://localhost:9000", "status": "running"},
                {"name": "github", "endpoint": "http://localhost:9001", "status": "running"}
            ],
            "workers_allocated": [worker(0), worker(1), worker(2), worker(3)],
            "resources": {"cpu": 4.0, "memory": 8192, "workers": 4},
            "ttl_seconds": 7200,
            "created_at": TIME,
            "expires_at": TIME,
            "fencing_token": COUNT
        }),
    );
    let time = |key: &str| {
        chrono::DateTime::parse_from_rfc3339(answer[key].as_str().expect("a time")).expect("a time").timestamp_millis()
    };
    assert_eq!(time("expires_at") - time("created_at"), 7200 * 1000);
}

#[test]
fn only_the_job_and_its_servers_are_required() {
    let mut server = Server::ready(&[]);
    let id = server.grant(&json!({"job_id": "a", "mcp_servers": ["filesystem"]}));
    let nothing = json!({"cpu_allocated": 0.0, "memory_allocated": 0, "workers": 0});
    let defaults = json!({"priority": "normal", "ttl_seconds": 3600, "metadata": {}, "resources": nothing});
    check(&server.allocation(&id), &defaults);
    let absent = json!({
        "job_id": "a", "mcp_servers": ["filesystem"],
        "workers": null, "priority": null, "ttl_seconds": null, "metadata": null, "request_id": null
    });
    let id = server.grant(&absent);
    check(&server.allocation(&id), &defaults);
}

#[test]
fn an_allocation_is_read_back_whole() {
    let mut server = Server::ready(&[]);
    let id = server.grant(&feature());
    check(
        &server.allocation(&id),
        &json!({
            "allocation_id": id,
            "job_id": JOB,
            "state": "active",
            "priority": "high",
            "resources": {"cpu_allocated": 4.0, "memory_allocated": 8192, "workers": 4},
            "mcp_servers": [
                {"server_name": "filesystem", "endpoint": "http://localhost:9000", "status": "running", "port": 9000},
                {"server_name": "github", "endpoint": "http://localhost:9001", "status": "running", "port": 9001}
            ],
            "workers": [
                worker_specification(0), worker_specification(1), worker_specification(2), worker_specification(3)
            ],
            "timestamps": {"created_at": TIME, "activated_at": TIME, "released_at": null, "age_seconds": COUNT},
            "ttl_seconds": 7200,
            "is_expired": false,
            "metadata": {"task_type": "feature"}
        }),
    );
}

#[test]
fn capacity_tells_what_is_leased_and_what_is_left() {
    let mut server = Server::ready(&[]);
    server.grant(&json!({"job_id": "a", "mcp_servers": ["filesystem", "github"], "workers": 3}));
    server.grant(&json!({"job_id": "b", "mcp_servers": ["github", "database"], "workers": 1}));
    check(
        &server.capacity(),
        &json!({
            "total_cpu": 16.0, "total_memory": 32768, "total_workers": 10,
            "allocated_cpu": 4.0, "allocated_memory": 8192, "allocated_workers": 4,
            "available_cpu": 12.0, "available_memory": 24576, "available_workers": 6,
            "reclaimable_cpu": 0.0, "reclaimable_memory": 0, "reclaimable_workers": 0,
            "active_allocations": 2
        }),
    );
    let capacity = server.capacity();
    let mut running: Vec<_> = capacity["running_mcp_servers"].as_array().expect("a list").iter().collect();
    running.sort_by_key(|name| name.as_str());
    assert_eq!(json!(running), json!(["database", "filesystem", "github"]));
    // Absent arguments are equivalent to empty ones.
    let reply = server.ask("tools/call", &json!({"name": "get_capacity"}));
    assert_eq!(server.check_answer("get_capacity", &reply["result"]), capacity);
}

#[test]
fn a_release_tells_what_is_free_again() {
    let mut server = Server::ready(&[]);
    let before = server.capacity();
    let id = server.grant(&feature());
    let by_id = json!({"allocation_id": id});
    let released = server.answer("release_resources", &by_id);
    check(
        &released,
        &json!({
            "status": "released",
            "allocation_id": id,
            "job_id": JOB,
            "workers_released": 4,
            "cpu_freed": 4.0,
            "memory_freed": 8192,
            "released_at": TIME,
            "duration_seconds": COUNT
        }),
    );
    assert_eq!(server.capacity(), before);
    let again = server.answer("release_resources", &by_id);
    assert_eq!(
        again,
        json!({"status": "already_released", "allocation_id": id, "released_at": released["released_at"]})
    );
    let record = server.allocation(&id);
    check(&record, &json!({"state": "released", "is_expired": false, "timestamps": {"activated_at": TIME}}));
    assert_eq!(record["timestamps"]["released_at"], released["released_at"]);
}

#[test]
fn a_refusal_names_the_shortage() {
    let mut server = Server::ready(&[]);
    for (held, asked, left) in [(0, 20, 10), (4, 10, 6), (0, u32::MAX, 6), (6, 1, 0)] {
        if held > 0 {
            server.grant(&json!({"job_id": "holder", "mcp_servers": [], "workers": held}));
        }
        let request = json!({"job_id": JOB, "mcp_servers": ["filesystem"], "workers": asked, "metadata": {"a": 1}});
        let refusal = server.answer("request_resources", &request);
        let error = format!("Insufficient workers: requested {asked}, available {left}");
        check(&refusal, &json!({"allocation_id": ID, "status": "failed", "error": error}));
        let record = server.allocation(refusal["allocation_id"].as_str().expect("an id"));
        check(
            &record,
            &json!({
                "allocation_id": refusal["allocation_id"],
                "job_id": JOB,
                "state": "failed",
                "mcp_servers": [],
                "workers": [],
                "timestamps": {"created_at": TIME, "activated_at": null, "released_at": null},
                "is_expired": false,
                "metadata": {"a": 1}
            }),
        );
        assert_eq!(server.capacity()["available_workers"], left, "a refusal takes nothing");
    }
}

#[test]
fn an_unknown_id_is_an_error_that_names_it() {
    let mut server = Server::ready(&["--toolsets", "all"]);
    for tool in ["get_allocation", "release_resources", "renew_allocation"] {
        let error = server.error(tool, &json!({"allocation_id": "nonexistent-id"}));
        assert_eq!(error, "Allocation nonexistent-id not found", "{tool}");
    }
}

#[test]
fn a_cleanup_answers_with_what_it_ended() {
    let mut server = Server::ready(&[]);
    assert_eq!(server.answer("cleanup_expired", &json!({})), json!({"cleaned_up": [], "count": 0}));
}

#[test]
fn there_are_exactly_six_tools_unless_more_are_asked_for() {
    let six = [
        "request_resources",
        "release_resources",
        "get_capacity",
        "get_allocation",
        "list_allocations",
        "cleanup_expired",
    ];
    let seven = [six.as_slice(), &["renew_allocation"]].concat();
    let agents = ["register_agent", "heartbeat_agent", "unregister_agent", "list_agents"];
    let tasks = [
        "submit_task",
        "claim_task",
        "assign_task",
        "get_task",
        "complete_task",
        "cancel_task",
        "update_task",
        "list_tasks",
    ];
    let usage = ["get_resource_usage", "detect_bottlenecks", "set_token_budget", "set_agent_quota"];
    let planning = ["get_plan", "get_forecast", "get_scaling_history", "set_scaling_policy"];
    let servers =
        ["list_mcp_servers", "get_mcp_server", "restart_mcp_server", "list_workers", "get_worker", "drain_worker"];
    let all = [seven.as_slice(), &agents, &tasks, &usage, &planning, &servers].concat();
    for (arguments, names) in [
        (vec![], six.to_vec()),
        (vec!["--toolsets", "allocation"], six.to_vec()),
        (vec!["--toolsets", "allocation,leases"], seven.clone()),
        (vec!["--toolsets", "allocation,agents,tasks"], [six.as_slice(), &agents, &tasks].concat()),
        (vec!["--toolsets", "usage"], usage.to_vec()),
        (vec!["--toolsets", "planning"], planning.to_vec()),
        (vec!["--toolsets", "servers"], servers.to_vec()),
        (vec!["--toolsets", "all"], all),
    ] {
        let mut server = Server::ready(&arguments);
        let tools = server.learn_schemas();
        let listed: Vec<_> = tools.iter().map(|tool| tool["name"].as_str().expect("a name")).collect();
        assert_eq!(listed, names, "{arguments:?}");
        for tool in &tools {
            check_description(tool);
        }
    }
    let mut server = Server::ready(&[]);
    let reply = server.ask("tools/call", &json!({"name": "renew_allocation", "arguments": {"allocation_id": "a"}}));
    assert_eq!(reply["error"]["code"], -32602, "{reply}");
}

/// Checks that a tool describes all that a client and a model need, and nothing that a client rejects.
fn check_description(tool: &Value) {
    for key in ["title", "description"] {
        assert!(tool[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {tool}");
    }
    for hint in ["readOnlyHint", "idempotentHint", "destructiveHint", "openWorldHint"] {
        assert!(tool["annotations"][hint].is_boolean(), "{hint}: {tool}");
    }
    for schema in ["inputSchema", "outputSchema"] {
        assert_eq!(tool[schema]["type"], "object", "{tool}");
        assert!(!tool[schema].to_string().contains("\"format\":\"uint"), "{schema}: {tool}");
    }
    assert_eq!(tool["inputSchema"]["additionalProperties"], false, "{tool}");
}
