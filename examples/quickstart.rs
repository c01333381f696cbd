//! A tour of the server: a coordinator, a development and a security master share its workers, and one agent crashes.
//!
//! Run it with `cargo run --example quickstart`. It starts the real server as an MCP client would, and ends with an error if
//! any step comes out other than told. The three masters are played over one connection, since one server serves one client.
#![expect(clippy::print_stdout, reason = "an example tells what it does")]

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

/// How often a lease is looked at until it has expired.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long an expiry is waited for before something must be wrong.
const EXPIRY_WAIT_MAX: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = ["--total-workers", "10", "--total-cpu", "16", "--total-memory", "32768", "--toolsets", "all"];
    let client = support::start(&options).await?;
    let server = client.peer();

    look_around(server).await?;
    let feature = hand_over(server).await?;
    let scan = ask_for_less(server, &feature).await?;
    renew(server, &feature).await?;
    let hotfix = reclaim_after_crash(server).await?;
    release_all(server, [(DEVELOPMENT, &feature), (SECURITY, &scan), (COORDINATOR, &hotfix)]).await?;
    look_back(server).await?;

    client.cancel().await?;
    println!("\nEvery step came out as told.");
    Ok(())
}

/// Step 1: what there is.
async fn look_around(server: &Peer<RoleClient>) -> anyhow::Result<()> {
    title("1. What is there?");
    let capacity = call(server, "get_capacity", json!({})).await?;
    tell(COORDINATOR, &free(&capacity));
    check(&capacity, "available_workers", 10)?;
    check(&capacity, "available_cpu", 16.0)?;
    check(&capacity, "available_memory", 32_768)
}

/// Step 2: the coordinator leases, the development master works.
async fn hand_over(server: &Peer<RoleClient>) -> anyhow::Result<Value> {
    title("2. The coordinator leases for a feature and hands the allocation_id over");
    let metadata = json!({"master": "development", "task_type": "feature_implementation"});
    let request = json!({"job_id": "task-feature-auth", "mcp_servers": ["filesystem", "github"], "workers": 2,
        "priority": "normal", "metadata": metadata});
    let lease = call(server, "request_resources", request).await?;
    tell(COORDINATOR, &granted(&lease));
    check(&lease, "status", "active")?;
    check(&lease, "resources", json!({"cpu": 2.0, "memory": 4096, "workers": 2}))?;

    let details = call(server, "get_allocation", json!({"allocation_id": lease["allocation_id"]})).await?;
    let task = text(&details["metadata"], "task_type");
    tell(DEVELOPMENT, &format!("takes over {} ({task}):", text(&details, "allocation_id")));
    for (kind, name) in [("mcp_servers", "server_name"), ("workers", "worker_id")] {
        for item in details[kind].as_array().into_iter().flatten() {
            tell("", &format!("{:28} {}", text(item, name), text(item, "endpoint")));
        }
    }
    check(&details, "state", "active")?;
    check(&details, "metadata", metadata)?;
    check(&details["workers"][1], "worker_id", "worker-task-feature-auth-001")?;
    Ok(lease)
}

/// Step 3: too much is refused with the reason, and MCP servers are shared.
async fn ask_for_less(server: &Peer<RoleClient>, feature: &Value) -> anyhow::Result<Value> {
    title("3. Security asks for more than there is, then for less");
    let request = |workers: u64| {
        json!({"job_id": "security-scan-001", "mcp_servers": ["filesystem", "github"], "workers": workers,
            "priority": "high", "ttl_seconds": 1800, "metadata": {"master": "security", "scan_type": "vulnerability_scan"}})
    };
    let refused = call(server, "request_resources", request(9)).await?;
    tell(SECURITY, &format!("{}: {}", text(&refused, "status"), text(&refused, "error")));
    tell("", &format!("(enough leases will have run out in {} s)", refused["retry_after_seconds"]));
    check(&refused, "status", "failed")?;
    check(&refused, "error", "Insufficient workers: requested 9, available 8")?;

    let lease = call(server, "request_resources", request(4)).await?;
    tell(SECURITY, &granted(&lease));
    check(&lease, "status", "active")?;
    check(&lease, "mcp_servers", feature["mcp_servers"].clone())?;
    tell("", "shares filesystem and github with development, on the same ports");
    Ok(lease)
}

/// Step 4: a renewal moves the deadline and keeps the token.
async fn renew(server: &Peer<RoleClient>, feature: &Value) -> anyhow::Result<()> {
    title("4. Development needs longer");
    let arguments = json!({"allocation_id": feature["allocation_id"], "ttl_seconds": 7200,
        "fencing_token": feature["fencing_token"]});
    let renewed = call(server, "renew_allocation", arguments).await?;
    tell(DEVELOPMENT, &format!("held until {}", text(feature, "expires_at")));
    tell("", &format!("now until  {}", text(&renewed, "expires_at")));
    check(&renewed, "fencing_token", feature["fencing_token"].clone())?;
    // Times are written alike, so that their order as text is their order in time.
    ensure!(text(&renewed, "expires_at") > text(feature, "expires_at"), "the renewal did not move the deadline");
    Ok(())
}

