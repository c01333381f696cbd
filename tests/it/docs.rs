//! The README and the book: their snippets, tools and commands match the program.

use cortex_config::{SETTINGS, variable_of};
use rmcp::model::CallToolRequestParams;
use rmcp::service::RunningService;
use rmcp::transport::TokioChildProcess;
use rmcp::{RoleClient, ServiceExt};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use tokio::process::Command;

const README: &str = include_str!("../../README.md");
const ARCHITECTURE: &str = include_str!("../../ARCHITECTURE.md");
const SUMMARY: &str = include_str!("../../docs/SUMMARY.md");
const TOOL_EXAMPLES: &str = include_str!("../../docs/reference/tool-examples.md");
const GLOSSARY: &str = include_str!("../../docs/contributing/glossary.md");
const AGENTS_AND_TASKS: &str = include_str!("../../docs/guides/agents-and-tasks.md");
const MCP_CONFIG: &str = include_str!("../../mcp-config.json");
const WORKER: &str = include_str!("../../examples/worker.rs");

/// Starts a server with these options, and connects a client.
async fn server(options: &[String]) -> RunningService<RoleClient, ()> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cortex-resource-manager"));
    for setting in SETTINGS {
        command.env_remove(variable_of(setting.key));
    }
    command.env_remove("CORTEX_CONFIG").args(options).args(["--log-level", "error"]);
    ().serve(TokioChildProcess::new(command).expect("a server that starts")).await.expect("a server that answers")
}

/// Starts a server with all toolsets.
async fn server_with_all_tools() -> RunningService<RoleClient, ()> {
    server(&["--toolsets".to_owned(), "all".to_owned()]).await
}

/// Returns the code blocks in this language, in order.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let start = format!("```{language}\n");
    text.split(&start).skip(1).filter_map(|rest| rest.split("\n```").next()).collect()
}

/// Returns the text below a heading, up to the next one of the same or a higher level.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let start = text.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("the README has no heading {heading}"));
    let body = &text[start + heading.len() + 2..];
    let level = heading.chars().take_while(|character| *character == '#').count();
    let ends = (1..=level).filter_map(|level| body.find(&format!("\n{} ", "#".repeat(level))));
    &body[..ends.min().unwrap_or(body.len())]
}

/// Returns the tables of a text as rows of cells, without their headings.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let lines: Vec<&str> = text.lines().collect();
    let is_heading = |place: usize| lines.get(place).is_some_and(|next| next.starts_with("|--"));
    let body = (0..lines.len()).filter(|&place| !is_heading(place) && !is_heading(place + 1));
    body.filter_map(|place| lines[place].strip_prefix("| ")?.strip_suffix(" |"))
        .map(|row| row.split(" | ").collect())
        .collect()
}

/// Encloses a text in backticks.
fn code(text: impl std::fmt::Display) -> String {
    format!("`{text}`")
}

/// Returns the README and all pages of the book, by path.
fn pages() -> BTreeMap<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = BTreeMap::from([(root.join("README.md"), README.to_owned())]);
    let mut folders = vec![root.join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(&path).expect("a page");
                found.insert(path, text);
            }
        }
    }
    found
}

#[test]
fn every_json_snippet_parses() {
    let mut count = 0;
    for (path, text) in pages() {
        for snippet in blocks(&text, "json") {
            count += 1;
            if let Err(error) = serde_json::from_str::<Value>(snippet) {
                panic!("{}: {error} in:\n{snippet}", path.display());
            }
        }
    }
    assert!(count > 50, "only {count} snippets were found");
    serde_json::from_str::<Value>(MCP_CONFIG).expect("JSON");
}

#[test]
fn the_summary_lists_every_page_once() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let listed: Vec<PathBuf> =
        SUMMARY.split("](").skip(1).filter_map(|rest| rest.split(')').next()).map(|target| docs.join(target)).collect();
    let there: BTreeSet<PathBuf> =
        pages().into_keys().filter(|path| path.starts_with(&docs) && !path.ends_with("SUMMARY.md")).collect();
    assert_eq!(listed.len(), there.len(), "a page is listed twice or not at all");
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), there);
}

#[test]
fn the_files_that_the_glossary_names_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let named = GLOSSARY.split("| `").skip(1).filter_map(|rest| rest.split("` |").next());
    let missing: Vec<&str> = named.filter(|path| !root.join(path).exists()).collect();
    assert_eq!(missing, [""; 0]);
}

#[test]
fn the_files_that_the_map_of_the_code_names_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let quoted = ARCHITECTURE.split('`').skip(1).step_by(2);
    let named: Vec<&str> = quoted.filter(|text| text.contains("/src/") || text.contains("/tests/")).collect();
    let missing: Vec<&&str> =
        named.iter().filter(|path| !root.join(path).exists() && !root.join("crates").join(path).exists()).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(named.len() > 20, "only {} files were found", named.len());
}

#[test]
fn the_two_commands_of_the_start_are_there() {
    let start = section(README, "## Start");
    assert_eq!(blocks(start, "sh"), ["cargo run -- demo", "cargo test"]);
}

#[test]
fn the_readme_shows_mcp_config_json() {
    assert!(blocks(README, "json").contains(&MCP_CONFIG.trim_end()), "the README shows another mcp-config.json");
}

/// `tests/interop/interop.py` runs the one in Python.
#[test]
fn the_worker_in_rust_is_that_of_the_example() {
    let shown = blocks(AGENTS_AND_TASKS, "rust");
    assert!(
        !shown.is_empty() && shown.iter().all(|snippet| WORKER.contains(snippet)),
        "the guide shows another worker"
    );
    assert_eq!(blocks(AGENTS_AND_TASKS, "python").len(), 1);
}

#[tokio::test]
async fn every_tool_has_an_example_and_the_default_ones_are_in_the_readme() {
    let client = server_with_all_tools().await;
    let tools = client.list_all_tools().await.expect("a list of tools");
    let offered: BTreeSet<&str> = tools.iter().map(|tool| tool.name.as_ref()).collect();
    let described: BTreeSet<&str> = TOOL_EXAMPLES.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(described, offered);
    client.cancel().await.expect("an orderly end");

    let client = server(&[]).await;
    let tools = client.list_all_tools().await.expect("a list of tools");
    let offered: BTreeSet<String> = tools.iter().map(|tool| code(&tool.name)).collect();
    let rows = rows(section(README, "## Connect a client"));
    assert_eq!(rows.iter().map(|row| row[0].to_owned()).collect::<BTreeSet<_>>(), offered);
    client.cancel().await.expect("an orderly end");
}

/// Replaces the values that differ between runs: times, ages and the ids of allocations.
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
        Value::String(text) if text.contains("the request rate is ") => Value::from("a rate"),
        Value::String(text) if text.starts_with("no capacity plan for ") => Value::from("a lack"),
        other => other.clone(),
    }
}

/// Makes the calls of the examples in order, and compares the answers with those on the page.
#[tokio::test]
async fn the_calls_of_the_examples_are_answered_as_shown() {
    let client = server_with_all_tools().await;
    let blocks = blocks(TOOL_EXAMPLES, "json");
    let (pairs, rest) = blocks.as_chunks::<2>();
    assert!(rest.is_empty(), "a call without an answer: {rest:?}");
    // Maps the ids on the page to the ids of this run.
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
