//! The loop of an agent: it claims a task, sends heartbeats while it works, reports the result, and starts over after a
//! failure.
//!
//! Run it with `cargo run --example worker`. The agent takes over the task of an earlier process, is unregistered by
//! another client midway, and continues.
#![expect(clippy::print_stdout, reason = "an example prints what it does")]

mod support;

use anyhow::{bail, ensure};
use futures_util::future::join_all;
use rmcp::{Peer, RoleClient};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::time::Duration;
use support::{Failure, call};
use tokio::time::{interval, sleep};

/// The delay before the agent starts over or repeats a call.
const PAUSE: Duration = Duration::from_secs(1);

/// The interval at which the submitter polls for the end of a task.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The maximum number of polls for one task.
const POLLS_MAX: u32 = 1_500;

/// Works until the session ends.
async fn work(server: &Peer<RoleClient>, agent_id: &str) -> anyhow::Result<()> {
    loop {
        let Err(reason) = work_until_refused(server, agent_id).await;
        if !reason.is::<Failure>() {
            return Err(reason);
        }
        println!("{agent_id} begins anew: {reason}");
        sleep(PAUSE).await;
    }
}

async fn work_until_refused(server: &Peer<RoleClient>, agent_id: &str) -> anyhow::Result<Infallible> {
    // What a process before this one left behind, or a lost claim gave, goes back to the queue.
    match call(server, "unregister_agent", json!({"agent_id": agent_id})).await {
        Err(reason) if matches!(reason.downcast_ref(), Some(Failure::Refused(_))) => {} // It was not registered.
        answer => drop(answer?),
    }
    let registration = json!({"agent_id": agent_id, "agent_type": "backend"});
    let registered = call(server, "register_agent", registration).await?;
    let beat_every = Duration::from_secs(registered["heartbeat_seconds"].as_u64().unwrap_or(10));
    loop {
        let claim = call(server, "claim_task", json!({"agent_id": agent_id, "wait_seconds": 20})).await?;
        let tasks = claim["tasks"].as_array().into_iter().flatten();
        for ended in join_all(tasks.map(|task| attempt(server, agent_id, task, beat_every))).await {
            match ended {
                // Too late, or cancelled: somebody else may have the task by now.
                Err(reason) if reason.is::<Failure>() => println!("{reason}"),
                ended => ended?,
            }
        }
    }
}

/// Does a task while the agent beats, and reports how it went.
async fn attempt(server: &Peer<RoleClient>, agent_id: &str, task: &Value, beat_every: Duration) -> anyhow::Result<()> {
    let outcome = tokio::select! {
        outcome = carry_out(&task["payload"]) => outcome,
        taken_back = beat(server, agent_id, task, beat_every) => return taken_back,
    };
    let mut report = match outcome {
        Ok((output, tokens)) => json!({"result": "success", "output": output, "tokens_used": tokens}),
        Err(error) => {
            let reason: String = format!("{error:#}").chars().take(4096).collect();
            json!({"result": "failure", "error": reason})
        }
    };
    report["agent_id"] = json!(agent_id);
    for key in ["task_id", "fencing_token"] {
        report[key] = task[key].clone();
    }
    insist(server, "complete_task", report).await.map(drop)
}

/// Says that the agent is alive, until it no longer holds the task.
async fn beat(server: &Peer<RoleClient>, agent_id: &str, task: &Value, beat_every: Duration) -> anyhow::Result<()> {
    let mut beats = interval(beat_every);
    loop {
        beats.tick().await;
        let answer = insist(server, "heartbeat_agent", json!({"agent_id": agent_id})).await?;
        let mut held = answer["tasks"].as_array().into_iter().flatten();
        if !held.any(|held| held["fencing_token"] == task["fencing_token"]) {
            return Ok(());
        }
    }
}

/// Repeats a call that was lost, for a minute. A claim must not be repeated so: what the first one gave would lie idle.
async fn insist(server: &Peer<RoleClient>, tool: &'static str, arguments: Value) -> anyhow::Result<Value> {
    for _ in 0..60 {
        match call(server, tool, arguments.clone()).await {
            Err(reason) if matches!(reason.downcast_ref(), Some(Failure::Lost(_))) => sleep(PAUSE).await,
            answer => return answer,
        }
    }
    call(server, tool, arguments).await
}

/// Does the work of a task. Returns its output and the tokens it used. It never blocks, so that the agent can send
/// heartbeats.
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
    // An earlier process claimed a task and crashed.
    call(server, "register_agent", json!({"agent_id": "backend-1", "agent_type": "backend"})).await?;
    submit(server, "task-1", json!(21)).await?;
    call(server, "claim_task", json!({"agent_id": "backend-1"})).await?;
    tokio::select! {
        outcome = work(server, "backend-1") => outcome?,
        outcome = submit_and_wait(server) => outcome?,
    }
    client.cancel().await?;
    Ok(())
}

/// Submits tasks and waits for them, even if the agent is unregistered.
async fn submit_and_wait(server: &Peer<RoleClient>) -> anyhow::Result<()> {
    submit(server, "task-2", json!("x")).await?;
    submit(server, "task-3", json!(4)).await?;
    for task_id in ["task-1", "task-2", "task-3"] {
        wait_for_end(server, task_id).await?;
    }
    println!("another client unregisters the agent");
    call(server, "unregister_agent", json!({"agent_id": "backend-1"})).await?;
    submit(server, "task-4", json!(5)).await?;
    wait_for_end(server, "task-4").await
}

async fn submit(server: &Peer<RoleClient>, task_id: &str, payload: Value) -> anyhow::Result<()> {
    call(server, "submit_task", json!({"task_id": task_id, "payload": payload})).await.map(drop)
}

/// Waits until a task has ended, and prints its result.
async fn wait_for_end(server: &Peer<RoleClient>, task_id: &str) -> anyhow::Result<()> {
    let is_ended = |task: &Value| ["completed", "failed"].iter().any(|state| task["state"] == *state);
    let mut polls = 0;
    let task = loop {
        let task = call(server, "get_task", json!({"task_id": task_id})).await?;
        if is_ended(&task) {
            break task;
        }
        polls += 1;
        ensure!(polls < POLLS_MAX, "{task_id} has not ended: {task}");
        sleep(POLL_INTERVAL).await;
    };
    let outcome = if task["output"].is_null() { &task["error"] } else { &task["output"] };
    println!("{task_id} is {}: {outcome}", task["state"].as_str().unwrap_or_default());
    Ok(())
}
