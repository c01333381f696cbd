//! Reads the TOML file: from its bytes to the text of each value, in the order of the table.

use std::{collections::BTreeMap, fs::File, io::Read, path::Path};

use cortex_util::suggest::suggest;
use serde_json::Value;
use toml::de::{DeTable, DeValue};

use super::{
    ConfigError, SETTINGS, Setting, Source,
    error::{one_line, shorten},
    setting::Collection,
};

/// The largest file that is read, in bytes. A larger file, or an endless device, is a mistake.
const FILE_BYTES_MAX: u64 = 1_048_576;

/// The table whose keys may also be written at the top level with this prefix: `[worker] cpu` is `worker_cpu`.
const WORKER: &str = "worker";

/// The text for the parser of a setting, or a description of a type that the setting does not accept.
type FileValue = Result<String, &'static str>;

/// Reads the file at `path` and returns its values with their settings.
pub(super) fn read(path: &Path) -> Result<Vec<(&'static Setting, FileValue)>, ConfigError> {
    let source = || Source::File(path.to_path_buf());
    let bytes =
        read_bytes(path).map_err(|reason| ConfigError::UnreadableFile { file: source(), reason: one_line(&reason) })?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|error| ConfigError::invalid_file(source(), &bytes, error.valid_up_to(), "this is not UTF-8"))?;
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        ConfigError::invalid_file(source(), &bytes, at, error.message())
    })?;
    let table = table.into_inner();
    let mut values: BTreeMap<String, &DeValue<'_>> = BTreeMap::new();
    for (key, value) in &table {
        // `[worker]` is another way to write the keys that begin with its name.
        let written: Vec<(String, String, &DeValue<'_>)> = match value.get_ref() {
            DeValue::Table(inner) if key.get_ref() == WORKER => inner
                .iter()
                .map(|(inner, value)| {
                    (format!("{WORKER}.{}", inner.get_ref()), format!("{WORKER}_{}", inner.get_ref()), value.get_ref())
                })
                .collect(),
            value => vec![(key.get_ref().to_string(), key.get_ref().to_string(), value)],
        };
        for (shown, key, value) in written {
            if !SETTINGS.iter().any(|setting| setting.key == key) {
                return Err(unknown_key(&shown, source()));
            }
            if values.insert(key.clone(), value).is_some() {
                let reason = format!("{key} is set twice, at the top level and in [{WORKER}]");
                return Err(ConfigError::UnreadableFile { file: source(), reason });
            }
        }
    }
    let given = |setting: &'static Setting| Some((setting, text_of(values.get(setting.key)?, setting)));
    Ok(SETTINGS.iter().filter_map(given).collect())
}

/// Returns the bytes of the file, or the reason why it cannot be read.
fn read_bytes(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it is larger than {FILE_BYTES_MAX} bytes"));
    }
    Ok(bytes)
}

/// Returns the error for a key that is not in the table.
fn unknown_key(key: &str, file: Source) -> ConfigError {
    let hint = match suggest(key, SETTINGS.iter().map(|setting| setting.key)) {
        Some(known) => format!("did you mean {known}?"),
        None => "--print-config lists the known keys".to_owned(),
    };
    ConfigError::UnknownKey { key: shorten(key), file, hint }
}

/// Returns the text of a value. Numbers stay as they are written, so that an error shows what the file shows.
fn text_of(value: &DeValue<'_>, setting: &Setting) -> FileValue {
    match (value, setting.collection) {
        (DeValue::String(text), _) => Ok(text.to_string()),
        (DeValue::Integer(number), _) => Ok(decimal(number.as_str(), number.radix())),
        (DeValue::Float(number), _) => Ok(decimal(number.as_str(), 10)),
        (DeValue::Boolean(value), _) => Ok(value.to_string()),
        (DeValue::Datetime(_), _) => Err("a date or time"),
        (DeValue::Table(table), Collection::Pairs) => {
            let pairs = table.iter().map(|(name, text)| Some((name.get_ref().as_ref(), text.get_ref().as_str()?)));
            let pairs: Option<Value> = pairs.collect();
            pairs.map(|pairs| pairs.to_string()).ok_or("a table with values other than strings")
        }
        (DeValue::Table(_), _) => Err("a table"),
        (DeValue::Array(_), Collection::None | Collection::Pairs) => Err("an array"),
        (DeValue::Array(items), _) if items.is_empty() => Err("an empty array"),
        (DeValue::Array(items), collection) => {
            let words: Option<Vec<&str>> = items.iter().map(|item| item.get_ref().as_str()).collect();
            let words = words.ok_or("an array with values other than strings")?;
            Ok(if collection == Collection::Words { Value::from(words).to_string() } else { words.join(",") })
        }
    }
}

/// Converts a number to decimal digits. A number above 128 bits keeps its digits: it exceeds every bound anyway.
fn decimal(digits: &str, radix: u32) -> String {
    // TOML allows a plus sign; the other sources do not.
    let digits = digits.strip_prefix('+').unwrap_or(digits);
    if radix == 10 {
        return digits.to_owned();
    }
    u128::from_str_radix(digits, radix).map_or_else(|_| digits.to_owned(), |value| value.to_string())
}
