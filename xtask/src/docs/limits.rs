//! The named limits, from the constants of the code.

use super::cell;
use crate::source::{SourceFile, doc, text_of};
use std::fmt::Write;
use syn::Item;

/// The endings of the names of limits.
const ENDINGS: [&str; 2] = ["_MAX", "_MIN"];

pub(super) fn page(sources: &[SourceFile]) -> String {
    let mut page =
        "# Limits\n\nEvery queue, map, buffer and loop has a named limit. These are the constants of the code; limits \
        that can be set are among the [settings](settings.md).\n"
            .to_owned();
    let mut heading = String::new();
    for source in sources {
        for item in &source.items {
            let Item::Const(constant) = item else { continue };
            let name = constant.ident.to_string();
            if !ENDINGS.iter().any(|ending| name.ends_with(ending)) {
                continue;
            }
            let place = source.path.split("/src/").next().unwrap_or_default();
            let part =
                if source.path.starts_with("src/") { "the program" } else { place.trim_start_matches("crates/") };
            if part != heading {
                part.clone_into(&mut heading);
                let _ = write!(page, "\n## `{heading}`\n\n| name | value | meaning | file |\n|---|---|---|---|\n");
            }
            let (value, meaning) = (cell(&text_of(&constant.expr)), cell(&doc(&constant.attrs)));
            let _ = writeln!(page, "| `{name}` | `{value}` | {meaning} | `{}` |", source.path);
        }
    }
    page
}
