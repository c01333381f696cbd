//! The events of a state, from their type and from the golden files that must replay for ever.

use crate::source::{self, doc, text_of};
use anyhow::{Context, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use syn::{Fields, Item};

pub(super) fn page(root: &Path) -> anyhow::Result<String> {
    let examples = examples(&root.join("crates/core/tests/golden"))?;
    let file = source::read(&root.join("crates/core/src/event.rs"), root)?;
    let found = file.items.iter().find_map(|item| match item {
        Item::Enum(events) if events.ident == "Event" => Some(events),
        _ => None,
    });
    let mut page = "# Events\n\nThe log of a state is a sequence of events: facts that changed the state. `events` \
        prints them as JSON lines. Each has a `version`, the time `at` and the `event`, whose `type` says what \
        happened. Unknown versions, types and fields stop a reader. The examples are from the files that every later \
        version replays.\n"
        .to_owned();
    for variant in &found.context("there is no enum Event")?.variants {
        let name = snake_case(&variant.ident.to_string());
        let _ = write!(page, "\n## `{name}`\n\n{}\n", doc(&variant.attrs));
        if let Fields::Named(fields) = &variant.fields {
            page.push('\n');
            for field in &fields.named {
                let field_name = field.ident.as_ref().map(ToString::to_string).unwrap_or_default();
                let meaning = doc(&field.attrs);
                let colon = if meaning.is_empty() { "" } else { ": " };
                let _ = writeln!(page, "- `{field_name}` (`{}`){colon}{meaning}", text_of(&field.ty));
            }
        }
        let example = examples.get(&name);
        ensure!(example.is_some(), "no golden file has an event of type {name}");
        let _ = write!(page, "\n```json\n{}\n```\n", example.map_or("", String::as_str));
    }
    Ok(page)
}

/// Returns the first line of each type of event in the golden files.
fn examples(folder: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let mut paths: Vec<_> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    paths.sort();
    let mut examples = BTreeMap::new();
    for path in paths {
        for line in fs::read_to_string(&path)?.lines() {
            let event: Value = serde_json::from_str(line).with_context(|| format!("a line of {}", path.display()))?;
            let name = event["event"]["type"].as_str().context("an event without a type")?.to_owned();
            examples.entry(name).or_insert_with(|| line.to_owned());
        }
    }
    Ok(examples)
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}