/// Step 5: a lease that nobody gives back does not stay in the way.
async fn reclaim_after_crash(server: &Peer<RoleClient>) -> anyhow::Result<Value> {
    title("5. An agent crashes and never releases its lease");
    let request =
        json!({"job_id": "nightly-report", "mcp_servers": [], "workers": 4, "priority": "low", "ttl_seconds": 1});
    let lost = call(server, "request_resources", request).await?;
    tell(COORDINATOR, &granted(&lost));
    check(&lost, "status", "active")?;
    let id = json!({"allocation_id": lost["allocation_id"]});
    timeout(EXPIRY_WAIT_MAX, async {
        while call(server, "get_allocation", id.clone()).await?["is_expired"] != true {
            sleep(LOOK_EVERY).await;
        }
        anyhow::Ok(())
    })
    .await
    .context("the lease of one second did not expire")??;
    let capacity = call(server, "get_capacity", json!({})).await?;
    tell(COORDINATOR, "the agent is gone and its lease past the deadline");
    tell("", &free(&capacity));
    tell("", &format!("but {} can be reclaimed by whoever needs them", plural(&capacity["reclaimable_workers"])));
    check(&capacity, "available_workers", 0)?;
    check(&capacity, "reclaimable_workers", 4)?;

    let request =
        json!({"job_id": "hotfix-login", "mcp_servers": ["filesystem"], "workers": 3, "priority": "critical"});
    let hotfix = call(server, "request_resources", request).await?;
    tell(COORDINATOR, &granted(&hotfix));
    check(&hotfix, "status", "active")?;
    let lost = call(server, "get_allocation", id).await?;
    tell("", &format!("nightly-report is {}: it made the room", text(&lost, "state")));
    check(&lost, "state", "released")?;
    Ok(hotfix)
}

/// Step 6: everybody gives back; twice does no harm.
async fn release_all(server: &Peer<RoleClient>, leases: [(&str, &Value); 3]) -> anyhow::Result<()> {
    title("6. The jobs are done");
    for (who, lease) in leases {
        let id = json!({"allocation_id": lease["allocation_id"]});
        let released = call(server, "release_resources", id.clone()).await?;
        let freed = format!(
            "{}, {} CPU, {} MB",
            plural(&released["workers_released"]),
            released["cpu_freed"],
            released["memory_freed"]
        );
        tell(who, &format!("{} {}: {freed}", text(&released, "status"), text(&released, "job_id")));
        check(&released, "status", "released")?;
        check(&released, "workers_released", lease["resources"]["workers"].clone())?;
        check(&call(server, "release_resources", id).await?, "status", "already_released")?;
    }
    tell("", "(releasing again answers already_released)");
    Ok(())
}

/// Step 7: all is free again, and the records tell what happened.
async fn look_back(server: &Peer<RoleClient>) -> anyhow::Result<()> {
    title("7. What is left?");
    let list = call(server, "list_allocations", json!({})).await?;
    for record in list["allocations"].as_array().into_iter().flatten() {
        let (job, priority) = (text(record, "job_id"), text(record, "priority"));
        tell("", &format!("{job:18} {priority:9} {}", text(record, "state")));
    }
    check(&list, "count", 5)?;
    let capacity = call(server, "get_capacity", json!({})).await?;
    tell(COORDINATOR, &free(&capacity));
    check(&capacity, "available_workers", 10)?;
    check(&capacity, "available_cpu", 16.0)?;
    check(&capacity, "available_memory", 32_768)?;
    check(&capacity, "running_mcp_servers", json!([]))?;
    check(&capacity, "active_allocations", 0)
}

/// Fails unless the answer has this value.
fn check(answer: &Value, key: &str, expected: impl Into<Value>) -> anyhow::Result<()> {
    let expected = expected.into();
    ensure!(answer[key] == expected, "{key} is {}, but should be {expected}, in {answer}", answer[key]);
    Ok(())
}

/// The text at a key, or nothing.
fn text<'a>(answer: &'a Value, key: &str) -> &'a str {
    answer[key].as_str().unwrap_or_default()
}

/// A new lease in a line.
fn granted(lease: &Value) -> String {
    let what = format!("{} for {}", plural(&lease["resources"]["workers"]), text(lease, "job_id"));
    format!("{}: {what}, as {}, {} s", text(lease, "status"), text(lease, "allocation_id"), lease["ttl_seconds"])
}

/// What is free, in a line.
fn free(capacity: &Value) -> String {
    let part = |what: &str| format!("{}/{}", capacity[format!("available_{what}")], capacity[format!("total_{what}")]);
    format!("free: {} workers, {} CPU, {} MB", part("workers"), part("cpu"), part("memory"))
}

/// So many workers.
fn plural(count: &Value) -> String {
    if *count == 1 { "1 worker".to_owned() } else { format!("{count} workers") }
}

/// The heading of a step.
fn title(text: &str) {
    println!("\n{text}");
}

/// A line of what somebody does or gets to know.
fn tell(who: &str, what: &str) {
    println!("   {who:12} {what}");
}
