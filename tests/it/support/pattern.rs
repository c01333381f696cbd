//! Comparison of an answer with the expected one, with placeholders for the parts that differ between runs.

use serde_json::Value;

/// Any allocation id: `alloc-` and 12 hex digits.
pub(crate) const ID: &str = "<id>";

/// Any timestamp: RFC 3339 in UTC with a `Z`.
pub(crate) const TIME: &str = "<time>";

/// Any non-negative integer.
pub(crate) const COUNT: &str = "<count>";

/// Checks that `actual` contains all of `expected`. Objects may have more keys, since keys may be added to an answer;
/// lists must have the same length; numbers must have the same type, so 4 is not 4.0.
pub(crate) fn check(actual: &Value, expected: &Value) {
    if let Err(difference) = compare("", actual, expected) {
        panic!("{difference}\nactual: {actual:#}\nexpected: {expected:#}");
    }
}

fn compare(place: &str, actual: &Value, expected: &Value) -> Result<(), String> {
    match (actual, expected) {
        (Value::Object(actual), Value::Object(expected)) => {
            for (key, expected) in expected {
                let place = format!("{place}/{key}");
                let actual = actual.get(key).ok_or_else(|| format!("{place} is missing"))?;
                compare(&place, actual, expected)?;
            }
            Ok(())
        }
        (Value::Array(actual), Value::Array(expected)) => {
            if actual.len() != expected.len() {
                return Err(format!("{place} has {} items and not {}", actual.len(), expected.len()));
            }
            let mut pairs = actual.iter().zip(expected).enumerate();
            pairs.try_for_each(|(index, (actual, expected))| compare(&format!("{place}/{index}"), actual, expected))
        }
        (_, Value::String(placeholder)) if placeholder == COUNT => {
            actual.as_u64().map(drop).ok_or_else(|| format!("{place} is {actual} and no whole number"))
        }
        (Value::String(actual), Value::String(placeholder)) if placeholder == ID => {
            is_id(actual).then_some(()).ok_or_else(|| format!("{place} is {actual:?} and no allocation id"))
        }
        (Value::String(actual), Value::String(placeholder)) if placeholder == TIME => {
            is_time(actual).then_some(()).ok_or_else(|| format!("{place} is {actual:?} and no time in UTC"))
        }
        _ if actual == expected => Ok(()),
        _ => Err(format!("{place} is {actual} and not {expected}")),
    }
}

/// Returns whether the text is an allocation id.
pub(crate) fn is_id(text: &str) -> bool {
    let is_hex_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    text.strip_prefix("alloc-").is_some_and(|digits| digits.len() == 12 && digits.bytes().all(is_hex_digit))
}

/// Returns whether the text is a timestamp in UTC with a `Z`.
pub(crate) fn is_time(text: &str) -> bool {
    text.ends_with('Z') && chrono::DateTime::parse_from_rfc3339(text).is_ok()
}

/// Replaces ids and times in an answer with the placeholders, to compare it with a recorded one. It also replaces ages
/// in seconds, which depend on the speed of the machine.
pub(crate) fn redact(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                if key == "age_seconds" || key == "duration_seconds" {
                    *member = COUNT.into();
                } else {
                    redact(member);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::String(text) if is_id(text) => *value = ID.into(),
        Value::String(text) if is_time(text) => *value = TIME.into(),
        _ => {}
    }
}
