//! Releases a lease regardless of how its job ends: completed, failed, panicked or cancelled.
//!
//! Run it with `cargo run --example always_release`. The panic message in its output is intentional. If the whole
//! process crashes, the lease expires at its deadline.
#![expect(clippy::print_stdout, reason = "an example prints what it does")]

mod support;

use anyhow::{bail, ensure};
use rmcp::{Peer, RoleClient};
use serde_json::json;
use std::time::Duration;
use support::call;
use tokio::sync::mpsc;

/// A lease that is released when it is dropped.
struct Lease {
    allocation_id: String,
    /// Sends the id to the task that releases leases, because `drop` cannot await an answer. The channel is unbounded,
    /// but contains at most one id per lease, and the server limits the number of leases.
    releases: mpsc::UnboundedSender<String>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Fails only if the task has ended. Then the connection has ended too.
        let _ = self.releases.send(std::mem::take(&mut self.allocation_id));
    }
}

/// Leases two workers for a job.
async fn lease(
    client: &Peer<RoleClient>,
    releases: &mpsc::UnboundedSender<String>,
    job_id: &str,
) -> anyhow::Result<Lease> {
    let request = json!({"job_id": job_id, "mcp_servers": [], "workers": 2, "ttl_seconds": 600});
    let answer = call(client, "request_resources", request).await?;
    match answer["allocation_id"].as_str() {
        Some(id) if answer["status"] == "active" => {
            Ok(Lease { allocation_id: id.to_owned(), releases: releases.clone() })
        }
        _ => bail!("{}", answer["error"]),
    }
}

/// Releases the received leases until all senders are dropped.
async fn release_dropped(client: Peer<RoleClient>, mut dropped: mpsc::UnboundedReceiver<String>) {
    while let Some(allocation_id) = dropped.recv().await {
        match call(&client, "release_resources", json!({"allocation_id": allocation_id})).await {
            Ok(answer) => println!("          {} {allocation_id}", answer["status"].as_str().unwrap_or_default()),
            Err(error) => println!("          {allocation_id} expires at its deadline: {error}"),
        }
    }
}

/// Simulates a job that ends as its name says.
async fn work(job_id: &str, _lease: Lease) -> anyhow::Result<()> {
    match job_id {
        "fails" => bail!("the tests are red"),
        "panics" => panic!("a bug in the job"),
        "hangs" => std::future::pending().await,
        _ => Ok(()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let client = support::start(&["--total-workers", "10"]).await?;
    let (releases, dropped) = mpsc::unbounded_channel();
    let releasing = tokio::spawn(release_dropped(client.peer().clone(), dropped));

    for job_id in ["succeeds", "fails", "panics", "hangs"] {
        let lease = lease(&client, &releases, job_id).await?;
        println!("{job_id:9} holds {}", lease.allocation_id);
        // The job runs in its own task, so a panic ends the job but not the program. The time limit cancels a job that
        // hangs.
        let limited = tokio::time::timeout(Duration::from_millis(100), work(job_id, lease));
        match tokio::spawn(limited).await {
            Ok(Ok(Ok(()))) => println!("          completed"),
            Ok(Ok(Err(error))) => println!("          failed: {error}"),
            Ok(Err(_)) => println!("          cancelled after 100 ms"),
            Err(panic) => println!("          {panic}"),
        }
    }

    drop(releases);
    releasing.await?;
    let capacity = call(&client, "get_capacity", json!({})).await?;
    println!("{} of {} workers are available", capacity["available_workers"], capacity["total_workers"]);
    ensure!(capacity["active_allocations"] == 0, "a lease was not released");
    client.cancel().await?;
    Ok(())
}
