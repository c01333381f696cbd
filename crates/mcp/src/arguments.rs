//! Arguments of tools. One statement of what an argument may be gives its input schema and reads its value, so that
//! what an error allows is what the schema shows.

use super::results::priority_of_task;
use cortex_core::allocation::Metadata;
use cortex_core::command::DistinctServers;
use cortex_core::fleet::agent::Capabilities;
use cortex_core::fleet::task::{Complexity, JsonText};
use cortex_core::ids::{AgentId, AllocationId, Capability, InvalidName, NAME_CHARACTERS_MAX, ServerName, TaskId};
use cortex_core::priority::Priority;
use cortex_core::time::Timestamp;
use cortex_util::suggest::suggest;
use rmcp::model::JsonObject;
use serde_json::{Value, json};
use std::ops::RangeInclusive;
use std::sync::Arc;
use thiserror::Error;

/// The most MCP servers that one request may name.
pub(super) const SERVERS_PER_REQUEST_MAX: usize = 64;

/// The most capabilities that one agent may have, or one task need.
pub(super) const CAPABILITIES_MAX: usize = 64;

/// The most bytes of metadata, as JSON text.
pub(super) const METADATA_BYTES_MAX: usize = 16 * 1024;

/// The deepest nesting of metadata. JSON readers fail beyond about a hundred levels, and what is written with an event
/// must stay readable.
pub(super) const METADATA_DEPTH_MAX: usize = 32;

/// The most tokens of an estimate or a report: far more than any budget, and far less than a sum can hold.
pub(super) const TOKENS_MAX: u64 = 1_000_000_000_000;

/// The most bytes of the payload or output of a task, as JSON text.
pub(super) const JSON_BYTES_MAX: usize = 64 * 1024;

/// The deepest nesting of a payload or output, for the same reason as metadata.
pub(super) const JSON_DEPTH_MAX: usize = METADATA_DEPTH_MAX;

/// The most last lines of a process that a tool returns: as many as are kept.
pub(super) const LAST_LINES_MAX: u64 = 200;

/// The most characters of a worker's id, which contains the name of its job.
const WORKER_ID_CHARACTERS_MAX: usize = NAME_CHARACTERS_MAX + 32;

/// The most characters of a value that an error repeats.
const VALUE_CHARACTERS_SHOWN_MAX: usize = 60;

/// Why the arguments of a call are refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum ArgumentError {
    #[error("{name} is missing: give {allowed}")]
    Missing { name: &'static str, allowed: String },
    #[error("{name} is {value}: give {allowed}")]
    NotAllowed { name: &'static str, value: String, allowed: String },
    #[error("unknown argument {name}: {advice}")]
    Unknown { name: String, advice: String },
    #[error("{0}")]
    Combination(String),
}

/// A text that is not the id of any allocation.
#[derive(Debug)]
pub(super) struct UnknownAllocation(pub(super) String);

/// One argument: its name, schema and reader.
pub(super) struct Parameter<T> {
    name: &'static str,
    is_required: bool,
    /// Completes "give …".
    allowed: String,
    schema: Value,
    read: ReadValue<T>,
}

type ReadValue<T> = Box<dyn Fn(&Value) -> Option<T> + Send + Sync>;

impl<T: 'static> Parameter<T> {
    fn new(
        name: &'static str,
        description: &str,
        allowed: String,
        mut schema: Value,
        read: impl Fn(&Value) -> Option<T> + Send + Sync + 'static,
    ) -> Self {
        // An argument whose name says it all has no description: a model pays for each word of the schema.
        if !description.is_empty() {
            schema["description"] = Value::from(description);
        }
        Self { name, is_required: false, allowed, schema, read: Box::new(read) }
    }

    /// Makes a call without this argument an error.
    pub(super) fn required(mut self) -> Self {
        self.is_required = true;
        self
    }

    /// Shows in the schema the value that an absent argument stands for.
    pub(super) fn with_default(mut self, value: impl Into<Value>) -> Self {
        self.schema["default"] = value.into();
        self
    }
}

/// A name that the client chooses: 1 to 256 characters without control characters.
pub(super) fn name<T: 'static>(
    name: &'static str,
    description: &str,
    read: fn(&str) -> Result<T, InvalidName>,
) -> Parameter<T> {
    let allowed = format!("a text of 1 to {NAME_CHARACTERS_MAX} characters without control characters");
    let schema = json!({"type": "string", "minLength": 1, "maxLength": NAME_CHARACTERS_MAX});
    Parameter::new(name, description, allowed, schema, move |value| read(value.as_str()?).ok())
}

