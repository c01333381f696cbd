//! From the MCP servers of a Claude Desktop file to leased endpoints: two jobs share them, each with a token of its own.
//!
//! Run it with `cargo run --example shared_servers`, or with a file of yours: `cargo run --example shared_servers --
//! claude_desktop_config.json`. Of the servers in a file of yours it starts those that are commands, and calls none of their tools.
#![expect(clippy::print_stdout, reason = "an example tells what it does")]

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

/// The server of the example's own file: it is shared by both jobs, and counts its calls in its memory.
const SHARED: &str = "counter";

/// The same program again, of which each job has one of its own.
const OWN: &str = "notebook";

/// The name that this manager has in the files of clients. One that starts itself is of no use.
const MANAGER: &str = "cortex-resource-manager";

/// A lease of servers, as its job has it.
struct Lease {
    job: &'static str,
    allocation_id: String,
    /// The name and the address of each server.
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
    let [state, catalog] = [&state, &catalog].map(|path| path.to_str().context("a path that is no text"));
    let (state, catalog) = (state?, catalog?);
    let options = ["--state", state, "--catalog", catalog, "--toolsets", "allocation,servers"];
    let client = support::start(&options).await?;
    let shown = show(&client, catalog, given.is_none()).await;
    client.cancel().await?;
    // The servers are the daemon's. Without this it would end some minutes after the last of them.
    let ended = support::command(&manager).args(["stop", "--state", state]).status()?;
    ensure!(ended.success(), "the daemon did not end: {ended}");
    shown
}

/// Writes a file as Claude Desktop has it. The block `cortex` is the manager's: clients pass it over.
fn write_catalog(folder: &Path, manager: &Path) -> anyhow::Result<PathBuf> {
    let server =
        manager.with_file_name("examples").join("misbehaving_server").with_extension(env::consts::EXE_EXTENSION);
    let servers = json!({
        SHARED: {"command": server},
        OWN: {"command": server, "cortex": {"sharing": "per_allocation"}}
    });
    let path = folder.join("claude_desktop_config.json");
    fs::write(&path, json!({"mcpServers": servers}).to_string())?;
    Ok(path)
}

async fn show(manager: &Peer<RoleClient>, catalog: &str, is_own: bool) -> anyhow::Result<()> {
    println!("1. The file of a client is the catalog: {catalog}");
    let names = look_at_catalog(manager).await?;

    println!("\n2. Two jobs lease what is in it, and are answered when all of it runs");
    let first = lease(manager, JOBS[0], &names).await?;
    let second = lease(manager, JOBS[1], &names).await?;

    println!("\n3. What is shared runs once for both, anything else once for each");
    for name in &names {
        let told = call(manager, "get_mcp_server", json!({"name": name})).await?;
        println!("   {name:12} runs: {}", told["runs"].as_array().map_or(0, Vec::len));
    }
    for lease in [&first, &second] {
        for (name, url) in &lease.servers {
            let server = connect(url, &lease.token).await?;
            let tools = server.list_all_tools().await?.len();
            let counted = if is_own { format!(", {} calls counted", counted(&server).await?) } else { String::new() };
            println!("   {} at {name}: {tools} tools{counted}", lease.job);
            server.cancel().await?;
        }
    }

    println!("\n4. A lease ends: its token is refused, and what was its own is gone");
    let pids = if is_own { Some((pid(&first, SHARED).await?, pid(&first, OWN).await?)) } else { None };
    release(manager, &first).await?;
    for (name, url) in &first.servers {
        let Err(refused) = connect(url, &first.token).await else { bail!("{name} takes a token that is over") };
        let is_refused = refused.to_string().contains("Auth required");
        let why = if is_refused { "the token is refused" } else { "nothing listens there any more" };
        println!("   {} at {name}: {why}", first.job);
    }
    if let Some((shared, own)) = pids {
        ensure!(pid(&second, SHARED).await? == shared, "{} has another {SHARED} now", second.job);
        ensure!(!lives(own), "process {own} lives on");
        println!("   process {own}, {} of {}, is gone; {SHARED}, process {shared}, goes on", OWN, first.job);
    }
    release(manager, &second).await
}

/// The names of the servers that there are, apart from this manager and those that run elsewhere.
async fn look_at_catalog(manager: &Peer<RoleClient>) -> anyhow::Result<Vec<String>> {
    let listed = call(manager, "list_mcp_servers", json!({})).await?;
    let mut names = Vec::new();
    for server in listed["servers"].as_array().into_iter().flatten() {
        let name = text(server, "name");
        println!("   {name:12} {}, {}", text(server, "sharing"), text(server, "state"));
        if name != MANAGER && server["is_remote"] != true {
            names.push(name.to_owned());
        }
    }
    ensure!(!names.is_empty(), "the file has no MCP server that can be run");
    Ok(names)
}

/// Leases these servers for a job.
async fn lease(manager: &Peer<RoleClient>, job: &'static str, names: &[String]) -> anyhow::Result<Lease> {
    let request = json!({"job_id": job, "mcp_servers": names, "ttl_seconds": 600});
    let answer = call(manager, "request_resources", request).await?;
    ensure!(answer["status"] == "active", "{job} gets nothing: {}", text(&answer, "error"));
    // The same block is what any MCP client takes as it stands.
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

/// Connects to a leased server as any MCP client does: with its address, and the token of the lease.
async fn connect(url: &str, token: &str) -> anyhow::Result<RunningService<RoleClient, ()>> {
    let config = StreamableHttpClientTransportConfig::with_uri(url).auth_header(token);
    Ok(().serve(StreamableHttpClientTransport::from_config(config)).await?)
}

/// How many calls the server has counted in its memory, whoever made them.
async fn counted(server: &Peer<RoleClient>) -> anyhow::Result<Value> {
    Ok(call(server, "count", json!({})).await?["count"].take())
}

/// The process that answers the holder of a lease.
async fn pid(lease: &Lease, name: &str) -> anyhow::Result<i32> {
    let (_, url) = lease.servers.iter().find(|(known, _)| known == name).context("a server that is not leased")?;
    let server = connect(url, &lease.token).await?;
    let told = call(&server, "echo", json!({})).await?;
    server.cancel().await?;
    let pid = told["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    pid.with_context(|| format!("{told} has no pid"))
}

/// Whether there is such a process.
fn lives(pid: i32) -> bool {
    #[cfg(unix)]
    return rustix::process::Pid::from_raw(pid).is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok());
    #[cfg(not(unix))]
    return pid == 0;
}

/// The text at a key, or nothing.
fn text<'a>(answer: &'a Value, key: &str) -> &'a str {
    answer[key].as_str().unwrap_or_default()
}
