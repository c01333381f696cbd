//! Expands references to variables: `${NAME}` and `${NAME:-default}`, also written `${env:NAME}`.
//!
//! One name is reserved: `${CORTEX_ALLOCATION_ID}` is replaced by the id of the allocation for which a server is
//! started, even if a variable of that name is set.
//!
//! The rules are those of Claude Code: a variable that is set counts even if it is empty, `$NAME` and `$$` are plain
//! text, and an inserted value is not expanded again. The difference is that a reference to a variable that is not set
//! is an error and not plain text, so that no server is started with the text `${TOKEN}` as its token.

use thiserror::Error;

use super::template::Template;

/// The name that is replaced by the id of the allocation. An instance that an allocation owns also gets it as a
/// variable.
pub(crate) const ALLOCATION_VARIABLE: &str = "CORTEX_ALLOCATION_ID";

/// The length of an allocation id in bytes: `alloc-` and 12 digits.
const ALLOCATION_BYTES: usize = 18;

/// The most bytes of all texts of a catalog after expansion: a small file with references to a long variable can become
/// large.
const EXPANDED_BYTES_MAX: usize = 8 * 1_048_576;

/// The longest text, in bytes: no system takes a longer argument or variable.
const TEXT_BYTES_MAX: usize = 131_071;

/// Begins a reference.
const BEGIN: &str = "${";

/// The prefix of variable names in VS Code and Cursor.
const ENV_PREFIX: &str = "env:";

/// Why a text cannot be expanded. `Display` does not show values.
#[derive(Debug, PartialEq, Eq, Error)]
pub(super) enum ExpandError {
    #[error(
        "names the variable {0}, which is not set: set it where the manager is started, or give ${{{0}:-a default}}"
    )]
    NotSet(String),
    #[error("has a reference in the default of {0}, which is not supported: give plain text as the default")]
    Nested(String),
    #[error("has ${{input:…}}, which only VS Code supports: give ${{NAME}} instead, and set that variable")]
    Input,
    #[error("has more than {TEXT_BYTES_MAX} bytes after its variables are expanded: shorten it")]
    TextTooLong,
    #[error("makes the catalog larger than {EXPANDED_BYTES_MAX} bytes after its variables are expanded: shorten it")]
    CatalogTooLong,
}

/// An expanded text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expanded {
    pub(super) text: Template,
    /// Whether it has a `${` that does not begin a reference, such as `${this%/}`. That stays as it is.
    pub(super) has_other_braces: bool,
}

/// Expands the texts of one catalog.
pub(super) struct Expander<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    bytes_left: usize,
}

impl<'a> Expander<'a> {
    pub(super) fn new(variable: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { variable, bytes_left: EXPANDED_BYTES_MAX }
    }

    pub(super) fn expand(&mut self, text: &str) -> Result<Expanded, ExpandError> {
        let (mut parts, mut length, mut has_other_braces) = (vec![String::new()], 0, false);
        let mut push = |parts: &mut Vec<String>, part: &str, bytes: usize| {
            length += bytes;
            if length > TEXT_BYTES_MAX {
                return Err(ExpandError::TextTooLong);
            }
            parts.last_mut().into_iter().for_each(|last| last.push_str(part));
            Ok(())
        };
        let mut rest = text;
        while let Some(start) = rest.find(BEGIN) {
            push(&mut parts, &rest[..start], start)?;
            rest = &rest[start + BEGIN.len()..];
            if rest.starts_with("input:") {
                return Err(ExpandError::Input);
            }
            if let Some(reference) = Reference::at(rest) {
                match self.value(&reference)? {
                    Some(value) => push(&mut parts, &value, value.len())?,
                    None => {
                        push(&mut parts, "", ALLOCATION_BYTES)?;
                        parts.push(String::new());
                    }
                }
                rest = reference.rest;
            } else {
                // Probably a shell script. A reference may follow within its braces.
                has_other_braces = true;
                push(&mut parts, BEGIN, BEGIN.len())?;
            }
        }
        push(&mut parts, rest, rest.len())?;
        self.bytes_left = self.bytes_left.checked_sub(length).ok_or(ExpandError::CatalogTooLong)?;
        Ok(Expanded { text: Template::new(parts), has_other_braces })
    }

    /// Returns the value of a reference; none for the allocation, which is not known yet.
    fn value(&self, &Reference { name, default, .. }: &Reference<'_>) -> Result<Option<String>, ExpandError> {
        if default.is_some_and(|default| default.contains(BEGIN)) {
            return Err(ExpandError::Nested(name.to_owned()));
        }
        if name == ALLOCATION_VARIABLE {
            return Ok(None);
        }
        let value = (self.variable)(name).or_else(|| default.map(str::to_owned));
        value.map(Some).ok_or_else(|| ExpandError::NotSet(name.to_owned()))
    }
}

/// A reference to a variable.
struct Reference<'a> {
    name: &'a str,
    default: Option<&'a str>,
    /// The text after the reference.
    rest: &'a str,
}

