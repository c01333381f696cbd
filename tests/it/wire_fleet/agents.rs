//! Registration, heartbeats and unregistration of agents, and the capacity that they use.

use crate::support::wait_until;
use serde_json::{Value, json};

use crate::support::pattern::{COUNT, ID, TIME, check};
use crate::wire_fleet::fleet::{agent, claim, listed, ready, register, register_as, submit, usage};

/// Returns a registration with all arguments.
fn full() -> Value {
    json!({
        "agent_id": "agent-1", "agent_type": "backend", "capabilities": ["rust", "review", "rust"], "max_concurrent": 5,
        "metadata": {"host": "a", "cores": [1, 2]}
    })
}

#[test]
fn a_registration_is_answered_with_the_agent() {
    let mut server = ready(&[]);
    let registered = server.answer("register_agent", &full());
    check(
        &registered,
        &json!({
            "status": "registered", "agent_id": "agent-1", "agent_type": "backend", "capabilities": ["review", "rust"],
            "max_concurrent": 5, "allocation_id": null, "state": "idle", "current_tasks": 0, "heartbeat_seconds": 10,
            "registered_at": TIME, "lost_at": TIME
        }),
    );
    let least = register(&mut server, "agent-2");
    check(
        &least,
        &json!({
            "agent_type": "general", "capabilities": [], "max_concurrent": 3, "allocation_id": null,
            "current_tasks": 0
        }),
    );
    assert_eq!(listed(&mut server, "agent-1")["metadata"], full()["metadata"]);
    assert_eq!(listed(&mut server, "agent-2")["metadata"], json!({}));
}

#[test]
fn a_repeated_registration_answers_for_the_first() {
    let mut server = ready(&[]);
    let first = server.answer("register_agent", &full());
    submit(&mut server, "task-1", 1);
    claim(&mut server, "agent-1");
    // The same registration with another order of keys, and null for absent values.
    let worded = json!({
        "metadata": {"cores": [1, 2], "host": "a"}, "max_concurrent": 5, "capabilities": ["review", "rust"],
        "allocation_id": null, "agent_type": "backend", "agent_id": "agent-1"
    });
    for repeat in [full(), worded] {
        check(
            &server.answer("register_agent", &repeat),
            &json!({
                "status": "already_registered", "agent_id": "agent-1", "registered_at": first["registered_at"],
                "state": "busy", "current_tasks": 1
            }),
        );
    }
    assert_eq!(server.capacity()["allocated_workers"], 1);
}

#[test]
fn the_same_id_with_other_particulars_is_an_error() {
    let mut server = ready(&[]);
    server.answer("register_agent", &full());
    let allocation = server.grant(&json!({"job_id": "a", "mcp_servers": [], "workers": 1}));
    let before = listed(&mut server, "agent-1");
    for (key, value) in [
        ("agent_type", json!("frontend")),
        ("capabilities", json!(["rust"])),
        ("max_concurrent", json!(4)),
        ("allocation_id", json!(allocation)),
        ("metadata", json!({"host": "b"})),
        ("metadata", Value::Null),
    ] {
        let mut other = full();
        other[key] = value;
        let error = server.error("register_agent", &other);
        assert!(error.contains("agent_id agent-1 is registered with different arguments"), "{key}: {error}");
    }
    let mut after = listed(&mut server, "agent-1");
    // A registration counts as a heartbeat, even one that is refused.
    for key in ["heard_at", "lost_at"] {
        after[key] = before[key].clone();
    }
    assert_eq!(after, before);
    // After an agent has left, its id is available again.
    server.answer("unregister_agent", &agent("agent-1"));
    register_as(&mut server, "agent-1", json!({"agent_type": "frontend"}));
}

#[test]
fn a_heartbeat_tells_what_the_agent_holds() {
    let mut server = ready(&["--heartbeat-seconds", "60"]);
    register(&mut server, "agent-1");
    let beat = server.answer("heartbeat_agent", &agent("agent-1"));
    check(
        &beat,
        &json!({
            "status": "ok", "agent_id": "agent-1", "state": "idle", "lost_at": TIME, "next_heartbeat_seconds": 60,
            "tasks": []
        }),
    );
    for task in ["task-1", "task-2", "task-3"] {
        submit(&mut server, task, 1);
    }
    let mut held = Vec::new();
    let first = claim(&mut server, "agent-1");
    held.push((first["task_id"].clone(), first["fencing_token"].clone()));
    for task in ["task-2", "task-3"] {
        let assigned = server.answer("assign_task", &json!({"task_id": task}));
        held.push((json!(task), assigned["tasks"][0]["fencing_token"].clone()));
    }
    let expected: Vec<_> = held
        .iter()
        .map(|(task, token)| json!({"task_id": task, "fencing_token": token, "lease_expires_at": TIME}))
        .collect();
    check(&server.answer("heartbeat_agent", &agent("agent-1")), &json!({"state": "full", "tasks": expected}));
    server.answer("cancel_task", &json!({"task_id": "task-2"}));
    let beat = server.answer("heartbeat_agent", &agent("agent-1"));
    check(&beat, &json!({"state": "busy", "tasks": [expected[0], expected[2]]}));
}

