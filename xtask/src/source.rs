//! What the reference takes from source files: constants, error enums and events, with their doc comments.

use anyhow::Context;
use std::fs;
use std::path::{Path, PathBuf};
use syn::spanned::Spanned;
use syn::{Attribute, Expr, ExprLit, Item, Lit, Meta};

/// A source file and its items, those of nested modules included, those of tests not.
pub(crate) struct SourceFile {
    /// From the root of the workspace, with `/`.
    pub(crate) path: String,
    pub(crate) items: Vec<Item>,
}

/// Reads all source files of the crates and of the program, in the order of their paths.
pub(crate) fn read_all(root: &Path) -> anyhow::Result<Vec<SourceFile>> {
    let mut folders = vec![root.join("src")];
    for entry in fs::read_dir(root.join("crates"))? {
        folders.push(entry?.path().join("src"));
    }
    let mut paths = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("{} cannot be read", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                paths.push(path);
            }
        }
    }
    paths.retain(|path| !is_test(path, root) && !path.starts_with(root.join("crates/test-support")));
    paths.sort();
    paths.into_iter().map(|path| read(&path, root)).collect()
}

fn is_test(path: &Path, root: &Path) -> bool {
    let below = path.strip_prefix(root).unwrap_or(path);
    below.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs")
}

/// Reads one source file.
pub(crate) fn read(path: &PathBuf, root: &Path) -> anyhow::Result<SourceFile> {
    let text = fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let file = syn::parse_file(&text).with_context(|| format!("{} cannot be parsed", path.display()))?;
    let mut items = Vec::new();
    collect(file.items, &mut items);
    let below = path.strip_prefix(root)?.components().map(|part| part.as_os_str().to_string_lossy());
    Ok(SourceFile { path: below.collect::<Vec<_>>().join("/"), items })
}

fn collect(found: Vec<Item>, items: &mut Vec<Item>) {
    for item in found {
        match item {
            Item::Mod(module) if has_cfg_test(&module.attrs) => {}
            Item::Mod(module) => collect(module.content.map_or_else(Vec::new, |(_, items)| items), items),
            other => items.push(other),
        }
    }
}

fn has_cfg_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| attribute.path().is_ident("cfg") && text_of(attribute).contains("test"))
}

/// Returns the first paragraph of a doc comment, in one line.
pub(crate) fn doc(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => string(&pair.value),
        _ => None,
    });
    let lines: Vec<String> = lines.map(|line| line.trim().to_owned()).take_while(|line| !line.is_empty()).collect();
    without_links(&lines.join(" "))
}

/// Returns the text of a string literal.
pub(crate) fn string(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
        _ => None,
    }
}

/// Returns the source of something in one line.
pub(crate) fn text_of(item: &impl Spanned) -> String {
    let source = item.span().source_text().unwrap_or_default();
    source.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Replaces links of doc comments, which lead nowhere in a book, by their text.
fn without_links(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("[`") {
        plain.push_str(&rest[..start]);
        let Some(end) = rest[start..].find("`]") else { break };
        plain.push_str(&rest[start + 1..=start + end]);
        rest = &rest[start + end + 2..];
        if let Some(target) = rest.strip_prefix('(').and_then(|after| after.find(')')) {
            rest = &rest[target + 2..];
        }
    }
    plain + rest
}
