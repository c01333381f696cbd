//! The errors, from the texts of the error enums.

use crate::source::{SourceFile, doc};
use std::fmt::Write;
use syn::{Attribute, Item, LitStr, Meta};

pub(super) fn page(sources: &[SourceFile]) -> String {
    let mut page =
        "# Errors\n\nThe texts of errors, with the values they name in braces. A refused request is not an error: its \
        answer has `status: \"failed\"` and the reason.\n"
            .to_owned();
    for source in sources {
        for item in &source.items {
            let Item::Enum(errors) = item else { continue };
            let texts: Vec<(String, String)> = errors
                .variants
                .iter()
                .filter_map(|variant| Some((text(&variant.attrs)?, doc(&variant.attrs))))
                .collect();
            if texts.is_empty() {
                continue;
            }
            let _ = write!(page, "\n## `{}`\n\n{} (`{}`)\n\n", errors.ident, doc(&errors.attrs), source.path);
            for (text, meaning) in texts {
                let _ = match (is_placeholder(&text), meaning.is_empty()) {
                    (true, true) => continue,
                    (true, false) => writeln!(page, "- {meaning}"),
                    (false, true) => writeln!(page, "- `{text}`"),
                    (false, false) => writeln!(page, "- `{text}`: {meaning}"),
                };
            }
        }
    }
    page
}

/// Whether a text is nothing but a value, whose own type has the texts.
fn is_placeholder(text: &str) -> bool {
    text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).is_some_and(|name| !name.contains('{'))
}

/// Returns the text of an `#[error("…")]` attribute. One that passes on the text of its source has none of its own.
fn text(attributes: &[Attribute]) -> Option<String> {
    let error = attributes.iter().find(|attribute| attribute.path().is_ident("error"))?;
    let Meta::List(list) = &error.meta else { return None };
    let text = list.parse_args_with(|input: syn::parse::ParseStream<'_>| {
        let text: LitStr = input.parse()?;
        input.step(|cursor| Ok(((), skip(*cursor))))?;
        Ok(text.value())
    });
    text.ok().map(|text| text.split_whitespace().collect::<Vec<_>>().join(" ").replace('`', "'"))
}

/// Passes over the arguments of a format string.
fn skip(mut cursor: syn::buffer::Cursor<'_>) -> syn::buffer::Cursor<'_> {
    while let Some((_, next)) = cursor.token_tree() {
        cursor = next;
    }
    cursor
}
