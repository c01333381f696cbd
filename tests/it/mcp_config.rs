//! The `mcp-config.json` that the README recommends to clients starts the server.

use std::{env, fs, path::Path, process::Command};

use serde::Deserialize;
use serde_json::json;

use crate::support::{
    pattern::check,
    server::{Server, Transport},
};

/// The part of such a file that an MCP client reads.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Configuration {
    mcp_servers: std::collections::BTreeMap<String, Entry>,
}

/// The command of one server.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    command: String,
    args: Vec<String>,
}

#[test]
fn it_starts_the_server() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("mcp-config.json");
    let text = fs::read_to_string(&path).expect("mcp-config.json at the root");
    let configuration: Configuration = serde_json::from_str(&text).expect("what clients read");
    let (name, entry) = configuration.mcp_servers.first_key_value().expect("a server");
    assert_eq!((name.as_str(), configuration.mcp_servers.len()), ("cortex-resource-manager", 1));
    // An installed binary is in a folder of PATH.
    let folder = Path::new(env!("CARGO_BIN_EXE_cortex-resource-manager")).parent().expect("a folder");
    let mut command = Command::new(&entry.command);
    command.args(&entry.args).env("PATH", folder);
    let mut server = Server::start_on(Transport::Pipes, command);
    let greeting = server.greet("2025-11-25");
    check(&greeting, &json!({"serverInfo": {"name": name}}));
    server.learn_schemas();
    let id = server.grant(&json!({"job_id": "a", "mcp_servers": ["filesystem"], "workers": 1}));
    check(&server.answer("release_resources", &json!({"allocation_id": id})), &json!({"status": "released"}));
    server.close_input();
    server.check_end();
}
