//! Shared by the examples: starts the real server as an MCP client does, and calls its tools.

use anyhow::{Context, anyhow, bail, ensure};
use rmcp::model::{CallToolRequestParams, ProtocolVersion};
use rmcp::service::RunningService;
use rmcp::transport::TokioChildProcess;
use rmcp::{ClientLifecycleMode, ClientServiceExt, RoleClient, ServiceError};
use serde_json::Value;
use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use thiserror::Error;

/// The name of the server binary.
const SERVER: &str = env!("CARGO_PKG_NAME");

/// Starts the server with these options and connects to it. The server logs only warnings and errors.
///
/// # Errors
/// The server cannot be built or started, or does not answer.
pub(crate) async fn start(options: &[&str]) -> anyhow::Result<RunningService<RoleClient, ()>> {
    let mut command = command(&build(&[])?);
    command.args(["--log-level", "warn"]).args(options);
    let child = TokioChildProcess::new(tokio::process::Command::from(command))
        .with_context(|| format!("{SERVER} could not be started"))?;
    // The newest protocol version that both sides support.
    let lifecycle = ClientLifecycleMode::Auto {
        preferred_versions: vec![ProtocolVersion::V_2026_07_28],
        legacy_version: Some(ProtocolVersion::V_2025_11_25),
    };
    ().serve_with_lifecycle(child, lifecycle).await.with_context(|| format!("{SERVER} did not answer"))
}

/// The reason why a call failed while the session continues.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// The server refused the call, for example because of an invalid argument.
    #[error("{0}")]
    Refused(String),
    /// The call may or may not have taken effect: the server restarted, or could not write its state.
    #[error("{0}")]
    Lost(String),
}

/// Calls a tool and returns its answer.
///
/// # Errors
/// [`Failure`], or the error that ended the session. A request that exceeds the available capacity is not an error: its
/// answer has the status `failed`.
pub(crate) async fn call(
    client: &rmcp::Peer<RoleClient>,
    tool: &'static str,
    arguments: Value,
) -> anyhow::Result<Value> {
    let Value::Object(arguments) = arguments else { bail!("the arguments of {tool} are {arguments}: give an object") };
    let is_retryable = |details: &Value| details["retryable"] == true;
    let result = match client.call_tool(CallToolRequestParams::new(tool).with_arguments(arguments)).await {
        Err(ServiceError::McpError(error)) if error.data.as_ref().is_some_and(is_retryable) => {
            bail!(Failure::Lost(error.message.into_owned()));
        }
        result => result?,
    };
    if result.is_error == Some(true) {
        // The text of an error is JSON that contains the reason.
        let text = result.content.first().and_then(|content| content.as_text()).map_or("", |content| &content.text);
        let details: Value = serde_json::from_str(text).with_context(|| format!("{tool} answered {text}"))?;
        let reason = details["error"].as_str().unwrap_or(text).to_owned();
        bail!(if is_retryable(&details) { Failure::Lost(reason) } else { Failure::Refused(reason) });
    }
    result.structured_content.ok_or_else(|| anyhow!("{tool} answered without structured content"))
}

/// Returns a command that runs the server without the settings of the environment.
pub(crate) fn command(server: &Path) -> Command {
    let mut command = Command::new(server);
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("CORTEX_") {
            command.env_remove(name);
        }
    }
    command
}

/// Builds the server and these examples if they are out of date. Returns the path of the server, which is in the parent
/// of the folder of this example.
///
/// # Errors
/// The build fails, or the path of this example is unknown.
pub(crate) fn build(examples: &[&str]) -> anyhow::Result<PathBuf> {
    let example = env::current_exe().context("the path of this example is unknown")?;
    // …/target/debug/examples/quickstart
    let mut folders = example.ancestors().skip(2);
    let (Some(profile_folder), Some(target)) = (folders.next(), folders.next()) else {
        bail!("{} is not in the folder where cargo puts examples", example.display());
    };
    let profile = match profile_folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let mut cargo = Command::new(env!("CARGO"));
    // Cargo sets these variables for the examples that it runs. Some crates and their dependents are rebuilt when a
    // variable differs.
    let is_set_by_cargo = |name: &OsStr| {
        let name = name.as_encoded_bytes();
        name.starts_with(b"CARGO_PKG_") || name.starts_with(b"CARGO_MANIFEST_")
    };
    for (name, _) in env::vars_os().filter(|(name, _)| is_set_by_cargo(name)) {
        cargo.env_remove(name);
    }
    let status = cargo
        .args(["build", "--quiet", "--bin", SERVER])
        // The example is built too, so that both have the same features and no crate is compiled twice.
        .args(["--example", env!("CARGO_BIN_NAME"), "--profile", profile])
        .args(examples.iter().flat_map(|example| ["--example", example]))
        .arg("--manifest-path")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("{} could not be started", env!("CARGO")))?;
    ensure!(status.success(), "{SERVER} could not be built: cargo ended with {status}");
    Ok(profile_folder.join(SERVER).with_extension(env::consts::EXE_EXTENSION))
}
