//! A server with all toolsets, and short functions for its tools.

use serde_json::{Value, json};

use crate::support::{server::Server, wait_for};

/// Starts a server that offers all tools, with more arguments.
pub(crate) fn ready(arguments: &[&str]) -> Server {
    Server::ready(&[&["--toolsets", "all"], arguments].concat())
}

/// Registers an agent of the type `worker` without capabilities, with a limit of concurrent tasks.
pub(crate) fn register(server: &mut Server, agent: &str, max_concurrent: u32) {
    let arguments = json!({
        "agent_id": agent, "agent_type": "worker", "capabilities": [], "max_concurrent": max_concurrent
    });
    server.answer("register_agent", &arguments);
}

/// Submits a new task, and returns its id.
pub(crate) fn submit(server: &mut Server, arguments: &Value) -> String {
    let answer = server.answer("submit_task", arguments);
    assert_eq!(answer["status"], "submitted", "{arguments}: {answer}");
    answer["task_id"].as_str().expect("an id").to_owned()
}

/// Claims for an agent without waiting.
pub(crate) fn claim(server: &mut Server, agent: &str) -> Value {
    server.answer("claim_task", &json!({"agent_id": agent}))
}

/// Claims exactly one task for an agent, and returns it.
pub(crate) fn claim_one(server: &mut Server, agent: &str) -> Value {
    let answer = claim(server, agent);
    assert_eq!(answer["status"], "claimed", "{answer}");
    assert_eq!(answer["count"], 1, "{answer}");
    answer["tasks"][0].clone()
}

/// Returns the ids of the tasks in an answer, in order.
pub(crate) fn ids(answer: &Value) -> Vec<&str> {
    let tasks = answer["tasks"].as_array().expect("a list");
    assert_eq!(answer["count"], tasks.len(), "{answer}");
    tasks.iter().map(|task| task["task_id"].as_str().expect("an id")).collect()
}

/// Returns the report of an agent on its task.
pub(crate) fn report(task: &Value, agent: &str, result: &str) -> Value {
    json!({
        "task_id": task["task_id"], "agent_id": agent, "fencing_token": task["fencing_token"], "result": result
    })
}

/// Reads a task.
pub(crate) fn task(server: &mut Server, id: &str) -> Value {
    server.answer("get_task", &json!({"task_id": id}))
}

/// Waits until a task matches.
pub(crate) fn wait_for_state(server: &mut Server, id: &str, state: &str) -> Value {
    wait_for(state, || Some(task(server, id)).filter(|task| task["state"] == state))
}

/// Returns a task without the values that depend on the time of reading.
pub(crate) fn timeless(mut task: Value) -> Value {
    task["timestamps"]["age_seconds"] = Value::Null;
    task
}
