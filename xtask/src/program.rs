//! The program, which is built and then asked: its help pages over the command line, its tools and resources over MCP.

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

const NAME: &str = "cortex-resource-manager";

/// The built program.
pub(crate) struct Program {
    path: PathBuf,
}

impl Program {
    /// Builds the program with the same profile as this task.
    pub(crate) fn build() -> anyhow::Result<Self> {
        let task = env::current_exe().context("the path of this task is unknown")?;
        let folder = task.parent().context("this task has no folder")?;
        let profile = match folder.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(name) => name,
        };
        let cargo = env::var_os("CARGO").context("run this with cargo xtask")?;
        let arguments = ["build", "--quiet", "--locked", "--package", NAME, "--bin", NAME, "--profile", profile];
        let status = Command::new(cargo).args(arguments).status().context("cargo could not be started")?;
        ensure!(status.success(), "{NAME} could not be built");
        Ok(Self { path: folder.join(NAME).with_extension(env::consts::EXE_EXTENSION) })
    }

    /// Returns the help page of the program, or of one of its commands.
    pub(crate) fn help(&self, command: Option<&str>) -> anyhow::Result<String> {
        let output = self.command().args(command).arg("--help").output().context("the help page cannot be read")?;
        ensure!(output.status.success(), "the help page of {command:?} ended with {}", output.status);
        String::from_utf8(output.stdout).context("a help page that is not UTF-8")
    }

    /// Sends requests over MCP to the program with all toolsets and returns their results.
    pub(crate) fn ask<const N: usize>(&self, methods: [&str; N]) -> anyhow::Result<[Value; N]> {
        let mut child = self
            .command()
            .args(["--toolsets", "all", "--log-level", "error"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the program could not be started")?;
        let mut input = child.stdin.take().context("no standard input")?;
        let mut lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        let client = json!({"name": "xtask", "version": "0"});
        let greeting = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client});
        let mut ask = |method: &str, params: Value| -> anyhow::Result<Value> {
            writeln!(input, "{}", json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))?;
            let line = lines.next().context("the program ended")??;
            let mut message: Value = serde_json::from_str(&line)?;
            if message.get("error").is_some() {
                bail!("{method} was answered with {}", message["error"]);
            }
            Ok(message["result"].take())
        };
        ask("initialize", greeting)?;
        let mut results = [const { Value::Null }; N];
        for (result, method) in results.iter_mut().zip(methods) {
            *result = ask(method, json!({}))?;
        }
        drop(input);
        child.wait().context("the program cannot be waited for")?;
        Ok(results)
    }

    /// The program without settings of the environment.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CORTEX_")) {
            command.env_remove(name);
        }
        command
    }
}