/// The id of the allocation that a call is about.
pub(super) fn allocation_id() -> Parameter<Result<AllocationId, UnknownAllocation>> {
    allocation_id_for("From request_resources, e.g. alloc-0123456789ab.").required()
}

/// The id of an allocation. A text that is not an allocation's id is accepted as `Err`, and answered as not found.
pub(super) fn allocation_id_for(description: &str) -> Parameter<Result<AllocationId, UnknownAllocation>> {
    let read = |text: &str| match cortex_core::ids::JobId::new(text) {
        Ok(_) => Ok(text.parse().map_err(|_| UnknownAllocation(text.to_owned()))),
        Err(error) => Err(error),
    };
    name("allocation_id", description, read)
}

/// The name of the MCP server that a call is about.
pub(super) fn server_name() -> Parameter<ServerName> {
    name("name", "As in list_mcp_servers.", ServerName::new).required()
}

/// How many last lines of a process to return.
pub(super) fn last_lines() -> Parameter<u64> {
    integer("last_lines", "", 0..=LAST_LINES_MAX).with_default(20)
}

/// The id of the worker that a call is about.
pub(super) fn worker_id() -> Parameter<String> {
    let description = "From list_workers.";
    let allowed = format!("a text of 1 to {WORKER_ID_CHARACTERS_MAX} characters without control characters");
    let schema = json!({"type": "string", "minLength": 1, "maxLength": WORKER_ID_CHARACTERS_MAX});
    let read = |value: &Value| value.as_str().filter(|text| is_worker_id(text)).map(str::to_owned);
    Parameter::new("worker_id", description, allowed, schema, read).required()
}

/// Whether a text can be the id of a worker.
pub(super) fn is_worker_id(text: &str) -> bool {
    !text.is_empty() && text.chars().nth(WORKER_ID_CHARACTERS_MAX).is_none() && !text.chars().any(char::is_control)
}

/// The id of the agent that a call is about.
pub(super) fn agent_id() -> Parameter<AgentId> {
    name("agent_id", "As in register_agent.", AgentId::new).required()
}

/// A whole number.
pub(super) fn integer(name: &'static str, description: &str, range: RangeInclusive<u64>) -> Parameter<u64> {
    let allowed = format!("a whole number from {} to {}", range.start(), range.end());
    let schema = json!({"type": "integer", "minimum": range.start(), "maximum": range.end()});
    Parameter::new(name, description, allowed, schema, move |value| {
        read_whole_number(value).filter(|number| range.contains(number))
    })
}

/// Reads a whole number. JSON has one kind of number, so `4.0` is one too.
fn read_whole_number(value: &Value) -> Option<u64> {
    const EXACT_UP_TO: f64 = 9_007_199_254_740_992.0;
    value.as_u64().or_else(|| {
        let number = value.as_f64().filter(|n| n.fract() == 0.0 && (0.0..EXACT_UP_TO).contains(n))?;
        format!("{:.0}", number.abs()).parse().ok()
    })
}

/// One of a few words, in any case.
pub(super) fn choice<T: 'static>(
    name: &'static str,
    description: &str,
    words: &[&'static str],
    read: impl Fn(&str) -> Option<T> + Send + Sync + 'static,
) -> Parameter<T> {
    let (last, others) = words.split_last().map_or(("", [].as_slice()), |(last, others)| (*last, others));
    let allowed = format!("{} or {last}", others.join(", "));
    let schema = json!({"type": "string", "enum": words});
    Parameter::new(name, description, allowed, schema, move |value| read(value.as_str()?))
}

/// The priority of a job.
pub(super) fn priority() -> Parameter<Priority> {
    let description = "Recorded only; grants ignore it.";
    let words = Priority::ALL.map(Priority::as_str);
    choice("priority", description, &words, |text| text.parse().ok()).with_default(Priority::default().as_str())
}

/// Names of MCP servers.
pub(super) fn servers(name: &'static str, description: &str) -> Parameter<DistinctServers> {
    names(name, description, SERVERS_PER_REQUEST_MAX, ServerName::new, DistinctServers::new)
}

/// The capabilities that an agent has, or a task needs.
pub(super) fn capabilities(description: &str) -> Parameter<Capabilities> {
    names("capabilities", description, CAPABILITIES_MAX, Capability::new, Capabilities::new)
}

