//! Recorded definitions and answers of the tools: a change of the protocol appears as a change of a file.

use std::{collections::BTreeSet, path::Path};

use cortex_test_support::snapshot_files;
use serde_json::{Value, json};

use crate::support::{pattern::redact, server::Server};

/// Compares with the recorded file, after ids, times and ages are replaced.
fn check_snapshot(name: &str, mut value: Value) {
    redact(&mut value);
    insta::assert_json_snapshot!(name, value);
}

/// Returns the whole result of a call. Its text is parsed as JSON, so that ids and times in it can be replaced.
fn result(server: &mut Server, tool: &str, arguments: &Value) -> Value {
    let mut result = server.call(tool, arguments);
    let text = result["content"][0]["text"].as_str().expect("a text");
    result["content"][0]["text"] = serde_json::from_str(text).expect("a text that is JSON");
    result
}

/// Returns a request with all arguments.
fn request() -> Value {
    json!({
        "job_id": "job-001", "mcp_servers": ["filesystem", "github"], "workers": 2, "priority": "high",
        "ttl_seconds": 7200, "metadata": {"task_type": "feature"}, "request_id": "request-001"
    })
}

/// Compares the definition of each tool with a file of its name, and their order with one more file.
#[test]
fn the_list_of_tools() {
    let mut server = Server::ready(&["--toolsets", "all"]);
    let mut list = server.ask("tools/list", &json!({}))["result"].take();
    let mut names = BTreeSet::new();
    for tool in list["tools"].as_array_mut().expect("a list") {
        let name = tool["name"].as_str().expect("a name").to_owned();
        insta::with_settings!({prepend_module_to_snapshot => false, snapshot_path => "snapshots/tools"}, {
            insta::assert_json_snapshot!(name.as_str(), &*tool);
        });
        *tool = name.as_str().into();
        assert!(names.insert(name), "two tools have the same name: {tool}");
    }
    check_snapshot("tools", list);
    snapshot_files::assert_names(Path::new("tests/it/snapshots/tools"), &names);
}

#[test]
fn the_answer_of_each_tool() {
    let mut server = Server::ready(&["--toolsets", "all"]);
    let granted = result(&mut server, "request_resources", &request());
    let id = granted["structuredContent"]["allocation_id"].clone();
    let by_id = json!({"allocation_id": id});
    check_snapshot("request_resources", granted);
    let too_much = json!({"job_id": "job-002", "mcp_servers": ["filesystem"], "workers": 20});
    check_snapshot("request_resources_failed", result(&mut server, "request_resources", &too_much));
    check_snapshot("get_capacity", result(&mut server, "get_capacity", &json!({})));
    check_snapshot("get_allocation", result(&mut server, "get_allocation", &by_id));
    check_snapshot("list_allocations", result(&mut server, "list_allocations", &json!({"limit": 1})));
    check_snapshot("renew_allocation", result(&mut server, "renew_allocation", &by_id));
    check_snapshot("release_resources", result(&mut server, "release_resources", &by_id));
    check_snapshot("release_resources_again", result(&mut server, "release_resources", &by_id));
    let brief = json!({"job_id": "job-003", "mcp_servers": ["filesystem"], "ttl_seconds": 1});
    let expired = server.grant(&brief);
    server.wait_until_expired(&expired);
    check_snapshot("cleanup_expired", result(&mut server, "cleanup_expired", &json!({})));
    let nobody = json!({"allocation_id": "nonexistent-id"});
    check_snapshot("get_allocation_not_found", result(&mut server, "get_allocation", &nobody));
}

#[test]
fn the_answer_of_each_tool_about_servers_without_a_catalog() {
    let mut server = Server::ready(&["--toolsets", "servers"]);
    check_snapshot("list_mcp_servers_no_catalog", result(&mut server, "list_mcp_servers", &json!({})));
    let server_by_name = json!({"name": "filesystem"});
    let worker_by_id = json!({"worker_id": "worker-job-001-000"});
    for (tool, arguments) in [
        ("get_mcp_server", &server_by_name),
        ("restart_mcp_server", &server_by_name),
        ("list_workers", &json!({})),
        ("get_worker", &worker_by_id),
        ("drain_worker", &worker_by_id),
    ] {
        // All of them give the same answer.
        check_snapshot("list_mcp_servers_no_catalog", result(&mut server, tool, arguments));
    }
}

#[test]
fn the_greeting() {
    let mut server = Server::ready(&[]);
    check_snapshot("initialize", server.greet("2025-11-25"));
    check_snapshot("resources", server.ask("resources/list", &json!({}))["result"].clone());
    check_snapshot("resource_templates", server.ask("resources/templates/list", &json!({}))["result"].clone());
}

