//! The `demo` command: two jobs share one MCP server, one is refused, and everything is given back.
//!
//! It starts this program as an MCP client does, with a catalog of one server that is also this program. Each answer is
//! checked, so that the demo fails if a step does not come out as printed. Nothing keeps running and no file is left.

mod client;
mod server;

use anyhow::{Context, ensure};
use client::{Endpoint, Manager};
use cortex_util::program;
use serde_json::{Value, json};
use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

pub(crate) use server::serve;

/// The command, hidden from the help page, that runs the demo's MCP server.
pub(crate) const SERVER: &str = "demo-server";

/// The name of the demo's server in its catalog.
const NOTES: &str = "notes";

/// The time between two checks of whether a lease has expired.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The longest wait for a lease of one second to expire.
const EXPIRY_WAIT_MAX: Duration = Duration::from_secs(30);

/// A granted lease.
struct Lease {
    job: &'static str,
    allocation_id: String,
    notes: Endpoint,
}

/// Runs the demo and prints its steps to standard output.
///
/// # Errors
/// The manager cannot be started, or a step does not come out as it should.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    match show() {
        // A reader that closed the output has read what it wanted.
        Err(error)
            if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) =>
        {
            Ok(ExitCode::SUCCESS)
        }
        shown => shown.map(|()| ExitCode::SUCCESS),
    }
}

fn show() -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("a temporary folder could not be created")?;
    let catalog = folder.path().join("servers.json");
    let entry = json!({"mcpServers": {NOTES: {"command": program::path(), "args": [SERVER]}}});
    fs::write(&catalog, entry.to_string()).with_context(|| format!("{} could not be written", catalog.display()))?;

    step("Start: the manager runs with 4 worker slots and a catalog of one MCP server, \"notes\"")?;
    let mut manager = Manager::start(&[
        "--daemon",
        "never",
        "--total-workers",
        "4",
        "--toolsets",
        "allocation,servers",
        "--catalog",
        catalog.to_str().context("the temporary folder has a name that is not UTF-8")?,
    ])?;
    detail(&availability(&manager.call("get_capacity", json!({}))?))?;

    let (review, release_notes) = share(&mut manager)?;
    refuse(&mut manager)?;
    expire(&mut manager)?;
    release(&mut manager, [review, release_notes])?;

    manager.stop()?;
    step("Done: every answer was checked and nothing keeps running")
}

/// Two jobs lease the same server and see each other's notes.
fn share(manager: &mut Manager) -> anyhow::Result<(Lease, Lease)> {
    step("Lease: job \"review\" requests 2 workers and \"notes\"; the server is started and health-checked first")?;
    let review = lease(manager, "review", 2)?;
    step("Share: job \"release-notes\" requests 1 worker and \"notes\"")?;
    let release_notes = lease(manager, "release-notes", 1)?;
    ensure!(review.notes.url == release_notes.notes.url, "the two jobs got different endpoints");
    review.notes.call_tool("add_note", &json!({"text": "found a bug in login"}))?;
    let seen = release_notes.notes.call_tool("list_notes", &json!({}))?;
    ensure!(seen["notes"] == json!(["found a bug in login"]), "the other job saw {seen}");
    detail(&format!("review added a note, release-notes reads {}", seen["notes"]))?;
    detail(&format!("one process (pid {}) serves both, each lease with a token of its own", seen["pid"]))?;
    Ok((review, release_notes))
}

/// A request for more than there is gets the reason.
fn refuse(manager: &mut Manager) -> anyhow::Result<()> {
    step("Refuse: job \"batch\" requests 3 workers, and 1 is left")?;
    let refused = manager.call("request_resources", json!({"job_id": "batch", "mcp_servers": [], "workers": 3}))?;
    let expected = "Insufficient workers: requested 3, available 1";
    ensure!(refused["status"] == "failed" && refused["error"] == expected, "the answer was {refused}");
    detail(&format!("{}: {}", text(&refused["status"]), text(&refused["error"])))
}

/// A lease that its job never releases expires, and the next request takes its worker.
fn expire(manager: &mut Manager) -> anyhow::Result<()> {
    step("Expire: job \"crashed\" takes the last worker for 1 s and never releases it")?;
    let request = json!({"job_id": "crashed", "mcp_servers": [], "workers": 1, "ttl_seconds": 1});
    let lost = manager.call("request_resources", request)?;
    let id = json!({"allocation_id": lost["allocation_id"]});
    let started = Instant::now();
    while manager.call("get_allocation", id.clone())?["is_expired"] != true {
        ensure!(started.elapsed() < EXPIRY_WAIT_MAX, "the lease did not expire");
        std::thread::sleep(POLL_INTERVAL);
    }
    let request = json!({"job_id": "hotfix", "mcp_servers": [], "workers": 1});
    let hotfix = manager.call("request_resources", request)?;
    ensure!(hotfix["status"] == "active", "the answer was {hotfix}");
    detail("after its deadline, job \"hotfix\" got the worker at once")?;
    manager.call("release_resources", json!({"allocation_id": hotfix["allocation_id"]}))?;
    Ok(())
}

/// A released lease has no access any more.
fn release(manager: &mut Manager, leases: [Lease; 2]) -> anyhow::Result<()> {
    step("Release: both jobs are done")?;
    for lease in leases {
        let released = manager.call("release_resources", json!({"allocation_id": lease.allocation_id}))?;
        ensure!(released["status"] == "released", "the answer was {released}");
        let status = lease.notes.status()?;
        ensure!(status == 401, "a released lease was answered with HTTP status {status}");
        let (job, workers) = (lease.job, &released["workers_released"]);
        detail(&format!("{job}: workers released: {workers}; its token is refused now (HTTP {status})"))?;
    }
    let capacity = manager.call("get_capacity", json!({}))?;
    ensure!(capacity["available_workers"] == 4, "the answer was {capacity}");
    detail(&availability(&capacity))
}

/// Leases workers and the server, and connects to its endpoint.
fn lease(manager: &mut Manager, job: &'static str, workers: u64) -> anyhow::Result<Lease> {
    let granted = manager
        .call("request_resources", json!({"job_id": job, "mcp_servers": [NOTES], "workers": workers}))
        .with_context(|| format!("{job} got no lease"))?;
    ensure!(granted["status"] == "active", "the answer was {granted}");
    let notes = Endpoint::connect(text(&granted["mcp_servers"][0]["endpoint"]), text(&granted["access_token"]))?;
    let allocation_id = text(&granted["allocation_id"]).to_owned();
    detail(&format!("granted {allocation_id} for {} s, notes at {}", granted["ttl_seconds"], notes.url))?;
    Ok(Lease { job, allocation_id, notes })
}

/// What is available, in a line.
fn availability(capacity: &Value) -> String {
    let part =
        |what: &str| format!("{} of {}", capacity[format!("available_{what}")], capacity[format!("total_{what}")]);
    format!("available: {} workers, {} cores, {} MB", part("workers"), part("cpu"), part("memory"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Prints the heading of a step before its work begins, so that a wait is explained while it lasts.
fn step(text: &str) -> anyhow::Result<()> {
    print(&format!("\n{text}\n"))
}

fn detail(text: &str) -> anyhow::Result<()> {
    print(&format!("   {text}\n"))
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    Ok(output.write_all(text.as_bytes()).and_then(|()| output.flush())?)
}
