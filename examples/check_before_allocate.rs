//! Reads the available capacity first, and requests no more than that.
//!
//! Run it with `cargo run --example check_before_allocate`.
#![expect(clippy::print_stdout, reason = "an example prints what it does")]

mod support;

use rmcp::{Peer, RoleClient};
use serde_json::{Value, json};
use support::call;

/// Leases the available workers, at most `wanted`. Leases nothing if fewer than `least` are available.
async fn lease_up_to(
    client: &Peer<RoleClient>,
    job_id: &str,
    wanted: u64,
    least: u64,
) -> anyhow::Result<Option<Value>> {
    let capacity = call(client, "get_capacity", json!({})).await?;
    let figure = |key: &str| capacity[key].as_u64().unwrap_or(0);
    // Expired leases are reclaimed on demand, so their workers count as available.
    let available = figure("available_workers") + figure("reclaimable_workers");
    println!(
        "{job_id:8} wants {wanted} workers, needs {least}: {available} of {} are available",
        figure("total_workers")
    );
    let workers = wanted.min(available);
    if workers < least {
        return Ok(None);
    }
    let request = json!({"job_id": job_id, "mcp_servers": ["filesystem"], "workers": workers, "ttl_seconds": 600});
    let answer = call(client, "request_resources", request).await?;
    // Another client may have leased workers since the capacity was read, so only this answer is reliable.
    Ok((answer["status"] == "active").then_some(answer))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let client = support::start(&["--total-workers", "10"]).await?;
    let mut leases = Vec::new();
    for job in ["build", "test", "lint"] {
        match lease_up_to(&client, job, 6, 2).await? {
            Some(lease) => {
                println!("{job:8} holds {} workers", lease["resources"]["workers"]);
                leases.push(lease);
            }
            None => println!("{job:8} gets no lease for now"),
        }
    }
    for lease in leases {
        call(&client, "release_resources", json!({"allocation_id": lease["allocation_id"]})).await?;
    }
    client.cancel().await?;
    Ok(())
}
