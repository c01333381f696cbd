//! The block `"cortex"` of an entry: the settings of this program, which MCP clients ignore.

use std::path::{Component, Path};
use std::time::Duration;

use serde_json::Value;

use super::entry::{EntryReader, present};
use super::error::{KeyPath, Problem, excerpt};
use cortex_core::provisioning::Sharing;
use cortex_core::units::MemoryMb;
use cortex_util::suggest::suggest;

const KEYS: [&str; 6] =
    ["sharing", "idle_seconds", "start_timeout_seconds", "max_calls_in_flight", "memory_mb", "roots"];

const SHARINGS: [(&str, Sharing); 2] = [("shared", Sharing::Shared), ("per_allocation", Sharing::PerAllocation)];

const IDLE_SECONDS: u64 = 600;
const IDLE_SECONDS_MAX: u64 = 86_400;

const START_TIMEOUT_SECONDS: u64 = 30;
const START_TIMEOUT_SECONDS_MAX: u64 = 600;

const CALLS_IN_FLIGHT: u64 = 64;
const CALLS_IN_FLIGHT_MAX: u64 = 10_000;

/// A typical server does not run with less.
const MEMORY_MB_MIN: u64 = 16;

/// 2^60 bytes, so that the limit in bytes fits 64 bits.
const MEMORY_MB_MAX: u64 = 1_099_511_627_776;

const ROOTS_MAX: usize = 100;

const FILE_URI: &str = "file://";

/// The settings of the block, with defaults for those that are absent.
pub(super) struct CortexBlock {
    pub(super) sharing: Sharing,
    pub(super) idle: Duration,
    pub(super) start_timeout: Duration,
    pub(super) calls_in_flight_max: usize,
    pub(super) memory: Option<MemoryMb>,
    pub(super) roots: Vec<String>,
}

impl CortexBlock {
    pub(super) fn read(
        reader: &mut EntryReader<'_>,
        key_path: &KeyPath,
        block: Option<&Value>,
    ) -> Result<Self, Problem> {
        let empty = Value::Object(serde_json::Map::new());
        let block = block.unwrap_or(&empty);
        let fields = block.as_object().ok_or_else(|| key_path.wrong_type(block, "an object"))?;
        if let Some(unknown) = fields.keys().find(|key| !KEYS.contains(&key.as_str())) {
            let meant = suggest(unknown, KEYS).map_or_else(
                || format!("the known keys are {}", KEYS.join(", ")),
                |meant| format!("did you mean {meant}?"),
            );
            return Err(key_path.key(unknown).problem(format!("is not a known key: {meant}")));
        }
        let number = |key: &str, least: u64, most: u64| {
            present(fields, key).map(|value| whole(&key_path.key(key), value, least, most)).transpose()
        };
        let seconds = |key, least, most, otherwise| {
            number(key, least, most).map(|seconds| Duration::from_secs(seconds.unwrap_or(otherwise)))
        };
        let calls = number("max_calls_in_flight", 1, CALLS_IN_FLIGHT_MAX)?.unwrap_or(CALLS_IN_FLIGHT);
        Ok(Self {
            sharing: present(fields, "sharing").map_or(Ok(Sharing::default()), |value| sharing(key_path, value))?,
            idle: seconds("idle_seconds", 0, IDLE_SECONDS_MAX, IDLE_SECONDS)?,
            start_timeout: seconds("start_timeout_seconds", 1, START_TIMEOUT_SECONDS_MAX, START_TIMEOUT_SECONDS)?,
            calls_in_flight_max: usize::try_from(calls).unwrap_or(usize::MAX),
            memory: number("memory_mb", MEMORY_MB_MIN, MEMORY_MB_MAX)?.map(MemoryMb),
            roots: present(fields, "roots")
                .map_or(Ok(Vec::new()), |value| roots(reader, &key_path.key("roots"), value))?,
        })
    }
}

fn whole(key_path: &KeyPath, value: &Value, least: u64, most: u64) -> Result<u64, Problem> {
    let allowed = format!("a whole number from {least} to {most}");
    match value {
        Value::Number(number) => number
            .as_u64()
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| key_path.problem(format!("is {number}: give {allowed}"))),
        _ => Err(key_path.wrong_type(value, &allowed)),
    }
}

fn sharing(block: &KeyPath, value: &Value) -> Result<Sharing, Problem> {
    let key_path = block.key("sharing");
    let allowed = "shared or per_allocation";
    let text = value.as_str().ok_or_else(|| key_path.wrong_type(value, allowed))?;
    let known = SHARINGS.iter().find(|(name, _)| *name == text);
    known
        .map(|(_, sharing)| *sharing)
        .ok_or_else(|| key_path.problem(format!("is \"{}\": give {allowed}", excerpt(text))))
}

fn roots(reader: &mut EntryReader<'_>, key_path: &KeyPath, value: &Value) -> Result<Vec<String>, Problem> {
    let roots = value.as_array().ok_or_else(|| key_path.wrong_type(value, "an array of absolute paths"))?;
    if roots.len() > ROOTS_MAX {
        return Err(key_path.problem(format!("has {} elements: give at most {ROOTS_MAX}", roots.len())));
    }
    let uris = roots.iter().enumerate().map(|(index, root)| {
        let key_path = key_path.index(index);
        let root = reader.text(&key_path, root)?;
        if root.strip_prefix(FILE_URI).is_some_and(|path| path.starts_with('/')) {
            return Ok(root);
        }
        file_uri(&root)
            .ok_or_else(|| key_path.problem("is not a root: give an absolute path, or a URI that begins with file:///"))
    });
    uris.collect()
}

/// Returns the `file://` URI of an absolute path; none for other paths.
fn file_uri(path: &str) -> Option<String> {
    let is_plain = |component: Component<'_>| !matches!(component, Component::ParentDir);
    if !Path::new(path).is_absolute() || !Path::new(path).components().all(is_plain) {
        return None;
    }
    let mut uri = FILE_URI.to_owned();
    // A Windows path begins with a drive.
    if !path.starts_with('/') {
        uri.push('/');
    }
    for byte in path.bytes() {
        match byte {
            b'\\' if cfg!(windows) => uri.push('/'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => uri.push(char::from(byte)),
            b':' if cfg!(windows) => uri.push(':'),
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    Some(uri)
}
