//! Reads a value from a string without copying the string first.

use serde::{Deserializer, de};
use std::fmt;

/// Reads a string and converts it with `read`.
pub(super) fn from_text<'de, D, T, E>(deserializer: D, read: impl FnOnce(&str) -> Result<T, E>) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    E: fmt::Display,
{
    deserializer.deserialize_str(TextVisitor(read))
}

struct TextVisitor<F>(F);

impl<T, E: fmt::Display, F: FnOnce(&str) -> Result<T, E>> de::Visitor<'_> for TextVisitor<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<R: de::Error>(self, text: &str) -> Result<T, R> {
        (self.0)(text).map_err(de::Error::custom)
    }
}