/// A list of names.
fn names<N: 'static, T: 'static>(
    name: &'static str,
    description: &str,
    count_max: usize,
    read: fn(&str) -> Result<N, InvalidName>,
    collect: fn(Vec<N>) -> T,
) -> Parameter<T> {
    let allowed = format!(
        "a list of 0 to {count_max} names, each a text of 1 to {NAME_CHARACTERS_MAX} characters without control \
         characters"
    );
    let item = json!({"type": "string", "minLength": 1, "maxLength": NAME_CHARACTERS_MAX});
    let schema = json!({"type": "array", "items": item, "maxItems": count_max});
    Parameter::new(name, description, allowed, schema, move |value| {
        let items = value.as_array().filter(|items| items.len() <= count_max)?;
        let names: Option<Vec<N>> = items.iter().map(|item| read(item.as_str()?).ok()).collect();
        names.map(collect)
    })
}

/// A boolean, `false` by default.
pub(super) fn flag(name: &'static str, description: &str) -> Parameter<bool> {
    let schema = json!({"type": "boolean"});
    Parameter::new(name, description, "true or false".to_owned(), schema, Value::as_bool).with_default(false)
}

/// The client's own notes, kept unchanged.
pub(super) fn metadata(description: &str) -> Parameter<Metadata> {
    let allowed =
        format!("a JSON object of at most {METADATA_BYTES_MAX} bytes, nested at most {METADATA_DEPTH_MAX} levels deep");
    let schema = json!({"type": "object", "additionalProperties": true});
    Parameter::new("metadata", description, allowed, schema, |value| {
        if !is_within_depth(value, METADATA_DEPTH_MAX) {
            return None;
        }
        let metadata = Metadata::new(value.as_object()?);
        (metadata.as_json().len() <= METADATA_BYTES_MAX).then_some(metadata)
    })
}

fn is_within_depth(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels > 0 && items.iter().all(|item| is_within_depth(item, levels - 1)),
        Value::Object(object) => levels > 0 && object.values().all(|item| is_within_depth(item, levels - 1)),
        _ => true,
    }
}

/// A text that `read` parses.
pub(super) fn text<T: 'static>(
    name: &'static str,
    description: &str,
    allowed: &str,
    read: impl Fn(&str) -> Option<T> + Send + Sync + 'static,
) -> Parameter<T> {
    Parameter::new(name, description, allowed.to_owned(), json!({"type": "string"}), move |value| read(value.as_str()?))
}

/// The priority of a task, in the spelling of tasks or of allocations.
pub(super) fn task_priority(description: &str) -> Parameter<Priority> {
    let mut words = Priority::ALL.map(priority_of_task);
    words.reverse();
    choice("priority", description, &words, |text| text.parse().ok())
}

/// The id of a task.
pub(super) fn task_id(description: &str) -> Parameter<TaskId> {
    name("task_id", description, TaskId::new)
}

pub(super) fn complexity(description: &str) -> Parameter<Complexity> {
    let words = Complexity::ALL.map(Complexity::as_str);
    let read = |text: &str| Complexity::ALL.into_iter().find(|one| text.eq_ignore_ascii_case(one.as_str()));
    choice("complexity", description, &words, read)
}

/// The most entries of a page of a list.
pub(super) fn page_limit(default: u64, most: u64) -> Parameter<u64> {
    integer("limit", "", 1..=most).with_default(default)
}

/// The position at which a list continues: a text of an earlier page, which `read` parses.
pub(super) fn cursor<T: 'static>(read: fn(&str) -> Option<T>) -> Parameter<T> {
    text("cursor", "next_cursor of the previous page.", "the next_cursor of an earlier result, unchanged", read)
}

/// The length of a text, in characters. The text itself is not kept.
pub(super) fn text_length(name: &'static str, description: &str) -> Parameter<u64> {
    text(name, description, "a text", |text| Some(text.chars().count() as u64))
}

/// A text of at most `characters_max` characters of any kind: error texts often have several lines.
pub(super) fn bounded_text(name: &'static str, description: &str, characters_max: usize) -> Parameter<Arc<str>> {
    let allowed = format!("a text of at most {characters_max} characters");
    let schema = json!({"type": "string", "maxLength": characters_max});
    Parameter::new(name, description, allowed, schema, move |value| {
        let text = value.as_str()?;
        text.chars().nth(characters_max).is_none().then(|| Arc::from(text))
    })
}

/// A point in time.
pub(super) fn timestamp(name: &'static str, description: &str) -> Parameter<Timestamp> {
    text(name, description, "an RFC 3339 time with its offset, such as 2030-01-31T18:00:00Z", |text| {
        let timestamp: Timestamp = text.parse().ok()?;
        // With an offset, the end of the year 9999 can lie in a year of UTC that RFC 3339 cannot spell.
        (timestamp.to_string().parse() == Ok(timestamp)).then_some(timestamp)
    })
}

