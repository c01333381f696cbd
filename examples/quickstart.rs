//! A tour of the server: a coordinator, a development and a security master share the workers, and one agent crashes.
//!
//! Run it with `cargo run --example quickstart`. It starts the real server as an MCP client does, and exits with an
//! error if an answer differs from the expected one. A server has one client, so all three masters use one connection.
#![expect(clippy::print_stdout, reason = "an example prints what it does")]

mod support;

use anyhow::{Context, ensure};
use rmcp::{Peer, RoleClient};
use serde_json::{Value, json};
use std::time::Duration;
use support::call;
use tokio::time::{sleep, timeout};

const COORDINATOR: &str = "coordinator";
const DEVELOPMENT: &str = "development";
const SECURITY: &str = "security";

/// The interval between two checks whether a lease has expired.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The time limit for a lease to expire.
const EXPIRY_WAIT_MAX: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = ["--total-workers", "10", "--total-cpu", "16", "--total-memory", "32768", "--toolsets", "all"];
    let client = support::start(&options).await?;
    let server = client.peer();

    read_capacity(server).await?;
    let feature = lease_for_feature(server).await?;
    let scan = request_too_much(server, &feature).await?;
    renew(server, &feature).await?;
    let hotfix = reclaim_expired(server).await?;
    release_all(server, [(DEVELOPMENT, &feature), (SECURITY, &scan), (COORDINATOR, &hotfix)]).await?;
    list_records(server).await?;

    client.cancel().await?;
    println!("\nEvery step had the expected result.");
    Ok(())
}

/// Step 1: reads the capacity.
async fn read_capacity(server: &Peer<RoleClient>) -> anyhow::Result<()> {
    title("1. The coordinator reads the capacity");
    let capacity = call(server, "get_capacity", json!({})).await?;
    say(COORDINATOR, &describe_capacity(&capacity));
    check(&capacity, "available_workers", 10)?;
    check(&capacity, "available_cpu", 16.0)?;
    check(&capacity, "available_memory", 32_768)
}

/// Step 2: the coordinator leases resources, and the development master uses them.
async fn lease_for_feature(server: &Peer<RoleClient>) -> anyhow::Result<Value> {
    title("2. The coordinator leases resources for a feature and hands over the allocation_id");
    let metadata = json!({"master": "development", "task_type": "feature_implementation"});
    let request = json!({"job_id": "task-feature-auth", "mcp_servers": ["filesystem", "github"], "workers": 2,
        "priority": "normal", "metadata": metadata});
    let lease = call(server, "request_resources", request).await?;
    say(COORDINATOR, &describe_lease(&lease));
    check(&lease, "status", "active")?;
    check(&lease, "resources", json!({"cpu": 2.0, "memory": 4096, "workers": 2}))?;

    let details = call(server, "get_allocation", json!({"allocation_id": lease["allocation_id"]})).await?;
    let task = text(&details["metadata"], "task_type");
    say(DEVELOPMENT, &format!("takes over {} ({task}):", text(&details, "allocation_id")));
    for (kind, name) in [("mcp_servers", "server_name"), ("workers", "worker_id")] {
        for item in details[kind].as_array().into_iter().flatten() {
            say("", &format!("{:28} {}", text(item, name), text(item, "endpoint")));
        }
    }
    check(&details, "state", "active")?;
    check(&details, "metadata", metadata)?;
    check(&details["workers"][1], "worker_id", "worker-task-feature-auth-001")?;
    Ok(lease)
}

/// Step 3: a request that exceeds the available workers fails with the reason, and MCP servers are shared.
async fn request_too_much(server: &Peer<RoleClient>, feature: &Value) -> anyhow::Result<Value> {
    title("3. Security requests more workers than are available, then fewer");
    let request = |workers: u64| {
        json!({"job_id": "security-scan-001", "mcp_servers": ["filesystem", "github"], "workers": workers,
            "priority": "high", "ttl_seconds": 1800,
            "metadata": {"master": "security", "scan_type": "vulnerability_scan"}})
    };
    let refused = call(server, "request_resources", request(9)).await?;
    say(SECURITY, &format!("{}: {}", text(&refused, "status"), text(&refused, "error")));
    say("", &format!("(enough leases expire within {} s)", refused["retry_after_seconds"]));
    check(&refused, "status", "failed")?;
    check(&refused, "error", "Insufficient workers: requested 9, available 8")?;

    let lease = call(server, "request_resources", request(4)).await?;
    say(SECURITY, &describe_lease(&lease));
    check(&lease, "status", "active")?;
    check(&lease, "mcp_servers", feature["mcp_servers"].clone())?;
    say("", "shares filesystem and github with development, on the same ports");
    Ok(lease)
}

/// Step 4: a renewal extends the deadline and keeps the fencing token.
async fn renew(server: &Peer<RoleClient>, feature: &Value) -> anyhow::Result<()> {
    title("4. Development renews its lease");
    let arguments = json!({"allocation_id": feature["allocation_id"], "ttl_seconds": 7200,
        "fencing_token": feature["fencing_token"]});
    let renewed = call(server, "renew_allocation", arguments).await?;
    say(DEVELOPMENT, &format!("held until {}", text(feature, "expires_at")));
    say("", &format!("now until  {}", text(&renewed, "expires_at")));
    check(&renewed, "fencing_token", feature["fencing_token"].clone())?;
    // All timestamps have the same format, so text order is time order.
    ensure!(text(&renewed, "expires_at") > text(feature, "expires_at"), "the renewal did not extend the deadline");
    Ok(())
}

