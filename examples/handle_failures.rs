//! What can go wrong with a request, and what to do: wait when there is no room, repeat safely when an answer was lost, mend
//! the call when an argument is wrong.
//!
//! Run it with `cargo run --example handle_failures`.
#![expect(clippy::print_stdout, reason = "an example tells what it does")]

mod support;

use anyhow::{anyhow, bail, ensure};
use rmcp::{Peer, RoleClient};
use serde_json::{Value, json};
use std::time::Duration;
use support::call;

/// How often a request is made before it is given up.
const ATTEMPTS_MAX: u32 = 3;

/// The longest that is waited for room, in seconds.
const WAIT_SECONDS_MAX: u64 = 60;

/// Requests resources, and again when the server says that there may be room.
async fn request_with_patience(client: &Peer<RoleClient>, request: &Value) -> anyhow::Result<Value> {
    for attempt in 1..=ATTEMPTS_MAX {
        let answer = call(client, "request_resources", request.clone()).await?;
        if answer["status"] == "active" {
            println!("attempt {attempt}: {} has {}", text(request, "job_id"), text(&answer, "allocation_id"));
            return Ok(answer);
        }
        println!("attempt {attempt}: {}", text(&answer, "error"));
        // No time is given when no lease that runs out will make enough room: then less has to be asked for.
        let Some(seconds) = answer["retry_after_seconds"].as_u64() else { bail!("waiting does not help") };
        ensure!(seconds <= WAIT_SECONDS_MAX, "there may be room in {seconds} s, which is too long");
        println!("           there may be room in {seconds} s: waiting");
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
    Err(anyhow!("still no room after {ATTEMPTS_MAX} attempts"))
}

/// The text at a key, or nothing.
fn text<'a>(answer: &'a Value, key: &str) -> &'a str {
    answer[key].as_str().unwrap_or_default()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let client = support::start(&["--total-workers", "10"]).await?;

    println!("-- No room, but soon");
    let crashed = json!({"job_id": "crashed-job", "mcp_servers": [], "workers": 8, "ttl_seconds": 1});
    call(&client, "request_resources", crashed).await?;
    let request = json!({"job_id": "patient-job", "mcp_servers": [], "workers": 6, "request_id": "patient-job/1"});
    let lease = request_with_patience(&client, &request).await?;

    println!("-- No room, ever");
    let request_too_large = json!({"job_id": "greedy-job", "mcp_servers": [], "workers": 11});
    match request_with_patience(&client, &request_too_large).await {
        Err(error) => println!("given up: {error}"),
        Ok(_) => bail!("11 of 10 workers were leased"),
    }

    println!("-- The answer was lost, so the same request is made again");
    let again = call(&client, "request_resources", request).await?;
    ensure!(again["allocation_id"] == lease["allocation_id"], "the repeated request was granted a second time");
    println!("the request_id gives the first lease back: {}", text(&again, "allocation_id"));

    println!("-- A mistake in the call");
    let mistaken = json!({"job_id": "hasty-job", "mcp_servers": [], "wokers": 2});
    match call(&client, "request_resources", mistaken).await {
        Err(error) => println!("the server says: {error}"),
        Ok(_) => bail!("an argument that does not exist was taken"),
    }

    call(&client, "release_resources", json!({"allocation_id": lease["allocation_id"]})).await?;
    client.cancel().await?;
    Ok(())
}
