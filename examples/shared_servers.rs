//! Leases the MCP servers of a Claude Desktop file to two jobs, which share them and have separate tokens.
//!
//! Run it with `cargo run --example shared_servers`, or with your own file: `cargo run --example shared_servers --
//! claude_desktop_config.json`. From your own file it starts the servers that have a command, and calls none of their
//! tools.
#![expect(clippy::print_stdout, reason = "an example prints what it does")]

mod support;

use anyhow::{Context, bail, ensure};
use rmcp::service::RunningService;
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{Peer, RoleClient, ServiceExt};
use serde_json::{Value, json};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use support::call;

/// The jobs that lease the servers.
const JOBS: [&str; 2] = ["review", "deploy"];

/// The shared server of the built-in file. It counts its calls in memory.
const SHARED: &str = "counter";

/// The same program, but with a separate process for each job.
const PRIVATE: &str = "notebook";

/// The name of this manager in the files of clients. The example does not lease it, so that it does not start itself.
const MANAGER: &str = "cortex-resource-manager";

/// A lease of servers.
struct Lease {
    job: &'static str,
    allocation_id: String,
    /// The name and the URL of each server.
    servers: Vec<(String, String)>,
    token: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let manager = support::build(&["misbehaving_server"])?;
    let given = env::args().nth(1);
    let catalog = match &given {
        Some(path) => PathBuf::from(path),
        None => write_catalog(folder.path(), &manager)?,
    };
    let state = folder.path().join("state.db");
    let [state, catalog] = [&state, &catalog].map(|path| path.to_str().context("a path is not valid UTF-8"));
    let (state, catalog) = (state?, catalog?);
    let options = ["--state", state, "--catalog", catalog, "--toolsets", "allocation,servers"];
    let client = support::start(&options).await?;
    let shown = show(&client, catalog, given.is_none()).await;
    client.cancel().await?;
    // The servers belong to the daemon. Without this command it exits some minutes after the last server.
    let status = support::command(&manager).args(["stop", "--state", state]).status()?;
    ensure!(status.success(), "the daemon did not stop: {status}");
    shown
}

/// Writes a file in the format of Claude Desktop. Clients ignore the block `cortex`, which is for the manager.
fn write_catalog(folder: &Path, manager: &Path) -> anyhow::Result<PathBuf> {
    let server =
        manager.with_file_name("examples").join("misbehaving_server").with_extension(env::consts::EXE_EXTENSION);
    let servers = json!({
        SHARED: {"command": server},
        PRIVATE: {"command": server, "cortex": {"sharing": "per_allocation"}}
    });
    let path = folder.join("claude_desktop_config.json");
    fs::write(&path, json!({"mcpServers": servers}).to_string())?;
    Ok(path)
}

async fn show(manager: &Peer<RoleClient>, catalog: &str, is_built_in: bool) -> anyhow::Result<()> {
    println!("1. The file of the client is the catalog: {catalog}");
    let names = list_catalog(manager).await?;

    println!("\n2. Two jobs lease its servers, and each answer arrives when all servers run");
    let first = lease(manager, JOBS[0], &names).await?;
    let second = lease(manager, JOBS[1], &names).await?;

    println!("\n3. A shared server runs once for both jobs, any other server once per job");
    for name in &names {
        let server = call(manager, "get_mcp_server", json!({"name": name})).await?;
        println!("   {name:12} runs: {}", server["runs"].as_array().map_or(0, Vec::len));
    }
    for lease in [&first, &second] {
        for (name, url) in &lease.servers {
            let server = connect(url, &lease.token).await?;
            let tools = server.list_all_tools().await?.len();
            let count =
                if is_built_in { format!(", {} calls counted", call_count(&server).await?) } else { String::new() };
            println!("   {} at {name}: {tools} tools{count}", lease.job);
            server.cancel().await?;
        }
    }

    println!("\n4. A lease ends: its token is refused, and its private server exits");
    let pids = if is_built_in { Some((pid(&first, SHARED).await?, pid(&first, PRIVATE).await?)) } else { None };
    release(manager, &first).await?;
    for (name, url) in &first.servers {
        let Err(refused) = connect(url, &first.token).await else {
            bail!("{name} accepts the token of a released lease")
        };
        let is_refused = refused.to_string().contains("Auth required");
        let why = if is_refused { "the token is refused" } else { "nothing listens on its port" };
        println!("   {} at {name}: {why}", first.job);
    }
    if let Some((shared, private)) = pids {
        ensure!(pid(&second, SHARED).await? == shared, "{} has a new process of {SHARED}", second.job);
        ensure!(!is_running(private), "process {private} still runs");
        println!(
            "   {PRIVATE} of {}, process {private}, has exited; {SHARED}, process {shared}, still runs",
            first.job
        );
    }
    release(manager, &second).await
}

