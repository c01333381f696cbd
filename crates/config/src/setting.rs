//! A setting: its names, and the types of values with their conversion between text and value.

use super::parse::{ParseError, parse_command, parse_pairs, parse_thousandths, parse_toolsets, parse_whole};
use super::{Settings, Toolset};
use cortex_core::units::{CpuMillis, MemoryMb};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use toml::Value;

/// A row of the table of settings.
#[derive(Debug)]
pub struct Setting {
    /// The key in the TOML file, and the name in errors. [`flag_of`](super::flag_of) and
    /// [`variable_of`](super::variable_of) return its other names.
    pub key: &'static str,
    /// The placeholder of the value in the help page.
    pub placeholder: &'static str,
    /// The description, in one line without a full stop.
    pub help: &'static str,
    /// The key of the setting whose value is the default of this one, if there is one.
    pub(super) follows: Option<&'static str>,
    /// The bounds of a number.
    pub(super) range: RangeInclusive<u64>,
    /// Follows the bounds and explains where they come from.
    pub(super) note: &'static str,
    /// The collection that the value may be in the file.
    pub(super) collection: Collection,
    pub(super) allowed: fn(&RangeInclusive<u64>) -> String,
    pub(super) parse: fn(&mut Settings, &str, &RangeInclusive<u64>) -> Result<(), ParseError>,
    pub(super) show: fn(&Settings) -> Option<Value>,
}

/// Declares [`Settings`] with its defaults, and the table of settings, from the rows of the table.
macro_rules! settings {
    (@or $default:expr,) => { $default };
    (@or $default:expr, $given:expr) => { $given };
    ($(
        #[doc = $help:literal]
        $key:ident: $type:ty = $default:expr, $placeholder:literal
            $(in $range:expr)? $(, follows $other:ident)? $(, note $note:expr)?;
    )*) => {
        /// Every setting of the server, typed and within its bounds.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Settings {
            $(#[doc = $help] pub $key: $type,)*
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        }

        /// Every setting, in the order of the help page.
        pub const SETTINGS: &[Setting] = &[$(
            Setting {
                key: stringify!($key),
                placeholder: $placeholder,
                help: $help.trim_ascii_start(),
                follows: settings!(@or None, $(Some(stringify!($other)))?),
                range: settings!(@or 0..=0, $($range)?),
                note: settings!(@or "", $($note)?),
                collection: <$type as SettingValue>::COLLECTION,
                allowed: <$type as SettingValue>::allowed,
                parse: |settings, text, range| {
                    settings.$key = <$type as SettingValue>::parse(text, range)?;
                    Ok(())
                },
                show: |settings| settings.$key.show(),
            },
        )*];
    };
}
pub(super) use settings;

/// The collection that a value may be in the file. The parser takes one text, whatever the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Collection {
    /// A value is no collection.
    None,
    /// An array of names, which becomes a list with commas.
    Names,
    /// An array of words with any characters, which becomes JSON.
    Words,
    /// A table of strings, which becomes JSON.
    Pairs,
}

/// The type of a setting's value. Only numbers use the range.
pub(super) trait SettingValue: Sized {
    const COLLECTION: Collection = Collection::None;

    /// Describes the allowed values, as the text after "give" in an error.
    fn allowed(range: &RangeInclusive<u64>) -> String;

    fn parse(text: &str, range: &RangeInclusive<u64>) -> Result<Self, ParseError>;

    /// Returns the value as TOML that parses to the same value; `None` if there is none.
    fn show(&self) -> Option<Value>;
}

impl Setting {
    /// Describes the allowed values, as the text after "give" in an error.
    pub fn allowed(&self) -> String {
        format!("{}{}", (self.allowed)(&self.range), self.note)
    }

    /// Parses a text into its field.
    ///
    /// # Errors
    /// The text is not allowed; the field is unchanged then.
    pub(super) fn parse(&self, settings: &mut Settings, text: &str) -> Result<(), ParseError> {
        (self.parse)(settings, text, &self.range)
    }

    /// Returns the value of its field as TOML that parses to the same value; `None` if it has none.
    pub(super) fn show(&self, settings: &Settings) -> Option<Value> {
        (self.show)(settings)
    }