#[test]
fn tasks_of_a_leaving_agent_return_to_the_queue() {
    let mut server = ready(&[]);
    register(&mut server, "agent-1");
    submit(&mut server, "task-1", 1);
    server.answer("submit_task", &json!({"task_id": "task-2", "estimated_tokens": 1, "max_attempts": 1}));
    claim(&mut server, "agent-1");
    claim(&mut server, "agent-1");
    check(
        &server.answer("unregister_agent", &agent("agent-1")),
        &json!({
            "status": "unregistered", "agent_id": "agent-1", "unregistered_at": TIME,
            "tasks": [{"task_id": "task-1", "state": "queued"}, {"task_id": "task-2", "state": "failed"}]
        }),
    );
    check(&server.capacity(), &json!({"allocated_workers": 0}));
    check(
        &usage(&mut server),
        &json!({"agents": {"active_agents": 0}, "queue": {"pending_tasks": 1, "running_tasks": 0}}),
    );
}

#[test]
fn an_unknown_agent_is_an_error_that_names_it() {
    let mut server = ready(&[]);
    register(&mut server, "gone");
    server.answer("unregister_agent", &agent("gone"));
    for tool in ["heartbeat_agent", "unregister_agent"] {
        for name in ["nobody", "gone"] {
            let error = server.error(tool, &agent(name));
            assert!(error.starts_with(&format!("Agent {name} not found: ")), "{tool}: {error}");
            assert!(error.contains("register_agent"), "the way out: {error}");
        }
    }
}

#[test]
fn agents_and_allocations_share_the_workers() {
    let mut server = ready(&["--total-workers", "4"]);
    for number in 1..=3 {
        register(&mut server, &format!("agent-{number}"));
    }
    check(
        &server.capacity(),
        &json!({
            "allocated_workers": 3, "available_workers": 1, "allocated_cpu": 3.0, "allocated_memory": 6144,
            "active_allocations": 0
        }),
    );
    let two = json!({"job_id": "a", "mcp_servers": [], "workers": 2});
    check(
        &server.answer("request_resources", &two),
        &json!({"status": "failed", "error": "Insufficient workers: requested 2, available 1"}),
    );
    let allocation = server.grant(&json!({"job_id": "a", "mcp_servers": [], "workers": 1}));
    let error = server.error("register_agent", &agent("agent-4"));
    assert_eq!(error, no_worker("Insufficient workers: requested 1, available 0"));
    check(&server.capacity(), &json!({"allocated_workers": 4, "available_workers": 0}));
    server.answer("release_resources", &json!({"allocation_id": allocation}));
    register(&mut server, "agent-4");
    check(
        &server.answer("request_resources", &json!({"job_id": "a", "mcp_servers": [], "workers": 1})),
        &json!({"status": "failed", "error": "Insufficient workers: requested 1, available 0"}),
    );
    server.answer("unregister_agent", &agent("agent-1"));
    server.answer("unregister_agent", &agent("agent-2"));
    server.grant(&two);
    check(&server.capacity(), &json!({"allocated_workers": 4, "active_allocations": 1}));
}

/// The error for an agent without an available worker.
fn no_worker(shortage: &str) -> String {
    format!(
        "an agent needs a worker, and there is not enough capacity for one ({shortage}): unregister an agent, \
         release an allocation, raise the totals of the server, or register with an allocation_id"
    )
}

#[test]
fn an_agent_takes_the_cpu_and_memory_of_a_worker() {
    for (totals, error) in [
        (["--total-cpu", "1.5"], "Insufficient CPU: requested 1.0 cores, available 0.5"),
        (["--total-memory", "3000"], "Insufficient memory: requested 2048 MB, available 952"),
    ] {
        let mut server = ready(&totals);
        register(&mut server, "agent-1");
        assert_eq!(server.error("register_agent", &agent("agent-2")), no_worker(error));
        let request = json!({"job_id": "a", "mcp_servers": [], "workers": 1});
        check(&server.answer("request_resources", &request), &json!({"status": "failed", "error": error}));
    }
}

