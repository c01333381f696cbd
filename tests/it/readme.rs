//! What the README says, held against the program: its snippets, its settings, its tools and its commands.

use cortex_config::{Configuration, SETTINGS, Setting};
use rmcp::model::{CallToolRequestParams, Tool};
use rmcp::service::RunningService;
use rmcp::transport::TokioChildProcess;
use rmcp::{RoleClient, ServiceExt};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use tokio::process::Command;

const README: &str = include_str!("../../README.md");
const MCP_CONFIG: &str = include_str!("../../mcp-config.json");
const WORKER: &str = include_str!("../../examples/worker.rs");

/// The server with these options, connected to as by a client.
async fn server(options: &[String]) -> RunningService<RoleClient, ()> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cortex-resource-manager"));
    for setting in SETTINGS {
        command.env_remove(setting.variable);
    }
    command.env_remove("CORTEX_CONFIG").args(options).args(["--log-level", "error"]);
    ().serve(TokioChildProcess::new(command).expect("a server that starts")).await.expect("a server that answers")
}

/// The server with every toolset on.
async fn server_with_all_tools() -> RunningService<RoleClient, ()> {
    server(&["--toolsets".to_owned(), "all".to_owned()]).await
}

/// The blocks of code in this language, in order.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let start = format!("```{language}\n");
    text.split(&start).skip(1).filter_map(|rest| rest.split("\n```").next()).collect()
}

/// The text below a heading, up to the next one of the same or a higher level.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let start = text.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("the README has no heading {heading}"));
    let body = &text[start + heading.len() + 2..];
    let level = heading.chars().take_while(|character| *character == '#').count();
    let ends = (1..=level).filter_map(|level| body.find(&format!("\n{} ", "#".repeat(level))));
    &body[..ends.min().unwrap_or(body.len())]
}

/// The tables of a text as rows of cells, without their headings.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let lines: Vec<&str> = text.lines().collect();
    let is_heading = |place: usize| lines.get(place).is_some_and(|next| next.starts_with("|--"));
    let body = (0..lines.len()).filter(|&place| !is_heading(place) && !is_heading(place + 1));
    body.filter_map(|place| lines[place].strip_prefix("| ")?.strip_suffix(" |"))
        .map(|row| row.split(" | ").collect())
        .collect()
}

/// Puts a text between backticks.
fn code(text: impl std::fmt::Display) -> String {
    format!("`{text}`")
}

#[test]
fn every_json_snippet_parses() {
    let snippets = blocks(README, "json");
    assert!(snippets.len() > 10, "only {} snippets were found", snippets.len());
    for snippet in snippets.into_iter().chain([MCP_CONFIG]) {
        if let Err(error) = serde_json::from_str::<Value>(snippet) {
            panic!("{error} in:\n{snippet}");
        }
    }
}

#[test]
fn the_two_commands_of_the_start_are_there() {
    let start = section(README, "## Start");
    assert_eq!(blocks(start, "sh"), ["cargo run -- demo", "cargo test"]);
}

#[test]
fn mcp_config_json_stands_in_the_readme() {
    assert!(blocks(README, "json").contains(&MCP_CONFIG.trim_end()), "the README shows another mcp-config.json");
}

/// `.ci/interop.py` runs the one in Python.
#[test]
fn the_worker_in_rust_is_that_of_the_example() {
    let shown = blocks(README, "rust");
    assert!(
        !shown.is_empty() && shown.iter().all(|snippet| WORKER.contains(snippet)),
        "the README shows another worker"
    );
    assert_eq!(blocks(README, "python").len(), 1);
}

/// The default of a setting as the help page says it.
fn default_text(help: &str, setting: &Setting) -> String {
    let end = format!(", variable {}.", setting.variable);
    let line = help.lines().find(|line| line.ends_with(&end)).unwrap_or_default();
    line.trim().trim_start_matches("Default ").trim_end_matches(&end).to_owned()
}

#[test]
fn the_settings_table_is_that_of_the_program() {
    let program = std::process::Command::new(env!("CARGO_BIN_EXE_cortex-resource-manager")).arg("--help").output();
    let help = String::from_utf8(program.expect("a help page").stdout).expect("a page of text");
    let defaults: toml::Table = Configuration::default().to_toml().parse().expect("settings that are TOML");
    let mut expected = Vec::new();
    for setting in SETTINGS {
        let default = default_text(&help, setting);
        // Where the default is whatever another setting is, the help page names that one, and nothing is printed.
        match defaults.get(setting.key) {
            None if default == "none" => {}
            None => assert!(defaults.contains_key(&default), "{} is {default}", setting.key),
            Some(value) => {
                let text = match value {
                    toml::Value::String(text) => text.clone(),
                    toml::Value::Array(items) => {
                        items.iter().filter_map(toml::Value::as_str).collect::<Vec<_>>().join(",")
                    }
                    other => other.to_string(),
                };
                assert_eq!(default, text, "{}", setting.key);
            }
        }
        expected.push(vec![
            code(setting.key),
            code(setting.flag),
            code(setting.variable),
            code(default),
            setting.allowed(),
            setting.help.to_owned(),
        ]);
    }
    let lines: Vec<String> = expected.iter().map(|row| format!("| {} |", row.join(" | "))).collect();
    assert_eq!(rows(section(README, "## Settings")), expected, "the table should be:\n{}", lines.join("\n"));
}

