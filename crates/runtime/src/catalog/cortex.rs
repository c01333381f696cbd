//! The block `"cortex"` of an entry: what clients do not know of, and the manager does.

use std::path::{Component, Path};
use std::time::Duration;

use serde_json::Value;

use super::entry::{Reader, given};
use super::error::{Place, Problem, shown};
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

/// No program of use runs in less.
const MEMORY_MB_MIN: u64 = 16;

/// The most memory that can be counted: 2^60 bytes.
const MEMORY_MB_MAX: u64 = 1_099_511_627_776;

const ROOTS_MAX: usize = 100;

const FILE_URI: &str = "file://";

/// The block, with what was left out filled in.
pub(super) struct Cortex {
    pub(super) sharing: Sharing,
    pub(super) idle: Duration,
    pub(super) start_timeout: Duration,
    pub(super) calls_in_flight_max: usize,
    pub(super) memory: Option<MemoryMb>,
    pub(super) roots: Vec<String>,
}

impl Cortex {
    pub(super) fn read(reader: &mut Reader<'_>, place: &Place, block: Option<&Value>) -> Result<Self, Problem> {
        let empty = Value::Object(serde_json::Map::new());
        let block = block.unwrap_or(&empty);
        let fields = block.as_object().ok_or_else(|| place.wrong_type(block, "an object"))?;
        if let Some(unknown) = fields.keys().find(|key| !KEYS.contains(&key.as_str())) {
            let meant = suggest(unknown, KEYS).map_or_else(
                || format!("the known ones are {}", KEYS.join(", ")),
                |meant| format!("did you mean {meant}?"),
            );
            return Err(place.key(unknown).problem(format!("is not known: {meant}")));
        }
        let number = |key: &str, least: u64, most: u64| {
            given(fields, key).map(|value| whole(&place.key(key), value, least, most)).transpose()
        };
        let seconds = |key, least, most, otherwise| {
            number(key, least, most).map(|seconds| Duration::from_secs(seconds.unwrap_or(otherwise)))
        };
        let calls = number("max_calls_in_flight", 1, CALLS_IN_FLIGHT_MAX)?.unwrap_or(CALLS_IN_FLIGHT);
        Ok(Self {
            sharing: given(fields, "sharing").map_or(Ok(Sharing::default()), |value| sharing(place, value))?,
            idle: seconds("idle_seconds", 0, IDLE_SECONDS_MAX, IDLE_SECONDS)?,
            start_timeout: seconds("start_timeout_seconds", 1, START_TIMEOUT_SECONDS_MAX, START_TIMEOUT_SECONDS)?,
            calls_in_flight_max: usize::try_from(calls).unwrap_or(usize::MAX),
            memory: number("memory_mb", MEMORY_MB_MIN, MEMORY_MB_MAX)?.map(MemoryMb),
            roots: given(fields, "roots").map_or(Ok(Vec::new()), |value| roots(reader, &place.key("roots"), value))?,
        })
    }
}

fn whole(place: &Place, value: &Value, least: u64, most: u64) -> Result<u64, Problem> {
    let allowed = format!("a whole number from {least} to {most}");
    match value {
        Value::Number(number) => number
            .as_u64()
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| place.problem(format!("is {number}: give {allowed}"))),
        _ => Err(place.wrong_type(value, &allowed)),
    }
}

fn sharing(block: &Place, value: &Value) -> Result<Sharing, Problem> {
    let place = block.key("sharing");
    let allowed = "shared or per_allocation";
    let text = value.as_str().ok_or_else(|| place.wrong_type(value, allowed))?;
    let known = SHARINGS.iter().find(|(name, _)| *name == text);
    known.map(|(_, sharing)| *sharing).ok_or_else(|| place.problem(format!("is \"{}\": give {allowed}", shown(text))))
}

fn roots(reader: &mut Reader<'_>, place: &Place, value: &Value) -> Result<Vec<String>, Problem> {
    let roots = value.as_array().ok_or_else(|| place.wrong_type(value, "an array of absolute paths"))?;
    if roots.len() > ROOTS_MAX {
        return Err(place.problem(format!("has {} elements: give at most {ROOTS_MAX}", roots.len())));
    }
    let uris = roots.iter().enumerate().map(|(index, root)| {
        let place = place.index(index);
        let root = reader.text(&place, root)?;
        if root.strip_prefix(FILE_URI).is_some_and(|path| path.starts_with('/')) {
            return Ok(root);
        }
        file_uri(&root)
            .ok_or_else(|| place.problem("is no root: give an absolute path, or a URI that begins with file:///"))
    });
    uris.collect()
}

/// The URI of an absolute path.
fn file_uri(path: &str) -> Option<String> {
    let is_plain = |component: Component<'_>| !matches!(component, Component::ParentDir);
    if !Path::new(path).is_absolute() || !Path::new(path).components().all(is_plain) {
        return None;
    }
    let mut uri = FILE_URI.to_owned();
    // A path of Windows begins with a drive.
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
