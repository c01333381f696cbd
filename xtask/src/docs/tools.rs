//! The tools, from the list that a client gets.

use super::cell;
use anyhow::Context;
use serde_json::Value;
use std::fmt::Write;

pub(super) fn page(listed: &Value) -> anyhow::Result<String> {
    let mut page = "# Tools\n\nAll tools, as a client sees them with `--toolsets all`. Input that the \
        schema does not allow is answered with an error that names the argument, the value and what is allowed.\n"
        .to_owned();
    for tool in listed["tools"].as_array().context("no list of tools")? {
        let name = tool["name"].as_str().context("a tool without a name")?;
        let _ = write!(page, "\n## `{name}`\n\n{}\n", text(&tool["description"]));
        let _ = writeln!(page, "\n{}.", hints(&tool["annotations"]));
        let arguments = &tool["inputSchema"];
        let required: Vec<&str> =
            arguments["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let properties = arguments["properties"].as_object().filter(|properties| !properties.is_empty());
        let Some(properties) = properties else {
            page.push_str("\nIt takes no arguments.\n");
            continue;
        };
        page.push_str("\n| argument | type | required | meaning |\n|---|---|---|---|\n");
        for (argument, schema) in properties {
            let is_required = if required.contains(&argument.as_str()) { "yes" } else { "no" };
            let kind = cell(&kind(schema));
            let _ =
                writeln!(page, "| `{argument}` | {kind} | {is_required} | {} |", cell(text(&schema["description"])));
        }
    }
    Ok(page)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Says what the annotations of a tool promise.
fn hints(annotations: &Value) -> String {
    let is = |hint: &str| annotations[hint] == true;
    let mut hints = vec![if is("readOnlyHint") { "Read-only" } else { "Changes state" }];
    if !is("readOnlyHint") && is("destructiveHint") {
        hints.push("destructive");
    }
    if is("idempotentHint") {
        hints.push("idempotent");
    }
    hints.join(", ")
}

/// Returns the type of an argument with its bounds.
fn kind(schema: &Value) -> String {
    let mut kind = match &schema["type"] {
        Value::String(name) => name.clone(),
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
        _ => "any".to_owned(),
    };
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<String> = words.iter().map(|word| format!("`{}`", text(word))).collect();
        kind = words.join(", ");
    }
    let bounds =
        [("minimum", "maximum", ""), ("minLength", "maxLength", " characters"), ("minItems", "maxItems", " items")];
    for (least, most, unit) in bounds {
        let _ = match (schema.get(least), schema.get(most)) {
            (Some(least), Some(most)) => write!(kind, ", {least} to {most}{unit}"),
            (Some(least), None) => write!(kind, ", at least {least}{unit}"),
            (None, Some(most)) => write!(kind, ", at most {most}{unit}"),
            (None, None) => Ok(()),
        };
    }
    if let Some(default) = schema.get("default") {
        let _ = write!(kind, ", default `{default}`");
    }
    kind
}
