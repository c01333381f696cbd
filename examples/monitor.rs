//! Monitors the cluster: receives a notification when the capacity changes, reads the capacity, and lists the leases.
//!
//! Run it with `cargo run --example monitor`. The server keeps its state for the client that started it, so the example
//! runs its own jobs.
#![expect(clippy::print_stdout, reason = "an example prints what it does")]

mod support;

use anyhow::{Context, bail};
use rmcp::model::{ReadResourceRequestParams, ResourceContents, ServerNotification, SubscriptionFilter};
use rmcp::service::Subscription;
use rmcp::{Peer, RoleClient};
use serde_json::{Value, json};
use support::call;

/// The monitored resource.
const CAPACITY: &str = "cluster://capacity";

/// Waits for a notification that the capacity has changed, and prints the new capacity.
async fn show_change(client: &Peer<RoleClient>, notifications: &mut Subscription) -> anyhow::Result<()> {
    match notifications.next().await? {
        Some(ServerNotification::ResourceUpdatedNotification(updated)) if updated.params.uri == CAPACITY => {}
        other => bail!("expected a notification about {CAPACITY}, got {other:?}"),
    }
    // A notification does not contain the new value, so the client reads the resource.
    let answer = client.read_resource(ReadResourceRequestParams::new(CAPACITY)).await?;
    let Some(ResourceContents::TextResourceContents { text, .. }) = answer.contents.first() else {
        bail!("{CAPACITY} is empty");
    };
    let capacity: Value = serde_json::from_str(text)?;
    let (leased, total) = (capacity["allocated_workers"].as_u64(), capacity["total_workers"].as_u64());
    let (leased, total) = leased.zip(total).context("the capacity has no figures")?;
    let bar: String = (0..total).map(|worker| if worker < leased { '#' } else { '.' }).collect();
    println!("  [{bar}] {leased:2} of {total} workers leased, MCP servers {}", capacity["running_mcp_servers"]);
    Ok(())
}

/// Prints the live leases.
async fn show_leases(client: &Peer<RoleClient>) -> anyhow::Result<()> {
    println!("job        workers    age  expired");
    let mut page = json!({"state": "active", "limit": 100});
    loop {
        let answer = call(client, "list_allocations", page.clone()).await?;
        for lease in answer["allocations"].as_array().into_iter().flatten() {
            let job = lease["job_id"].as_str().unwrap_or_default();
            let (workers, age) = (lease["workers"].as_u64().unwrap_or(0), lease["age_seconds"].as_u64().unwrap_or(0));
            println!("{job:10} {workers:>7} {age:>4} s  {}", lease["is_expired"]);
        }
        match &answer["next_cursor"] {
            Value::Null => return Ok(()),
            cursor => page["cursor"] = cursor.clone(),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let client = support::start(&["--total-workers", "10"]).await?;
    // A client that uses a protocol version before 2026-07-28 sends resources/subscribe for the same notifications.
    let filter = SubscriptionFilter::builder().resource_subscriptions(vec![CAPACITY.to_owned()]).build();
    let mut notifications = client.listen(filter).await?;

    let mut leases = Vec::new();
    for (job, workers, servers) in [("build", 4, json!(["git"])), ("review", 3, json!(["git", "github"]))] {
        println!("{job} requests {workers} workers");
        let request = json!({"job_id": job, "mcp_servers": servers, "workers": workers});
        leases.push(call(&client, "request_resources", request).await?);
        show_change(&client, &mut notifications).await?;
    }
    show_leases(&client).await?;
    for lease in leases {
        println!("{} is done", lease["job_id"].as_str().unwrap_or_default());
        call(&client, "release_resources", json!({"allocation_id": lease["allocation_id"]})).await?;
        show_change(&client, &mut notifications).await?;
    }
    client.cancel().await?;
    Ok(())
}
