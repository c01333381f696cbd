//! Give a lease back however its job ends: done, failed, panicked or called off.
//!
//! Run it with `cargo run --example always_release`; it shows the message of a panic, which is meant. If the whole process
//! dies, the deadline of the lease ends it.
#![expect(clippy::print_stdout, reason = "an example tells what it does")]

mod support;

use anyhow::{bail, ensure};
use rmcp::{Peer, RoleClient};
use serde_json::json;
use std::time::Duration;
use support::call;
use tokio::sync::mpsc;

/// A lease that goes back when it is dropped, whatever the reason.
struct Lease {
    allocation_id: String,
    /// To the task that releases: dropping cannot wait for an answer. It holds one id for each lease, which the server limits.
    returns: mpsc::UnboundedSender<String>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Only fails when the task has ended, and then the connection has, too.
        let _ = self.returns.send(std::mem::take(&mut self.allocation_id));
    }
}

/// Leases workers for a job.
async fn lease(
    client: &Peer<RoleClient>,
    returns: &mpsc::UnboundedSender<String>,
    job_id: &str,
) -> anyhow::Result<Lease> {
    let request = json!({"job_id": job_id, "mcp_servers": [], "workers": 2, "ttl_seconds": 600});
    let answer = call(client, "request_resources", request).await?;
    match answer["allocation_id"].as_str() {
        Some(id) if answer["status"] == "active" => {
            Ok(Lease { allocation_id: id.to_owned(), returns: returns.clone() })
        }
        _ => bail!("{}", answer["error"]),
    }
}

/// Releases what comes back until nobody can give anything back any more.
async fn release_returned(client: Peer<RoleClient>, mut returned: mpsc::UnboundedReceiver<String>) {
    while let Some(allocation_id) = returned.recv().await {
        match call(&client, "release_resources", json!({"allocation_id": allocation_id})).await {
            Ok(answer) => println!("          {} {allocation_id}", answer["status"].as_str().unwrap_or_default()),
            Err(error) => println!("          {allocation_id} will expire: {error}"),
        }
    }
}

/// A job that ends as its name says.
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
    let (returns, returned) = mpsc::unbounded_channel();
    let releasing = tokio::spawn(release_returned(client.peer().clone(), returned));

    for job_id in ["succeeds", "fails", "panics", "hangs"] {
        let lease = lease(&client, &returns, job_id).await?;
        println!("{job_id:9} has {}", lease.allocation_id);
        // In a task of its own, so that a panic ends the job and not the program; the time limit calls off what hangs.
        let limited = tokio::time::timeout(Duration::from_millis(100), work(job_id, lease));
        match tokio::spawn(limited).await {
            Ok(Ok(Ok(()))) => println!("          done"),
            Ok(Ok(Err(error))) => println!("          failed: {error}"),
            Ok(Err(_)) => println!("          called off after 100 ms"),
            Err(panic) => println!("          {panic}"),
        }
    }

    drop(returns);
    releasing.await?;
    let capacity = call(&client, "get_capacity", json!({})).await?;
    println!("{} of {} workers are free", capacity["available_workers"], capacity["total_workers"]);
    ensure!(capacity["active_allocations"] == 0, "a lease was not given back");
    client.cancel().await?;
    Ok(())
}
