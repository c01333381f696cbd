//! The MCP server of the demo: it keeps notes in its memory, so that all leases of the process see the same notes.

use anyhow::Context;
use serde_json::{Value, json};
use std::io::{self, BufRead, Write};
use std::process::{self, ExitCode};

/// The protocol version that the server answers with when the client asks for an unknown one.
const PROTOCOL_VERSION: &str = "2025-11-25";

/// The most notes that are kept.
const NOTES_MAX: usize = 100;

/// Serves MCP on standard input and output until the input ends.
///
/// # Errors
/// Standard input cannot be read or standard output cannot be written.
pub(crate) fn serve() -> anyhow::Result<ExitCode> {
    let mut notes = Vec::new();
    let mut output = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let Ok(message) = serde_json::from_str::<Value>(&line.context("standard input cannot be read")?) else {
            continue;
        };
        // Notifications have no id and get no answer.
        let Some(id) = message.get("id") else { continue };
        let mut answer = match answer(&message, &mut notes) {
            Ok(result) => json!({"jsonrpc": "2.0", "result": result}),
            Err((code, reason)) => json!({"jsonrpc": "2.0", "error": {"code": code, "message": reason}}),
        };
        answer["id"] = id.clone();
        writeln!(output, "{answer}").and_then(|()| output.flush()).context("standard output cannot be written")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn answer(message: &Value, notes: &mut Vec<String>) -> Result<Value, (i32, &'static str)> {
    let params = &message["params"];
    match message["method"].as_str() {
        Some("initialize") => Ok(json!({
            "protocolVersion": params["protocolVersion"].as_str().unwrap_or(PROTOCOL_VERSION),
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "notes", "version": env!("CARGO_PKG_VERSION")},
        })),
        Some("ping") => Ok(json!({})),
        Some("tools/list") => Ok(json!({"tools": [
            {
                "name": "add_note",
                "description": "Adds a note.",
                "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
            },
            {
                "name": "list_notes",
                "description": "Returns all notes and the id of the process that keeps them.",
                "inputSchema": {"type": "object", "properties": {}},
            },
        ]})),
        Some("tools/call") => call(params, notes),
        _ => Err((-32601, "unknown method")),
    }
}

fn call(params: &Value, notes: &mut Vec<String>) -> Result<Value, (i32, &'static str)> {
    match params["name"].as_str() {
        Some("add_note") if notes.len() == NOTES_MAX => return Err((-32602, "100 notes are kept: restart the server")),
        Some("add_note") => {
            let text = params["arguments"]["text"].as_str().ok_or((-32602, "text is missing"))?;
            notes.push(text.to_owned());
        }
        Some("list_notes") => {}
        _ => return Err((-32602, "unknown tool: use add_note or list_notes")),
    }
    let result = json!({"notes": notes, "pid": process::id()});
    Ok(json!({"content": [{"type": "text", "text": result.to_string()}], "structuredContent": result}))
}
