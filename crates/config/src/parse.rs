//! Parses the text of a value.
//!
//! Nothing is trimmed or guessed: a text is either a valid value or an error.

use std::collections::{BTreeMap, BTreeSet};

use super::Toolset;
use cortex_util::suggest::suggest;

/// Why a text is not a valid value. The table of settings describes the allowed values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParseError {
    /// The value is not one of the allowed ones.
    NotAllowed,
    /// The text contains an unknown word.
    UnknownWord {
        /// The word as given.
        word: String,
        /// The nearest known word, if one is near enough.
        suggestion: Option<&'static str>,
    },
}

/// Parses a whole number in decimal digits, from `min` to `max`.
pub fn parse_whole(text: &str, min: u64, max: u64) -> Result<u64, ParseError> {
    parse_digits(text).filter(|value| (min..=max).contains(value)).ok_or(ParseError::NotAllowed)
}

/// Parses a decimal number with at most three decimals and returns it in thousandths, from `min` to `max`.
///
/// It does not use floating-point numbers, so that the result is exactly the number in the text.
pub fn parse_thousandths(text: &str, min: u64, max: u64) -> Result<u64, ParseError> {
    exact_thousandths(text).filter(|value| (min..=max).contains(value)).ok_or(ParseError::NotAllowed)
}

/// Returns the value of the name in a table that equals `text`, ignoring case.
pub(super) fn parse_choice<T: Copy>(text: &str, table: &[(&'static str, T)]) -> Result<T, ParseError> {
    table.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, value)| *value).ok_or_else(|| {
        ParseError::UnknownWord {
            word: text.to_owned(),
            suggestion: suggest(text, table.iter().map(|(name, _)| *name)),
        }
    })
}

/// Parses a list of toolsets separated by commas, or the word for all of them.
pub(super) fn parse_toolsets(text: &str) -> Result<BTreeSet<Toolset>, ParseError> {
    let mut chosen = BTreeSet::new();
    for word in text.split(',').map(str::trim) {
        if word == Toolset::ALL_NAME {
            chosen.extend(Toolset::ALL.iter().map(|(_, toolset)| *toolset));
            continue;
        }
        match Toolset::ALL.iter().find(|(name, _)| *name == word) {
            Some((_, toolset)) => chosen.insert(*toolset),
            None if word.is_empty() => return Err(ParseError::NotAllowed),
            None => {
                let names = Toolset::ALL.iter().map(|(name, _)| *name);
                return Err(ParseError::UnknownWord {
                    word: word.to_owned(),
                    suggestion: suggest(word, names.chain([Toolset::ALL_NAME])),
                });
            }
        };
    }
    Ok(chosen)
}

/// The maximum number of words of a command, and of names of a map.
const WORDS_MAX: usize = 1_000;

/// Parses a command: a JSON array of strings, or words separated by spaces. The first word is the program.
pub(super) fn parse_command(text: &str) -> Result<Vec<String>, ParseError> {
    let words: Vec<String> = if text.trim_start().starts_with('[') {
        serde_json::from_str(text).map_err(|_| ParseError::NotAllowed)?
    } else {
        text.split_whitespace().map(str::to_owned).collect()
    };
    let is_valid = words.len() <= WORDS_MAX && words.iter().all(|word| !word.contains('\0'));
    if is_valid && words.first().is_some_and(|program| !program.is_empty()) {
        Ok(words)
    } else {
        Err(ParseError::NotAllowed)
    }
}

/// Parses a JSON object of strings, whose names are valid names of environment variables.
pub(super) fn parse_pairs(text: &str) -> Result<BTreeMap<String, String>, ParseError> {
    let pairs: BTreeMap<String, String> = serde_json::from_str(text).map_err(|_| ParseError::NotAllowed)?;
    let is_name = |name: &String| !name.is_empty() && !name.contains(['=', '\0']);
    let is_valid = pairs.iter().all(|(name, text)| is_name(name) && !text.contains('\0'));
    if is_valid && pairs.len() <= WORDS_MAX { Ok(pairs) } else { Err(ParseError::NotAllowed) }
}

/// Parses a text that consists of decimal digits only.
fn parse_digits(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

/// Returns a number like `16`, `16.5` or `0.125` in thousandths. Zeros after the third decimal are accepted.
fn exact_thousandths(text: &str) -> Option<u64> {
    let (units, decimals) = match text.split_once('.') {
        Some((units, decimals)) => (units, Some(decimals)),
        None => (text, None),
    };
    let units = parse_digits(units)?.checked_mul(1000)?;
    let Some(decimals) = decimals else {
        return Some(units);
    };
    if decimals.is_empty() || !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let decimals = decimals.trim_end_matches('0');
    if decimals.len() > 3 {
        return None;
    }
    units.checked_add(parse_digits(&format!("{decimals:0<3}"))?)
}