/// The tools that the README describes, with the arguments of each.
fn described_tools() -> BTreeMap<String, BTreeSet<String>> {
    let tools = section(README, "## Tools");
    let names = tools.lines().filter_map(|line| line.strip_prefix("### ")).map(str::to_owned);
    names
        .map(|name| {
            let arguments = rows(section(tools, &format!("### {name}")));
            let arguments = arguments.iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
            (name, arguments)
        })
        .collect()
}

/// The arguments of a tool as its schema says them.
fn arguments(tool: &Tool) -> BTreeSet<String> {
    let properties = tool.input_schema.get("properties").and_then(Value::as_object);
    properties.into_iter().flat_map(|properties| properties.keys().cloned()).collect()
}

#[tokio::test]
async fn the_tools_and_their_arguments_are_those_of_the_program() {
    let client = server_with_all_tools().await;
    let tools = client.list_all_tools().await.expect("a list of tools");
    let offered: BTreeMap<String, BTreeSet<String>> =
        tools.iter().map(|tool| (tool.name.to_string(), arguments(tool))).collect();
    assert_eq!(described_tools(), offered);
    let overview = section(README, "## Tools").split("\n### ").next().unwrap_or_default();
    let named: BTreeSet<&str> = rows(overview).iter().map(|row| row[0].trim_matches('`')).collect();
    assert_eq!(named, offered.keys().map(String::as_str).collect());
    client.cancel().await.expect("an orderly end");
}

/// What changes from run to run, made the same: times, ages and the ids of allocations.
fn without_chance(value: &Value) -> Value {
    match value {
        Value::Object(object) => object
            .iter()
            .map(|(key, value)| match key.as_str() {
                "age_seconds"
                | "duration_seconds"
                | "retry_after_seconds"
                | "avg_wait_time_ms"
                | "oldest_task_age_ms"
                | "avg_ms"
                | "oldest_ms"
                | "window_seconds"
                | "current_rate_per_minute"
                | "predicted_rate_per_minute"
                | "history_bins"
                | "missing"
                | "seen_until" => (key.clone(), Value::from(0)),
                _ => (key.clone(), without_chance(value)),
            })
            .collect(),
        Value::Array(items) => items.iter().map(without_chance).collect(),
        Value::String(text) if text.parse::<chrono::DateTime<chrono::Utc>>().is_ok() => Value::from("a time"),
        Value::String(text) if text.starts_with("alloc-") => Value::from("an id"),
        Value::String(text) if text.contains("the rate of requests is ") => Value::from("a rate"),
        Value::String(text) if text.starts_with("no capacity plan for ") => Value::from("a lack"),
        other => other.clone(),
    }
}

/// Makes the calls of the README one after the other, and holds the answers against those that it shows.
#[tokio::test]
async fn the_calls_of_the_readme_are_answered_as_it_says() {
    let client = server_with_all_tools().await;
    let blocks = blocks(section(README, "## Tools"), "json");
    let (pairs, rest) = blocks.as_chunks::<2>();
    assert!(rest.is_empty(), "a call without an answer: {rest:?}");
    // The ids that the README shows, with those that they have in this run.
    let mut ids: BTreeMap<String, String> = BTreeMap::new();
    for [call, answer] in pairs {
        let call = ids.iter().fold((*call).to_owned(), |call, (shown, real)| call.replace(shown, real));
        let call: CallToolRequestParams = serde_json::from_str(&call).expect("a call");
        let name = call.name.clone();
        let shown: Value = serde_json::from_str(answer).expect("an answer");
        let result = client.call_tool(call).await.expect("an answer");
        let real = match result.structured_content {
            Some(content) => content,
            None => {
                let text = result.content.first().and_then(|content| content.as_text()).expect("a text");
                serde_json::from_str(&text.text).expect("an error that is JSON")
            }
        };
        assert_eq!(without_chance(&real), without_chance(&shown), "{name}");
        if let (Some(shown), Some(real)) = (shown["allocation_id"].as_str(), real["allocation_id"].as_str()) {
            ids.insert(shown.to_owned(), real.to_owned());
        }
    }
    client.cancel().await.expect("an orderly end");
}

#[tokio::test]
async fn mcp_config_json_starts_the_server() {
    let config: Value = serde_json::from_str(MCP_CONFIG).expect("JSON");
    let entry = &config["mcpServers"]["cortex-resource-manager"];
    assert_eq!(entry["command"], env!("CARGO_PKG_NAME"), "the name of the binary that cargo installs");
    let options: Vec<String> = serde_json::from_value(entry["args"].clone()).expect("a list of options");
    let client = server(&options).await;
    assert_eq!(client.list_all_tools().await.expect("a list of tools").len(), 6);
    client.cancel().await.expect("an orderly end");
}
