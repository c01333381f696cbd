//! A server with all toolsets, and short functions for its tools.

use serde_json::{Value, json};

use crate::support::server::Server;

/// Starts a server that offers all tools, with more arguments.
pub(crate) fn ready(arguments: &[&str]) -> Server {
    Server::ready(&[&["--toolsets", "all"], arguments].concat())
}

/// Registers a new agent.
pub(crate) fn register(server: &mut Server, agent: &str) -> Value {
    register_as(server, agent, json!({}))
}

/// Registers a new agent with more arguments.
pub(crate) fn register_as(server: &mut Server, agent: &str, mut arguments: Value) -> Value {
    arguments["agent_id"] = agent.into();
    let answer = server.answer("register_agent", &arguments);
    assert_eq!(answer["status"], "registered", "{arguments}: {answer}");
    answer
}

/// Returns the arguments that identify an agent.
pub(crate) fn agent(agent: &str) -> Value {
    json!({"agent_id": agent})
}

/// Returns an agent as the list shows it.
pub(crate) fn listed(server: &mut Server, agent: &str) -> Value {
    let list = server.answer("list_agents", &json!({}));
    let agents = list["agents"].as_array().expect("a list");
    agents.iter().find(|one| one["agent_id"] == agent).unwrap_or_else(|| panic!("{agent} is not in {list}")).clone()
}

/// Submits a new task with an estimate of tokens.
pub(crate) fn submit(server: &mut Server, task: &str, tokens: u64) -> Value {
    let answer = server.answer("submit_task", &json!({"task_id": task, "estimated_tokens": tokens}));
    assert_eq!(answer["status"], "submitted", "{answer}");
    answer
}

/// Claims exactly one task for an agent, and returns it.
pub(crate) fn claim(server: &mut Server, agent: &str) -> Value {
    let answer = server.answer("claim_task", &json!({"agent_id": agent}));
    assert_eq!((&answer["status"], &answer["count"]), (&json!("claimed"), &json!(1)), "{answer}");
    answer["tasks"][0].clone()
}

/// Reports the result of a task for its agent.
pub(crate) fn report(server: &mut Server, task: &Value, agent: &str, result: &str, duration_ms: u64, tokens: u64) {
    let report = json!({
        "task_id": task["task_id"], "agent_id": agent, "fencing_token": task["fencing_token"], "result": result,
        "duration_ms": duration_ms, "tokens_used": tokens
    });
    server.answer("complete_task", &report);
}

/// Has an agent complete its own tasks without tokens, with these results and durations.
pub(crate) fn work(server: &mut Server, agent: &str, results: &[(&str, u64)]) {
    for (number, (result, duration_ms)) in results.iter().enumerate() {
        let task = json!({"task_id": format!("{agent}-{number}"), "estimated_tokens": 1, "max_attempts": 1});
        server.answer("submit_task", &task);
        let task = claim(server, agent);
        report(server, &task, agent, result, *duration_ms, 0);
    }
}

/// Returns the usage of quotas, tokens and the queue.
pub(crate) fn usage(server: &mut Server) -> Value {
    server.answer("get_resource_usage", &json!({}))
}