/// Returns the names of the servers in the catalog, except this manager and remote servers.
async fn list_catalog(manager: &Peer<RoleClient>) -> anyhow::Result<Vec<String>> {
    let listed = call(manager, "list_mcp_servers", json!({})).await?;
    let mut names = Vec::new();
    for server in listed["servers"].as_array().into_iter().flatten() {
        let name = text(server, "name");
        println!("   {name:12} {}, {}", text(server, "sharing"), text(server, "state"));
        if name != MANAGER && server["is_remote"] != true {
            names.push(name.to_owned());
        }
    }
    ensure!(!names.is_empty(), "the file has no MCP server with a command");
    Ok(names)
}

/// Leases these servers for a job.
async fn lease(manager: &Peer<RoleClient>, job: &'static str, names: &[String]) -> anyhow::Result<Lease> {
    let request = json!({"job_id": job, "mcp_servers": names, "ttl_seconds": 600});
    let answer = call(manager, "request_resources", request).await?;
    ensure!(answer["status"] == "active", "{job} gets no lease: {}", text(&answer, "error"));
    // Any MCP client accepts this block unchanged.
    let servers = answer["mcp_config"]["mcpServers"].as_object().context("no mcp_config")?;
    let servers: Vec<_> = servers.iter().map(|(name, entry)| (name.clone(), text(entry, "url").to_owned())).collect();
    let lease = Lease {
        job,
        allocation_id: text(&answer, "allocation_id").to_owned(),
        servers,
        token: text(&answer, "access_token").to_owned(),
    };
    let urls: Vec<_> = lease.servers.iter().map(|(name, url)| format!("{name} {url}")).collect();
    println!("   {job}: {}", urls.join(", "));
    Ok(lease)
}

async fn release(manager: &Peer<RoleClient>, lease: &Lease) -> anyhow::Result<()> {
    let released = call(manager, "release_resources", json!({"allocation_id": lease.allocation_id})).await?;
    println!("   {}: {}", lease.job, text(&released, "status"));
    Ok(())
}

/// Connects to a leased server as any MCP client does: with its URL and the token of the lease.
async fn connect(url: &str, token: &str) -> anyhow::Result<RunningService<RoleClient, ()>> {
    let config = StreamableHttpClientTransportConfig::with_uri(url).auth_header(token);
    Ok(().serve(StreamableHttpClientTransport::from_config(config)).await?)
}

/// Returns the number of calls that the server has counted, from all jobs.
async fn call_count(server: &Peer<RoleClient>) -> anyhow::Result<Value> {
    Ok(call(server, "count", json!({})).await?["count"].take())
}

/// Returns the id of the process that answers the holder of a lease.
async fn pid(lease: &Lease, name: &str) -> anyhow::Result<i32> {
    let (_, url) = lease.servers.iter().find(|(known, _)| known == name).context("the server is not leased")?;
    let server = connect(url, &lease.token).await?;
    let answer = call(&server, "echo", json!({})).await?;
    server.cancel().await?;
    let pid = answer["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    pid.with_context(|| format!("{answer} has no pid"))
}

/// Returns whether a process runs.
fn is_running(pid: i32) -> bool {
    #[cfg(unix)]
    return rustix::process::Pid::from_raw(pid).is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok());
    #[cfg(not(unix))]
    return pid == 0;
}

/// Returns the text at a key, or an empty string.
fn text<'a>(answer: &'a Value, key: &str) -> &'a str {
    answer[key].as_str().unwrap_or_default()
}