impl<'a> Reference<'a> {
    /// Returns the reference at the beginning of `text`, which is without its `${`.
    fn at(text: &'a str) -> Option<Self> {
        let text = text.strip_prefix(ENV_PREFIX).unwrap_or(text);
        let name_bytes = text.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
        let (name, after) = text.split_at(name_bytes);
        if name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
            return None;
        }
        if let Some(rest) = after.strip_prefix('}') {
            return Some(Self { name, default: None, rest });
        }
        let (default, rest) = after.strip_prefix(":-")?.split_once('}')?;
        Some(Self { name, default: Some(default), rest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str) -> Result<Expanded, ExpandError> {
        let variable = |name: &str| match name {
            "HOME" => Some("/home/ada".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICK" => Some("${HOME}".to_owned()),
            "LONG" => Some("x".repeat(100_000)),
            _ => None,
        };
        Expander::new(&variable).expand(text)
    }

    #[track_caller]
    fn check(text: &str, expected: &str, has_other_braces: bool) {
        assert_eq!(expand(text), Ok(Expanded { text: expected.to_owned().into(), has_other_braces }), "{text}");
    }

    #[test]
    fn the_allocation_is_inserted_when_it_is_known() {
        let allocation = Some(cortex_core::ids::AllocationId::from_bits(0xab));
        let check = |text: &str, expected: &str| {
            let expanded = expand(text).expect("a text").text;
            assert_eq!(expanded.for_allocation(allocation), expected, "{text}");
            assert!(expanded.names_allocation() && expanded.plain().is_none(), "{text}");
        };
        check("${CORTEX_ALLOCATION_ID}", "alloc-0000000000ab");
        check("${env:CORTEX_ALLOCATION_ID}${CORTEX_ALLOCATION_ID:-x}", "alloc-0000000000aballoc-0000000000ab");
        check("${HOME}/${CORTEX_ALLOCATION_ID}.json", "/home/ada/alloc-0000000000ab.json");
        let variable = |name: &str| (name == "TRICK").then(|| "${CORTEX_ALLOCATION_ID}".to_owned());
        let plain = Expander::new(&variable).expand("${TRICK}").expect("a text").text.plain();
        assert_eq!(plain.as_deref(), Some("${CORTEX_ALLOCATION_ID}"), "an inserted value is not expanded again");
        let many = "${CORTEX_ALLOCATION_ID}".repeat(TEXT_BYTES_MAX / ALLOCATION_BYTES + 1);
        assert_eq!(expand(&many), Err(ExpandError::TextTooLong));
        let id = cortex_core::ids::AllocationId::from_bits(u64::MAX).to_string();
        assert_eq!(id.len(), ALLOCATION_BYTES);
    }

    #[test]
    fn references_are_replaced_and_other_text_stays() {
        check("", "", false);
        check("${HOME}/a:${HOME}", "/home/ada/a:/home/ada", false);
        check("${env:HOME}é${HOME}", "/home/adaé/home/ada", false);
        check("${NONE:-x y}, ${NONE:-}, ${HOME:-z}", "x y, , /home/ada", false);
        check("[${EMPTY}] [${EMPTY:-default}]", "[] []", false);
        check("${TRICK}", "${HOME}", false);
        check("$HOME $$ $${HOME}", "$HOME $$ $/home/ada", false);
        check("${HOME} ${HOME", "/home/ada ${HOME", true);
        check("${HOME:-x", "${HOME:-x", true);
        check("${dir%/} ${} ${1} ${HOME}", "${dir%/} ${} ${1} /home/ada", true);
        check("${x%${HOME}}", "${x%/home/ada}", true);
    }

    #[test]
    fn a_reference_that_cannot_be_replaced_is_an_error() {
        assert_eq!(expand("a ${TOKEN} b"), Err(ExpandError::NotSet("TOKEN".to_owned())));
        assert_eq!(expand("${NONE:-${HOME}/x}"), Err(ExpandError::Nested("NONE".to_owned())));
        assert_eq!(expand("${input:key}"), Err(ExpandError::Input));
        assert_eq!(expand("${LONG}${LONG}"), Err(ExpandError::TextTooLong));
        let message = ExpandError::NotSet("TOKEN".to_owned()).to_string();
        assert!(message.ends_with("give ${TOKEN:-a default}"), "{message}");
    }

    #[test]
    fn many_unfinished_references_take_linear_time() {
        // Scanning to the end of the text for each would take minutes.
        for text in ["${", "${a", "${a:-", "${env:"] {
            let text = text.repeat(131_000 / text.len());
            check(&text, &text, true);
        }
    }

    #[test]
    fn a_long_variable_does_not_make_a_long_catalog() {
        let variable = |_: &str| Some("x".repeat(100_000));
        let mut expander = Expander::new(&variable);
        let refused = (0..100).find_map(|_| expander.expand("${LONG}").err());
        assert_eq!(refused, Some(ExpandError::CatalogTooLong));
    }
}