    /// Returns the default as the help page shows it.
    pub fn default_text(&self) -> String {
        if let Some(other) = self.follows {
            return other.to_owned();
        }
        match self.show(&Settings::default()) {
            Some(Value::String(text)) => text,
            Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
            Some(other) => other.to_string(),
            None => "none".to_owned(),
        }
    }
}

macro_rules! whole_numbers {
    ($($type:ty),*) => {$(
        impl SettingValue for $type {
            fn allowed(range: &RangeInclusive<u64>) -> String {
                format!("{} to {}", range.start(), range.end())
            }

            fn parse(text: &str, range: &RangeInclusive<u64>) -> Result<Self, ParseError> {
                Self::try_from(parse_whole(text, *range.start(), *range.end())?).map_err(|_| ParseError::NotAllowed)
            }

            fn show(&self) -> Option<Value> {
                // Every bound is below 2^63.
                i64::try_from(*self).ok().map(Value::Integer)
            }
        }
    )*};
}
whole_numbers!(u32, u64, usize);

impl SettingValue for MemoryMb {
    fn allowed(range: &RangeInclusive<u64>) -> String {
        u64::allowed(range)
    }

    fn parse(text: &str, range: &RangeInclusive<u64>) -> Result<Self, ParseError> {
        u64::parse(text, range).map(Self)
    }

    fn show(&self) -> Option<Value> {
        self.0.show()
    }
}

/// CPU in cores; the bounds are in thousandths of a core.
impl SettingValue for CpuMillis {
    fn allowed(range: &RangeInclusive<u64>) -> String {
        let [min, max] = [range.start(), range.end()].map(|millis| Self::from_millis(*millis).as_cores());
        format!("{min} to {max} cores, with at most 3 decimals")
    }

    fn parse(text: &str, range: &RangeInclusive<u64>) -> Result<Self, ParseError> {
        parse_thousandths(text, *range.start(), *range.end()).map(Self::from_millis)
    }

    fn show(&self) -> Option<Value> {
        Some(Value::Float(self.as_cores()))
    }
}

impl SettingValue for BTreeSet<Toolset> {
    const COLLECTION: Collection = Collection::Names;

    fn allowed(_: &RangeInclusive<u64>) -> String {
        format!("{}, separated by commas, or {}", alternatives(Toolset::ALL), Toolset::ALL_NAME)
    }

    fn parse(text: &str, _: &RangeInclusive<u64>) -> Result<Self, ParseError> {
        parse_toolsets(text)
    }

    fn show(&self) -> Option<Value> {
        Some(Value::Array(self.iter().map(|toolset| toolset.name().into()).collect()))
    }
}

/// A command, a program and its arguments; empty for none.
impl SettingValue for Vec<String> {
    const COLLECTION: Collection = Collection::Words;

    fn allowed(_: &RangeInclusive<u64>) -> String {
        "words separated by spaces, or a JSON array of strings".to_owned()
    }

    fn parse(text: &str, _: &RangeInclusive<u64>) -> Result<Self, ParseError> {
        parse_command(text)
    }

    fn show(&self) -> Option<Value> {
        (!self.is_empty()).then(|| Value::from(self.clone()))
    }
}

impl SettingValue for BTreeMap<String, String> {
    const COLLECTION: Collection = Collection::Pairs;

    fn allowed(_: &RangeInclusive<u64>) -> String {
        "a JSON object whose values are strings".to_owned()
    }

    fn parse(text: &str, _: &RangeInclusive<u64>) -> Result<Self, ParseError> {
        parse_pairs(text)
    }

    fn show(&self) -> Option<Value> {
        (!self.is_empty()).then(|| Value::from(self.clone()))
    }
}

impl SettingValue for Option<PathBuf> {
    fn allowed(_: &RangeInclusive<u64>) -> String {
        "the path of a file".to_owned()
    }

    fn parse(text: &str, _: &RangeInclusive<u64>) -> Result<Self, ParseError> {
        if text.is_empty() { Err(ParseError::NotAllowed) } else { Ok(Some(PathBuf::from(text))) }
    }

    fn show(&self) -> Option<Value> {
        self.as_ref().map(|path| Value::from(path.to_string_lossy().into_owned()))
    }
}

/// Formats the names of choices as alternatives: `a, b or c`.
pub(super) fn alternatives<T>(choices: &[(&str, T)]) -> String {
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => names.concat(),
    }
}