#[test]
fn an_agent_takes_back_what_an_expired_lease_holds() {
    let mut server = ready(&["--total-workers", "1"]);
    let brief = json!({"job_id": "a", "mcp_servers": [], "workers": 1, "ttl_seconds": 1});
    let expired = server.grant(&brief);
    server.error("register_agent", &agent("agent-1"));
    server.wait_until_expired(&expired);
    register(&mut server, "agent-1");
    check(&server.allocation(&expired), &json!({"state": "released", "ended_by": "expired"}));
}

#[test]
fn agents_of_an_allocation_are_its_workers() {
    let mut server = ready(&["--total-workers", "3"]);
    let allocation = server.grant(&json!({"job_id": "a", "mcp_servers": [], "workers": 2}));
    let of = |allocation: &str| json!({"allocation_id": allocation});
    check(&register_as(&mut server, "agent-1", of(&allocation)), &json!({"allocation_id": ID}));
    register_as(&mut server, "agent-2", of(&allocation));
    check(&server.capacity(), &json!({"allocated_workers": 2}));
    let mut third = of(&allocation);
    third["agent_id"] = json!("agent-3");
    let error = server.error("register_agent", &third);
    assert!(error.contains(&allocation) && error.contains("2 workers"), "{error}");
    // One worker outside the allocation is available.
    register(&mut server, "agent-3");
    check(&server.capacity(), &json!({"allocated_workers": 3}));

    submit(&mut server, "task-1", 1);
    claim(&mut server, "agent-1");
    server.answer("release_resources", &json!({"allocation_id": allocation}));
    for gone in ["agent-1", "agent-2"] {
        assert!(server.error("heartbeat_agent", &agent(gone)).contains("not found"));
    }
    check(&server.capacity(), &json!({"allocated_workers": 1}));
    check(
        &server.answer("get_task", &json!({"task_id": "task-1"})),
        &json!({"state": "queued", "attempts": [{"agent_id": "agent-1", "outcome": "allocation_ended"}]}),
    );
    assert_eq!(claim(&mut server, "agent-3")["task_id"], "task-1");

    for (id, expected) in [
        (allocation.as_str(), format!("Allocation {allocation} is not active")),
        ("alloc-000000000000", "Allocation alloc-000000000000 not found".to_owned()),
        ("nonexistent-id", "Allocation nonexistent-id not found".to_owned()),
    ] {
        let mut late = of(id);
        late["agent_id"] = json!("agent-4");
        let error = server.error("register_agent", &late);
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn quotas_are_kept_in_all_and_by_type() {
    let mut server = ready(&["--total-workers", "5"]);
    let quota = |agent_type: &str, quota: u64| json!({"agent_type": agent_type, "quota": quota});
    server.answer("set_agent_quota", &quota("backend", 2));
    server.answer("set_agent_quota", &json!({"quota": 4}));
    let backend = || json!({"agent_type": "backend"});
    register_as(&mut server, "b-1", backend());
    register_as(&mut server, "b-2", backend());
    let third = json!({"agent_id": "b-3", "agent_type": "backend"});
    let error = server.error("register_agent", &third);
    assert!(error.starts_with("Agent quota exceeded: 2 of 2 agents of type backend are registered"), "{error}");
    assert!(error.contains("set_agent_quota"), "the way out: {error}");
    // A repeated registration adds no agent.
    let repeat = json!({"agent_id": "b-1", "agent_type": "backend"});
    assert_eq!(server.answer("register_agent", &repeat)["status"], "already_registered");

    register(&mut server, "g-1");
    register(&mut server, "g-2");
    let error = server.error("register_agent", &agent("g-3"));
    assert!(error.starts_with("Agent quota exceeded: 4 of 4 agents are registered;"), "{error}");
    check(&server.capacity(), &json!({"allocated_workers": 4}));
    check(
        &usage(&mut server)["agents"],
        &json!({
            "total_quotas": 4, "active_agents": 4, "available_slots": 0, "has_quota": true,
            "by_type": {
                "backend": {"quota": 2, "active": 2, "has_own_quota": true},
                "general": {"quota": 4, "active": 2, "has_own_quota": false}
            }
        }),
    );

    // A lower limit removes no agent. Without a limit, the workers are the limit.
    server.answer("set_agent_quota", &json!({"quota": 1}));
    check(&usage(&mut server)["agents"], &json!({"total_quotas": 1, "active_agents": 4, "available_slots": 0}));
    let removed = server.answer("set_agent_quota", &json!({"remove": true}));
    check(&removed, &json!({"status": "removed", "agents": {"total_quotas": 5, "has_quota": false}}));
    register(&mut server, "g-3");
    let error = server.error("register_agent", &agent("g-4"));
    assert_eq!(error, no_worker("Insufficient workers: requested 1, available 0"));
}

#[test]
fn a_silent_agent_is_given_nothing_and_then_lost() {
    let mut server = ready(&["--heartbeat-seconds", "2", "--total-workers", "2"]);
    register(&mut server, "alive");
    register(&mut server, "silent");
    submit(&mut server, "task-1", 1);
    let held = claim(&mut server, "silent");
    let mut seen = Vec::new();
    wait_until("the loss of the silent agent", || {
        server.answer("heartbeat_agent", &agent("alive"));
        let list = server.answer("list_agents", &json!({}));
        let agents = list["agents"].as_array().expect("a list");
        assert!(agents.iter().any(|one| one["agent_id"] == "alive" && one["state"] == "idle"), "{list}");
        let silent = agents.iter().find(|one| one["agent_id"] == "silent");
        let state = silent.map_or(json!("lost"), |one| one["state"].clone());
        if seen.last() != Some(&state) {
            seen.push(state);
        }
        silent.is_none()
    });
    assert_eq!(seen, ["busy", "unresponsive", "lost"]);
    assert!(server.error("heartbeat_agent", &agent("silent")).contains("not found"));
    let late = json!({
        "task_id": "task-1", "agent_id": "silent", "fencing_token": held["fencing_token"], "result": "success"
    });
    assert!(server.error("complete_task", &late).contains("fencing_token"));
    check(
        &server.answer("get_task", &json!({"task_id": "task-1"})),
        &json!({"state": "queued", "attempts": [{"agent_id": "silent", "outcome": "agent_lost"}]}),
    );
    check(&server.capacity(), &json!({"allocated_workers": 1}));
    check(&register(&mut server, "silent"), &json!({"current_tasks": 0, "heartbeat_seconds": 2}));
    assert_eq!(claim(&mut server, "alive")["task_id"], "task-1");
}

#[test]
fn the_metadata_of_an_agent_stays_out_of_the_log() {
    let mut server = ready(&[]);
    let secret = "this is not for the log";
    register_as(&mut server, "agent-1", json!({"metadata": {"key": secret}}));
    server.error("register_agent", &json!({"agent_id": "agent-1", "metadata": {"key": [secret]}}));
    server.answer("unregister_agent", &agent("agent-1"));
    server.close_input();
    server.check_end();
    wait_until("the last log line", || server.log().contains("ended"));
    let log = server.log();
    assert!(log.contains("agent registered") && log.contains("agent unregistered"), "{log}");
    assert!(!log.contains(secret), "{log}");
}

#[test]
fn agents_outlive_a_restart_and_are_given_their_time_anew() {
    use crate::support::durable::{ENDINGS, Home, Mode};
    for ending in ENDINGS {
        let home = Home::new();
        let mut server = home.server(Mode::Never, &["--heartbeat-seconds", "3600"]);
        let registered = server.answer("register_agent", &full());
        submit(&mut server, "task-1", 1);
        let held = claim(&mut server, "agent-1");
        home.end(server, ending);
        let mut server = home.server(Mode::Never, &["--heartbeat-seconds", "3600"]);
        check(
            &server.answer("register_agent", &full()),
            &json!({
                "status": "already_registered", "registered_at": registered["registered_at"], "state": "busy",
                "current_tasks": 1
            }),
        );
        let beat = server.answer("heartbeat_agent", &agent("agent-1"));
        check(&beat, &json!({"tasks": [{"task_id": "task-1", "fencing_token": held["fencing_token"]}]}));
        assert_eq!(server.capacity()["allocated_workers"], 1);
        assert!(beat["lost_at"].as_str() > registered["lost_at"].as_str(), "{beat}");
        check(&listed(&mut server, "agent-1"), &json!({"load": {"current_tasks": COUNT}, "metadata": {"host": "a"}}));
        home.end(server, ending);
        home.printed("verify", &[]);
    }
}