/// Any JSON value.
pub(super) fn any_json(name: &'static str, description: &str) -> Parameter<JsonText> {
    let allowed = format!(
        "a JSON value of at most {JSON_BYTES_MAX} bytes as JSON text, nested at most {JSON_DEPTH_MAX} levels deep"
    );
    Parameter::new(name, description, allowed, json!({}), |value| {
        if !is_within_depth(value, JSON_DEPTH_MAX) {
            return None;
        }
        let text = JsonText::new(value);
        (text.as_str().len() <= JSON_BYTES_MAX).then_some(text)
    })
}

/// Returns the start of a text, with a mark if it was cut.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(VALUE_CHARACTERS_SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A [`Parameter`] without the type of its value.
pub(super) trait AnyParameter {
    fn name(&self) -> &'static str;
    fn is_required(&self) -> bool;
    fn schema(&self) -> &Value;
}

impl<T> AnyParameter for Parameter<T> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn is_required(&self) -> bool {
        self.is_required
    }

    fn schema(&self) -> &Value {
        &self.schema
    }
}

/// Returns the input schema of a tool with these parameters.
pub(super) fn input_schema(parameters: &[&dyn AnyParameter]) -> JsonObject {
    let mut schema = JsonObject::new();
    schema.insert("type".to_owned(), Value::from("object"));
    // Without parameters it is an empty object: some clients refuse a schema that has none.
    let properties: JsonObject =
        parameters.iter().map(|parameter| (parameter.name().to_owned(), parameter.schema().clone())).collect();
    schema.insert("properties".to_owned(), Value::Object(properties));
    let required: Vec<_> = parameters.iter().filter(|p| p.is_required()).map(|p| p.name()).collect();
    if !required.is_empty() {
        schema.insert("required".to_owned(), Value::from(required));
    }
    schema.insert("additionalProperties".to_owned(), Value::from(false));
    schema
}

/// The arguments of one call.
pub(super) struct Arguments(JsonObject);

impl Arguments {
    /// Accepts the arguments of a call to a tool with these parameters. `null` counts as absent.
    ///
    /// # Errors
    /// An argument is unknown.
    pub(super) fn new(given: Option<JsonObject>, parameters: &[&dyn AnyParameter]) -> Result<Self, ArgumentError> {
        let given = given.unwrap_or_default();
        let known = |name: &str| parameters.iter().any(|parameter| parameter.name() == name);
        if let Some(name) = given.keys().find(|name| !known(name)) {
            let names: Vec<&str> = parameters.iter().map(|parameter| parameter.name()).collect();
            let advice = match suggest(name, names.iter().copied()) {
                Some(near) => format!("did you mean {near}?"),
                None if names.is_empty() => "this tool has no arguments".to_owned(),
                None => format!("this tool has {}", names.join(", ")),
            };
            return Err(ArgumentError::Unknown { name: shortened(name), advice });
        }
        Ok(Self(given))
    }

    /// Returns the value of an argument, if it is given.
    pub(super) fn optional<T>(&self, parameter: &Parameter<T>) -> Result<Option<T>, ArgumentError> {
        let Some(value) = self.0.get(parameter.name).filter(|value| !value.is_null()) else { return Ok(None) };
        match (parameter.read)(value) {
            Some(read) => Ok(Some(read)),
            None => Err(ArgumentError::NotAllowed {
                name: parameter.name,
                value: shortened(&value.to_string()),
                allowed: parameter.allowed.clone(),
            }),
        }
    }

    /// Returns the value of an argument, or the default in its schema.
    pub(super) fn or_default<T>(&self, parameter: &Parameter<T>) -> Result<T, ArgumentError> {
        let default = || parameter.schema.get("default").and_then(&parameter.read);
        let value = self.optional(parameter)?.or_else(default);
        value.ok_or_else(|| ArgumentError::Missing { name: parameter.name, allowed: parameter.allowed.clone() })
    }

