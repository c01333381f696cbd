//! Ten jobs that use the same servers, either leased or started by each job.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::transport::{StreamableHttpClientTransport, TokioChildProcess};
use rmcp::{RoleClient, ServiceExt, model::CallToolRequestParams, service::RunningService};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::processes::mib_now_and_steady;

const PROGRAM: &str = env!("CARGO_BIN_EXE_cortex-resource-manager");
const JOBS: usize = 10;
const SERVERS: usize = 5;
/// The environment variables of a server, whether the manager or a job starts it.
const PASSED_ON: [&str; 4] = ["PATH", "HOME", "LANG", "TMPDIR"];

type Client = RunningService<RoleClient, ()>;

/// A server, and the read-only tool that each job calls.
struct Entry {
    name: &'static str,
    arguments: Vec<PathBuf>,
    tool: &'static str,
    given: Value,
}

/// Returns what is missing, as an error.
pub(crate) fn check_installed() -> Result<(), String> {
    if Command::new("node").arg("--version").stdout(Stdio::null()).status().is_err() {
        return Err("there is no `node`".to_owned());
    }
    match ["filesystem", "everything", "memory"].map(package).into_iter().find(|path| !path.exists()) {
        Some(path) => Err(format!("{} is missing, which `cargo build && .ci/servers` installs", path.display())),
        None => Ok(()),
    }
}

fn package(name: &str) -> PathBuf {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/servers/node_modules");
    modules.join(format!("@modelcontextprotocol/server-{name}/dist/index.js"))
}

fn entries(folder: &Path) -> [Entry; SERVERS] {
    let files = |name: &'static str| {
        let files = folder.join(name);
        fs::create_dir_all(&files).expect("a folder");
        let given = json!({ "path": files });
        Entry { name, arguments: vec![package("filesystem"), files], tool: "list_directory", given }
    };
    let plain = |name, tool, given| Entry { name, arguments: vec![package(name)], tool, given };
    let everything = plain("everything", "echo", json!({"message": "hello"}));
    [files("notes"), files("sources"), files("reports"), everything, plain("memory", "read_graph", json!({}))]
}

async fn start(command: Command) -> Client {
    let command = tokio::process::Command::from(command);
    let (child, _) = TokioChildProcess::builder(command).stderr(Stdio::null()).spawn().expect("a program");
    ().serve(child).await.expect("an answer")
}

async fn call(client: &Client, tool: &'static str, given: Value) -> Value {
    let Value::Object(given) = given else { panic!("{given} is no object") };
    let result = client.call_tool(CallToolRequestParams::new(tool).with_arguments(given)).await.expect("an answer");
    assert_ne!(result.is_error, Some(true), "{tool}: {:?}", result.content);
    result.structured_content.unwrap_or_default()
}

/// Performs the calls of a job on a server, which are the same on both sides, and leaves the session open.
async fn work(client: Client, entry: &Entry) -> Client {
    client.list_all_tools().await.expect("tools");
    call(&client, entry.tool, entry.given.clone()).await;
    client
}

async fn end(clients: Vec<Client>) {
    for client in clients {
        client.cancel().await.expect("its end");
    }
}

/// Returns the memory while each job has started its own servers.
pub(crate) async fn each_its_own_mib() -> [f64; 2] {
    let folder = tempfile::tempdir().expect("a folder");
    let mut clients = Vec::new();
    for _ in 0..JOBS {
        for entry in entries(folder.path()) {
            let mut command = Command::new("node");
            command.args(&entry.arguments).current_dir("/").env_clear();
            command.envs(PASSED_ON.into_iter().filter_map(|name| Some((name, env::var_os(name)?))));
            clients.push(work(start(command).await, &entry).await);
        }
    }
    let mib = mib_now_and_steady(None, JOBS * SERVERS).await;
    end(clients).await;
    mib
}

/// Returns the memory while each job has a session of the manager and leases all servers from it.
pub(crate) async fn sharing_mib() -> [f64; 2] {
    let manager = Manager { folder: tempfile::tempdir().expect("a folder") };
    let entries = entries(manager.folder.path());
    let catalog = manager.write_catalog(&entries);
    let (mut sessions, mut clients) = (Vec::new(), Vec::new());
    for job in 0..JOBS {
        let session = start(manager.command(&["--catalog".as_ref(), &catalog])).await;
        let names = entries.each_ref().map(|entry| entry.name);
        let request = json!({"job_id": format!("job-{job}"), "mcp_servers": names, "ttl_seconds": 3_600});
        let granted = call(&session, "request_resources", request).await;
        assert_eq!(granted["status"], "active", "{granted}");
        for entry in &entries {
            let url = granted["mcp_config"]["mcpServers"][entry.name]["url"].as_str().expect("an address");
            let token = granted["access_token"].as_str().expect("a token");
            let config = StreamableHttpClientTransportConfig::with_uri(url).auth_header(token);
            let client = ().serve(StreamableHttpClientTransport::from_config(config)).await.expect("an answer");
            clients.push(work(client, entry).await);
        }
        sessions.push(session);
    }
    // One session per job, the daemon, and each server with its guardian.
    let mib = mib_now_and_steady(Some(manager.daemon()), JOBS + 1 + 2 * SERVERS).await;
    end(clients).await;
    end(sessions).await;
    mib
}

/// A manager with a state in its own folder. Dropping it stops its daemon.
struct Manager {
    folder: TempDir,
}

impl Manager {
    fn write_catalog(&self, entries: &[Entry]) -> PathBuf {
        let server = |entry: &Entry| (entry.name, json!({"command": "node", "args": entry.arguments}));
        let servers: BTreeMap<_, _> = entries.iter().map(server).collect();
        let path = self.folder.path().join("catalog.json");
        fs::write(&path, json!({ "mcpServers": servers }).to_string()).expect("a file");
        path
    }

    /// Returns a command that runs the program on this state without the settings of the environment.
    fn command(&self, arguments: &[&Path]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).arg("--state").arg(self.folder.path().join("state.db"));
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CORTEX_")) {
            command.env_remove(name);
        }
        command.env("XDG_RUNTIME_DIR", self.folder.path());
        command
    }

    /// Returns the process id of the daemon.
    fn daemon(&self) -> u32 {
        let output = self.command(&["status".as_ref()]).output().expect("the program");
        let status = String::from_utf8_lossy(&output.stdout);
        let pid = status.lines().find_map(|line| line.strip_prefix("pid: "));
        pid.and_then(|pid| pid.parse().ok()).unwrap_or_else(|| panic!("no daemon: {status}"))
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // Fails only if no daemon was started.
        let _ = self.command(&["stop".as_ref()]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}