/// Step 5: the server reclaims an expired lease when another request needs its workers.
async fn reclaim_expired(server: &Peer<RoleClient>) -> anyhow::Result<Value> {
    title("5. An agent crashes and never releases its lease");
    let request =
        json!({"job_id": "nightly-report", "mcp_servers": [], "workers": 4, "priority": "low", "ttl_seconds": 1});
    let lost = call(server, "request_resources", request).await?;
    say(COORDINATOR, &describe_lease(&lost));
    check(&lost, "status", "active")?;
    let id = json!({"allocation_id": lost["allocation_id"]});
    timeout(EXPIRY_WAIT_MAX, async {
        while call(server, "get_allocation", id.clone()).await?["is_expired"] != true {
            sleep(POLL_INTERVAL).await;
        }
        anyhow::Ok(())
    })
    .await
    .context("the lease of one second did not expire")??;
    let capacity = call(server, "get_capacity", json!({})).await?;
    say(COORDINATOR, "the agent is gone, and its lease has expired");
    say("", &describe_capacity(&capacity));
    say("", &format!("{} can be reclaimed for the next request", workers_text(&capacity["reclaimable_workers"])));
    check(&capacity, "available_workers", 0)?;
    check(&capacity, "reclaimable_workers", 4)?;

    let request =
        json!({"job_id": "hotfix-login", "mcp_servers": ["filesystem"], "workers": 3, "priority": "critical"});
    let hotfix = call(server, "request_resources", request).await?;
    say(COORDINATOR, &describe_lease(&hotfix));
    check(&hotfix, "status", "active")?;
    let lost = call(server, "get_allocation", id).await?;
    say("", &format!("nightly-report is {}: its workers were reclaimed", text(&lost, "state")));
    check(&lost, "state", "released")?;
    Ok(hotfix)
}

/// Step 6: each master releases its lease. A second release has no effect.
async fn release_all(server: &Peer<RoleClient>, leases: [(&str, &Value); 3]) -> anyhow::Result<()> {
    title("6. The jobs are done and release their leases");
    for (master, lease) in leases {
        let id = json!({"allocation_id": lease["allocation_id"]});
        let released = call(server, "release_resources", id.clone()).await?;
        let freed = format!(
            "{}, {} CPU, {} MB",
            workers_text(&released["workers_released"]),
            released["cpu_freed"],
            released["memory_freed"]
        );
        say(master, &format!("{} {}: {freed}", text(&released, "status"), text(&released, "job_id")));
        check(&released, "status", "released")?;
        check(&released, "workers_released", lease["resources"]["workers"].clone())?;
        check(&call(server, "release_resources", id).await?, "status", "already_released")?;
    }
    say("", "(a second release answers already_released)");
    Ok(())
}

/// Step 7: the whole capacity is available again, and the records show what happened.
async fn list_records(server: &Peer<RoleClient>) -> anyhow::Result<()> {
    title("7. The coordinator lists the records");
    let list = call(server, "list_allocations", json!({})).await?;
    for record in list["allocations"].as_array().into_iter().flatten() {
        let (job, priority) = (text(record, "job_id"), text(record, "priority"));
        say("", &format!("{job:18} {priority:9} {}", text(record, "state")));
    }
    check(&list, "count", 5)?;
    let capacity = call(server, "get_capacity", json!({})).await?;
    say(COORDINATOR, &describe_capacity(&capacity));
    check(&capacity, "available_workers", 10)?;
    check(&capacity, "available_cpu", 16.0)?;
    check(&capacity, "available_memory", 32_768)?;
    check(&capacity, "running_mcp_servers", json!([]))?;
    check(&capacity, "active_allocations", 0)
}

/// Fails unless the answer has the expected value at a key.
fn check(answer: &Value, key: &str, expected: impl Into<Value>) -> anyhow::Result<()> {
    let expected = expected.into();
    ensure!(answer[key] == expected, "{key} is {}, but should be {expected}, in {answer}", answer[key]);
    Ok(())
}

/// Returns the text at a key, or an empty string.
fn text<'a>(answer: &'a Value, key: &str) -> &'a str {
    answer[key].as_str().unwrap_or_default()
}

/// Describes a new lease in one line.
fn describe_lease(lease: &Value) -> String {
    let what = format!("{} for {}", workers_text(&lease["resources"]["workers"]), text(lease, "job_id"));
    format!("{}: {what}, as {}, {} s", text(lease, "status"), text(lease, "allocation_id"), lease["ttl_seconds"])
}

/// Describes the available capacity in one line.
fn describe_capacity(capacity: &Value) -> String {
    let part = |what: &str| format!("{}/{}", capacity[format!("available_{what}")], capacity[format!("total_{what}")]);
    format!("available: {} workers, {} CPU, {} MB", part("workers"), part("cpu"), part("memory"))
}

/// Formats a number of workers.
fn workers_text(count: &Value) -> String {
    if *count == 1 { "1 worker".to_owned() } else { format!("{count} workers") }
}

/// Prints the heading of a step.
fn title(text: &str) {
    println!("\n{text}");
}

/// Prints a line about a master; an empty name continues the previous line.
fn say(master: &str, text: &str) {
    println!("   {master:12} {text}");
}