    /// Returns the value of an argument that must be given.
    pub(super) fn required<T>(&self, parameter: &Parameter<T>) -> Result<T, ArgumentError> {
        self.optional(parameter)?
            .ok_or_else(|| ArgumentError::Missing { name: parameter.name, allowed: parameter.allowed.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_has_a_depth() {
        let nested = |levels: usize| {
            let text = format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
            serde_json::from_str::<Value>(&text).expect("JSON")
        };
        let parameter = metadata("");
        let read = |levels| (parameter.read)(&nested(levels)).is_some();
        assert!(read(METADATA_DEPTH_MAX));
        assert!(!read(METADATA_DEPTH_MAX + 1));
        assert!(!read(100));
    }

    #[test]
    fn a_json_value_has_a_size_and_a_depth() {
        let parameter = any_json("payload", "");
        let read = |value: &Value| (parameter.read)(value).is_some();
        assert!(read(&json!("v".repeat(JSON_BYTES_MAX - 2))));
        assert!(!read(&json!("v".repeat(JSON_BYTES_MAX - 1))));
        // Bytes of the JSON text count, not characters of the value.
        assert!(!read(&json!("\"".repeat(JSON_BYTES_MAX / 2))));
        assert!(!read(&json!("é".repeat(JSON_BYTES_MAX / 2))));
        let nested = |levels| (0..levels).fold(json!(1), |inner, _| json!([inner]));
        assert!(read(&nested(JSON_DEPTH_MAX)));
        assert!(!read(&nested(JSON_DEPTH_MAX + 1)));
        for value in [json!(1.5), json!(false), json!(""), json!([]), json!({})] {
            assert!(read(&value), "{value}");
        }
    }

    #[test]
    fn moments_have_an_offset_and_a_spelling() {
        let parameter = timestamp("deadline", "");
        let check = |text: &str, expected: Option<i64>| {
            let read = (parameter.read)(&json!(text)).map(Timestamp::as_millis);
            assert_eq!(read, expected, "{text}");
        };
        check("2025-12-08T19:00:00Z", Some(1_765_220_400_000));
        check("2025-12-08T20:00:00.1239+01:00", Some(1_765_220_400_123));
        check("9999-12-31T23:59:59.999Z", Some(253_402_300_799_999));
        check("9999-12-31T23:59:59.999-00:01", None);
        check("0000-01-01T00:00:00+00:01", None);
        check("2025-12-08T19:00:00", None);
        check("2025-12-08", None);
        check("2025-02-30T19:00:00Z", None);
        check("tomorrow", None);
        check("", None);
    }

    #[test]
    fn a_bounded_text_counts_characters_and_may_have_lines() {
        let parameter = bounded_text("error", "", 4);
        let read = |text: &str| (parameter.read)(&json!(text)).is_some();
        assert!(read("") && read("a\nb\u{0}") && read("𝄞𝄞𝄞𝄞"));
        assert!(!read("abcde") && !read("𝄞𝄞𝄞𝄞𝄞"));
        assert_eq!((parameter.read)(&json!(5)), None);
        assert_eq!((text_length("input", "").read)(&json!("𝄞é\n")), Some(3));
    }

    #[test]
    fn capabilities_are_few_names() {
        let parameter = capabilities("");
        let read = |value: &Value| (parameter.read)(value).map(|all| all.as_slice().len());
        assert_eq!(read(&json!(["b", "a", "b"])), Some(2));
        assert_eq!(read(&json!([])), Some(0));
        assert_eq!(read(&json!(vec!["a"; CAPABILITIES_MAX])), Some(1));
        for bad in [json!(vec!["a"; CAPABILITIES_MAX + 1]), json!("a"), json!([""]), json!(["a", 1]), json!(["a\n"])] {
            assert_eq!(read(&bad), None, "{bad}");
        }
    }

    #[test]
    fn a_task_takes_both_spellings_of_a_priority() {
        let parameter = task_priority("");
        let read = |text: &str| (parameter.read)(&json!(text));
        for priority in Priority::ALL {
            let word = priority_of_task(priority);
            assert_eq!(read(word), Some(priority));
            assert_eq!(read(&word.to_lowercase()), Some(priority));
            assert_eq!(read(priority.as_str()), Some(priority));
        }
        assert_eq!(parameter.schema["enum"], json!(["CRITICAL", "HIGH", "MEDIUM", "LOW"]));
        assert_eq!(read("urgent"), None);
    }

    #[test]
    fn whole_numbers_are_read_however_json_writes_them() {
        let parameter = integer("workers", "", 0..=u64::from(u32::MAX));
        let check = |text: &str, expected: Option<u64>| {
            let value = serde_json::from_str(text).expect("JSON");
            assert_eq!((parameter.read)(&value), expected, "{text}");
        };
        check("4", Some(4));
        check("4.0", Some(4));
        check("4e2", Some(400));
        check("-0.0", Some(0));
        check("4.5", None);
        check("-1", None);
        check("4294967295", Some(4_294_967_295));
        check("4294967296", None);
        check("1e300", None);
        check("18446744073709551616", None);
        check("\"4\"", None);
        check("true", None);
    }
}
