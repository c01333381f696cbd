//! The resources, from the lists that a client gets.

use super::cell;
use anyhow::Context;
use serde_json::Value;
use std::fmt::Write;

pub(super) fn page(resources: &Value, templates: &Value) -> anyhow::Result<String> {
    let mut page = "# Resources\n\nEach is a JSON document that a client can read and watch.\n\n\
        | address | type | meaning |\n|---|---|---|\n"
        .to_owned();
    let listed = resources["resources"].as_array().context("no list of resources")?;
    let templated = templates["resourceTemplates"].as_array().context("no list of templates")?;
    let addresses = listed.iter().map(|item| (item, "uri")).chain(templated.iter().map(|item| (item, "uriTemplate")));
    for (item, address) in addresses {
        let text = |key: &str| item[key].as_str().unwrap_or_default();
        let _ = writeln!(page, "| `{}` | `{}` | {} |", text(address), text("mimeType"), cell(text("description")));
    }
    Ok(page)
}
