//! Handles the ways in which a request can fail: waits while capacity is short, repeats a request safely when an answer
//! is lost, and corrects a call when an argument is invalid.
//!
//! Run it with `cargo run --example handle_failures`.
#![expect(clippy::print_stdout, reason = "an example prints what it does")]

mod support;

use anyhow::{anyhow, bail, ensure};
use rmcp::{Peer, RoleClient};
use serde_json::{Value, json};
use std::time::Duration;
use support::call;

/// The maximum number of attempts for a request.
const ATTEMPTS_MAX: u32 = 3;

/// The longest wait for capacity, in seconds.
const WAIT_SECONDS_MAX: u64 = 60;

/// Requests resources, and retries when the server expects enough capacity.
async fn request_with_retries(client: &Peer<RoleClient>, request: &Value) -> anyhow::Result<Value> {
    for attempt in 1..=ATTEMPTS_MAX {
        let answer = call(client, "request_resources", request.clone()).await?;
        if answer["status"] == "active" {
            println!("attempt {attempt}: {} holds {}", text(request, "job_id"), text(&answer, "allocation_id"));
            return Ok(answer);
        }
        println!("attempt {attempt}: {}", text(&answer, "error"));
        // The answer has no time if no expiring lease frees enough capacity. Then only a smaller request can succeed.
        let Some(seconds) = answer["retry_after_seconds"].as_u64() else { bail!("waiting does not help") };
        ensure!(seconds <= WAIT_SECONDS_MAX, "capacity may be available in {seconds} s, which is too long");
        println!("           capacity may be available in {seconds} s: waiting");
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
    Err(anyhow!("not enough capacity after {ATTEMPTS_MAX} attempts"))
}

/// Returns the text at a key, or an empty string.
fn text<'a>(answer: &'a Value, key: &str) -> &'a str {
    answer[key].as_str().unwrap_or_default()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let client = support::start(&["--total-workers", "10"]).await?;

    println!("-- Not enough capacity at the moment");
    let crashed = json!({"job_id": "crashed-job", "mcp_servers": [], "workers": 8, "ttl_seconds": 1});
    call(&client, "request_resources", crashed).await?;
    let request = json!({"job_id": "patient-job", "mcp_servers": [], "workers": 6, "request_id": "patient-job/1"});
    let lease = request_with_retries(&client, &request).await?;

    println!("-- More than the total capacity");
    let request_too_large = json!({"job_id": "greedy-job", "mcp_servers": [], "workers": 11});
    match request_with_retries(&client, &request_too_large).await {
        Err(error) => println!("the request is given up: {error}"),
        Ok(_) => bail!("11 of 10 workers were leased"),
    }

    println!("-- The answer is lost, so the client repeats the request");
    let again = call(&client, "request_resources", request).await?;
    ensure!(again["allocation_id"] == lease["allocation_id"], "the repeated request was granted a second time");
    println!("the same request_id returns the first lease: {}", text(&again, "allocation_id"));

    println!("-- An invalid argument");
    let mistaken = json!({"job_id": "hasty-job", "mcp_servers": [], "wokers": 2});
    match call(&client, "request_resources", mistaken).await {
        Err(error) => println!("the server answers: {error}"),
        Ok(_) => bail!("an unknown argument was accepted"),
    }

    call(&client, "release_resources", json!({"allocation_id": lease["allocation_id"]})).await?;
    client.cancel().await?;
    Ok(())
}
