//! The loop of an agent: claim a task, say that you live while you work on it, report how it went.
//!
//! Run it with `cargo run --example worker`.
#![expect(clippy::print_stdout, reason = "an example tells what it does")]

mod support;

use anyhow::{bail, ensure};
use rmcp::{Peer, RoleClient};
use serde_json::{Value, json};
use std::pin::pin;
use std::time::Duration;
use support::call;
use tokio::time::{interval, sleep};

/// How often the submitter looks whether its tasks are done, and how often it does at most.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOOKS_MAX: u32 = 1_500;

/// Works for ever.
async fn work(server: &Peer<RoleClient>, agent_id: &str) -> anyhow::Result<()> {
    let agent = json!({"agent_id": agent_id, "agent_type": "backend"});
    let registered = call(server, "register_agent", agent).await?;
    let beat_every = Duration::from_secs(registered["heartbeat_seconds"].as_u64().unwrap_or(10));
    loop {
        let claim = call(server, "claim_task", json!({"agent_id": agent_id, "wait_seconds": 20})).await?;
        for task in claim["tasks"].as_array().into_iter().flatten() {
            let Some(mut report) = attempt(server, agent_id, task, beat_every).await? else { continue };
            report["agent_id"] = json!(agent_id);
            for key in ["task_id", "fencing_token"] {
                report[key] = task[key].clone();
            }
            if let Err(refusal) = call(server, "complete_task", report).await {
                println!("{refusal:#}"); // Too late, or cancelled: somebody else may have the task by now.
            }
        }
    }
}

/// Does a task while the agent beats. Nothing if it was taken back meanwhile.
async fn attempt(
    server: &Peer<RoleClient>,
    agent_id: &str,
    task: &Value,
    beat_every: Duration,
) -> anyhow::Result<Option<Value>> {
    let mut doing = pin!(carry_out(&task["payload"]));
    let mut beats = interval(beat_every);
    loop {
        tokio::select! {
            outcome = &mut doing => return Ok(Some(match outcome {
                Ok((output, tokens)) => json!({"result": "success", "output": output, "tokens_used": tokens}),
                Err(error) => json!({"result": "failure", "error": format!("{error:#}")}),
            })),
            _ = beats.tick() => {
                let beat = call(server, "heartbeat_agent", json!({"agent_id": agent_id})).await?;
                let mut held = beat["tasks"].as_array().into_iter().flatten();
                if !held.any(|held| held["fencing_token"] == task["fencing_token"]) {
                    return Ok(None);
                }
            }
        }
    }
}

/// What the agent is there for: gives what came of it, and the tokens it took.
async fn carry_out(payload: &Value) -> anyhow::Result<(Value, u64)> {
    match payload.as_u64() {
        Some(number) => Ok((json!(number * 2), 10)),
        None => bail!("only numbers can be doubled"),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let client = support::start(&["--toolsets", "all"]).await?;
    let server = client.peer();
    for (task_id, payload) in [("task-1", json!(21)), ("task-2", json!("x")), ("task-3", json!(4))] {
        call(server, "submit_task", json!({"task_id": task_id, "payload": payload})).await?;
    }
    tokio::select! {
        outcome = work(server, "backend-1") => outcome?,
        outcome = watch(server) => outcome?,
    }
    client.cancel().await?;
    Ok(())
}

/// Waits until all tasks have ended, and tells how.
async fn watch(server: &Peer<RoleClient>) -> anyhow::Result<()> {
    let is_ended = |task: &Value| ["completed", "failed"].iter().any(|state| task["state"] == *state);
    for task_id in ["task-1", "task-2", "task-3"] {
        let mut looks = 0;
        let task = loop {
            let task = call(server, "get_task", json!({"task_id": task_id})).await?;
            if is_ended(&task) {
                break task;
            }
            looks += 1;
            ensure!(looks < LOOKS_MAX, "{task_id} is not done: {task}");
            sleep(LOOK_EVERY).await;
        };
        let outcome = if task["output"].is_null() { &task["error"] } else { &task["output"] };
        println!("{task_id} is {}: {outcome}", task["state"].as_str().unwrap_or_default());
    }
    Ok(())
}