#[test]
fn the_answer_of_each_tool_about_agents_and_usage() {
    let mut server = Server::ready(&["--toolsets", "all"]);
    let agent = json!({
        "agent_id": "agent-1", "agent_type": "backend", "capabilities": ["rust", "review"], "metadata": {"host": "a"}
    });
    check_snapshot("register_agent", result(&mut server, "register_agent", &agent));
    check_snapshot("register_agent_again", result(&mut server, "register_agent", &agent));
    let quota = json!({"agent_type": "backend", "quota": 1});
    check_snapshot("set_agent_quota", result(&mut server, "set_agent_quota", &quota));
    let second = json!({"agent_id": "agent-2", "agent_type": "backend"});
    check_snapshot("register_agent_over_quota", result(&mut server, "register_agent", &second));
    server.answer("submit_task", &json!({"task_id": "task-1", "job_id": "job-001", "estimated_tokens": 1500}));
    let budget = json!({"job_id": "job-001", "budget_tokens": 1800});
    check_snapshot("set_token_budget", result(&mut server, "set_token_budget", &budget));
    let by_id = json!({"agent_id": "agent-1"});
    server.answer("claim_task", &by_id);
    check_snapshot("heartbeat_agent", result(&mut server, "heartbeat_agent", &by_id));
    check_snapshot("list_agents", result(&mut server, "list_agents", &json!({})));
    check_snapshot("get_resource_usage", result(&mut server, "get_resource_usage", &json!({})));
    check_snapshot("detect_bottlenecks", result(&mut server, "detect_bottlenecks", &json!({})));
    check_snapshot("unregister_agent", result(&mut server, "unregister_agent", &by_id));
    check_snapshot("heartbeat_agent_not_found", result(&mut server, "heartbeat_agent", &by_id));
}

#[test]
fn the_answer_of_each_tool_about_tasks() {
    let mut server = Server::ready(&["--toolsets", "all"]);
    let agent = json!({"agent_id": "agent-1", "agent_type": "backend", "capabilities": ["rust"], "max_concurrent": 3});
    server.answer("register_agent", &agent);
    let task = json!({
        "task_id": "task-1", "job_id": "job-001", "agent_type": "backend", "capabilities": ["rust"], "priority": "HIGH",
        "estimated_tokens": 1500, "deadline": "2999-12-31T23:00:00Z", "batch_key": "login",
        "payload": {"file": "src/login.rs"}, "max_attempts": 2
    });
    check_snapshot("submit_task", result(&mut server, "submit_task", &task));
    check_snapshot("submit_task_again", result(&mut server, "submit_task", &task));
    let by_agent = json!({"agent_id": "agent-1"});
    let claimed = result(&mut server, "claim_task", &by_agent);
    let token = claimed["structuredContent"]["tasks"][0]["fencing_token"].clone();
    check_snapshot("claim_task", claimed);
    check_snapshot("claim_task_nothing", result(&mut server, "claim_task", &by_agent));
    let failed = json!({
        "task_id": "task-1", "agent_id": "agent-1", "fencing_token": token, "result": "failure", "tokens_used": 1200,
        "duration_ms": 2500, "error": "the tests do not pass"
    });
    check_snapshot("complete_task_requeued", result(&mut server, "complete_task", &failed));
    check_snapshot("complete_task_again", result(&mut server, "complete_task", &failed));
    let by_id = json!({"task_id": "task-1"});
    let assigned = result(&mut server, "assign_task", &by_id);
    let mut done = failed.clone();
    done["fencing_token"] = assigned["structuredContent"]["tasks"][0]["fencing_token"].clone();
    check_snapshot("assign_task", assigned);
    check_snapshot("get_task_running", result(&mut server, "get_task", &by_id));
    check_snapshot(
        "complete_task_stale",
        result(&mut server, "complete_task", &{
            let mut stale = done.clone();
            stale["fencing_token"] = json!(99);
            stale
        }),
    );
    done["result"] = json!("success");
    done["error"] = Value::Null;
    done["output"] = json!({"commit": "4f2a"});
    check_snapshot("complete_task", result(&mut server, "complete_task", &done));
    check_snapshot("get_task", result(&mut server, "get_task", &by_id));
    server.answer("submit_task", &json!({"task_id": "task-2", "estimated_tokens": 500}));
    let urgent = json!({"task_id": "task-2", "priority": "CRITICAL"});
    check_snapshot("update_task", result(&mut server, "update_task", &urgent));
    check_snapshot("list_tasks", result(&mut server, "list_tasks", &json!({"limit": 1})));
    let by_id = json!({"task_id": "task-2"});
    check_snapshot("cancel_task", result(&mut server, "cancel_task", &by_id));
    check_snapshot("cancel_task_again", result(&mut server, "cancel_task", &by_id));
    check_snapshot("get_task_not_found", result(&mut server, "get_task", &json!({"task_id": "task-3"})));
}
