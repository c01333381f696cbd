//! From the text of a value to the value.
//!
//! Nothing here trims or guesses: what a person typed is either a value or a mistake that is worth a line.

use std::collections::{BTreeMap, BTreeSet};

use super::Toolset;
use cortex_util::suggest::suggest;

/// Why a parser did not take a text. What is allowed stands in the table of settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Not one of the values that are allowed.
    NotAllowed,
    /// A word that is not known, and the nearest one that is.
    UnknownWord {
        /// The word as given.
        word: String,
        /// The known word that resembles it.
        nearest: Option<&'static str>,
    },
}

/// A whole number in decimal digits, from `least` to `most`.
pub fn whole(text: &str, least: u64, most: u64) -> Result<u64, Refusal> {
    digits(text).filter(|value| (least..=most).contains(value)).ok_or(Refusal::NotAllowed)
}

/// A decimal number with at most three decimals, from `least` to `most`, in thousandths.
///
/// It never passes through a floating-point number, so that the books get exactly what was typed.
pub fn thousandths(text: &str, least: u64, most: u64) -> Result<u64, Refusal> {
    exact_thousandths(text).filter(|value| (least..=most).contains(value)).ok_or(Refusal::NotAllowed)
}

/// The word of a table that equals `text` in any case.
pub(super) fn choice<T: Copy>(text: &str, table: &[(&'static str, T)]) -> Result<T, Refusal> {
    table.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, value)| *value).ok_or_else(|| {
        Refusal::UnknownWord { word: text.to_owned(), nearest: suggest(text, table.iter().map(|(name, _)| *name)) }
    })
}

/// A list of toolsets with commas between them, or the word for all of them.
pub(super) fn toolsets(text: &str) -> Result<BTreeSet<Toolset>, Refusal> {
    let mut chosen = BTreeSet::new();
    for word in text.split(',').map(str::trim) {
        if word == Toolset::ALL_NAME {
            chosen.extend(Toolset::ALL.iter().map(|(_, toolset)| *toolset));
            continue;
        }
        match Toolset::ALL.iter().find(|(name, _)| *name == word) {
            Some((_, toolset)) => chosen.insert(*toolset),
            None if word.is_empty() => return Err(Refusal::NotAllowed),
            None => {
                let names = Toolset::ALL.iter().map(|(name, _)| *name);
                return Err(Refusal::UnknownWord {
                    word: word.to_owned(),
                    nearest: suggest(word, names.chain([Toolset::ALL_NAME])),
                });
            }
        };
    }
    Ok(chosen)
}

/// The most words of a command, and the most names of a map.
const WORDS_MAX: usize = 1_000;

/// A command: a JSON array of texts, or words with blanks between them. Its first word is a program.
pub(super) fn command(text: &str) -> Result<Vec<String>, Refusal> {
    let words: Vec<String> = if text.trim_start().starts_with('[') {
        serde_json::from_str(text).map_err(|_| Refusal::NotAllowed)?
    } else {
        text.split_whitespace().map(str::to_owned).collect()
    };
    let is_sound = words.len() <= WORDS_MAX && words.iter().all(|word| !word.contains('\0'));
    if is_sound && words.first().is_some_and(|program| !program.is_empty()) {
        Ok(words)
    } else {
        Err(Refusal::NotAllowed)
    }
}

/// A JSON object of texts, whose names can be those of variables.
pub(super) fn pairs(text: &str) -> Result<BTreeMap<String, String>, Refusal> {
    let pairs: BTreeMap<String, String> = serde_json::from_str(text).map_err(|_| Refusal::NotAllowed)?;
    let is_name = |name: &String| !name.is_empty() && !name.contains(['=', '\0']);
    let is_sound = pairs.iter().all(|(name, text)| is_name(name) && !text.contains('\0'));
    if is_sound && pairs.len() <= WORDS_MAX { Ok(pairs) } else { Err(Refusal::NotAllowed) }
}

/// The number that a text of nothing but decimal digits stands for.
fn digits(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

/// A thousandfold of a number like `16`, `16.5` or `0.125`. Zeros behind the third decimal change nothing and are taken.
fn exact_thousandths(text: &str) -> Option<u64> {
    let (units, decimals) = match text.split_once('.') {
        Some((units, decimals)) => (units, Some(decimals)),
        None => (text, None),
    };
    let units = digits(units)?.checked_mul(1000)?;
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
    units.checked_add(digits(&format!("{decimals:0<3}"))?)
}
