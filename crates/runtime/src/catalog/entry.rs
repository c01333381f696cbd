//! One entry: what clients know of, and the block `"cortex"`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};
use ureq::http::{HeaderName, HeaderValue, Uri};

use super::cortex::Cortex;
use super::error::{Place, Problem, Warnings, shown};
use super::expand::Expander;
use super::{ALLOCATION_VARIABLE, Entry, Folder, Program, Template};
use cortex_core::provisioning::Sharing;

/// The keys that are read. Clients have more of their own.
const KEYS: [&str; 9] = ["command", "args", "env", "cwd", "url", "headers", "type", "disabled", "cortex"];

/// Those that say nothing about a server at a url, and about one that is a command.
const KEYS_OF_COMMAND: [&str; 3] = ["args", "env", "cwd"];
const KEYS_OF_URL: [&str; 1] = ["headers"];

/// What an entry says of the way its server is spoken to.
#[derive(PartialEq)]
enum Transport {
    Stdio,
    Http,
}

/// Reads the entries of one file.
pub(super) struct Reader<'a> {
    /// Where the file is: what a folder that is not absolute begins at.
    folder: &'a Path,
    expander: Expander<'a>,
    pub(super) warnings: Warnings,
    /// The first text of the entry at hand that names its allocation.
    names_allocation: Option<Place>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(folder: &'a Path, variable: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { folder, expander: Expander::new(variable), warnings: Warnings::default(), names_allocation: None }
    }

    /// The entry; nothing if it is disabled.
    pub(super) fn entry(&mut self, place: &Place, value: &Value) -> Result<Option<Entry>, Problem> {
        let fields = value.as_object().ok_or_else(|| place.wrong_type(value, "an object with command, or url"))?;
        if let Some(disabled) = given(fields, "disabled") {
            let wrong = || place.key("disabled").wrong_type(disabled, "true or false");
            if disabled.as_bool().ok_or_else(wrong)? {
                return Ok(None);
            }
        }
        for unknown in fields.keys().filter(|key| !KEYS.contains(&key.as_str())) {
            self.warnings.add(&place.key(unknown), "is not known here and ignored");
        }
        let program = self.program(place, fields)?;
        let Cortex { sharing, idle, start_timeout, calls_in_flight_max, memory, roots } =
            Cortex::read(self, &place.key("cortex"), given(fields, "cortex"))?;
        if let Some(place) = self.names_allocation.take()
            && sharing == Sharing::Shared
        {
            return Err(place.problem(format!(
                "names {ALLOCATION_VARIABLE}, and this server is shared by many allocations: leave it out, or give the entry \
                 \"cortex\": {{\"sharing\": \"per_allocation\"}}"
            )));
        }
        Ok(Some(Entry { program, sharing, idle, start_timeout, calls_in_flight_max, memory, roots }))
    }

    fn program(&mut self, place: &Place, fields: &Map<String, Value>) -> Result<Program, Problem> {
        let transport = transport(&place.key("type"), given(fields, "type"))?;
        let missing = |key: &str, advice: &str| place.key(key).problem(format!("is missing: give {advice}"));
        match (given(fields, "command"), given(fields, "url"), transport) {
            (Some(_), Some(_), _) => Err(place.problem("has both command and url: leave one of them out")),
            (None, None, None) => Err(missing("command", "command, or url")),
            (None, _, Some(Transport::Stdio)) => Err(missing("command", "it, or type http and a url")),
            (_, None, Some(Transport::Http)) => Err(missing("url", "it, or type stdio and a command")),
            (Some(command), None, _) => {
                self.warn_of_the_other_kind(place, fields, &KEYS_OF_URL, "a command");
                self.command(place, fields, command)
            }
            (None, Some(url), _) => {
                self.warn_of_the_other_kind(place, fields, &KEYS_OF_COMMAND, "a url");
                self.remote(place, fields, url)
            }
        }
    }

    fn warn_of_the_other_kind(&mut self, place: &Place, fields: &Map<String, Value>, keys: &[&str], what: &str) {
        for key in keys.iter().filter(|key| given(fields, key).is_some()) {
            self.warnings.add(&place.key(key), format!("is ignored, since the entry has {what}"));
        }
    }

    fn command(&mut self, place: &Place, fields: &Map<String, Value>, command: &Value) -> Result<Program, Problem> {
        let at = place.key("command");
        let command = self.text(&at, command)?;
        if command.is_empty() {
            return Err(at.problem("is empty: give a program"));
        }
        let at = place.key("args");
        let arguments = match given(fields, "args") {
            Some(Value::Array(arguments)) => {
                let arguments = arguments.iter().enumerate();
                arguments
                    .map(|(index, argument)| self.template(&at.index(index), argument))
                    .collect::<Result<_, _>>()?
            }
            Some(other) => return Err(at.wrong_type(other, "an array of strings")),
            None => Vec::new(),
        };
        let environment = given(fields, "env")
            .map_or(Ok(BTreeMap::new()), |variables| self.environment(&place.key("env"), variables))?;
        let folder = given(fields, "cwd").map(|folder| self.folder(&place.key("cwd"), folder)).transpose()?;
        Ok(Program::Command { command, arguments, environment, folder })
    }

    fn environment(&mut self, place: &Place, value: &Value) -> Result<BTreeMap<String, Template>, Problem> {
        let variables = value.as_object().ok_or_else(|| place.wrong_type(value, "an object of strings"))?;
        let mut environment = BTreeMap::new();
        for (name, value) in variables {
            let place = place.key(name);
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(place.problem("is no name of a variable: give one without = in it"));
            }
            let value = match value {
                // VS Code takes this for a variable that is not set, which all are that are not named.
                Value::Null => continue,
                Value::Bool(_) | Value::Number(_) => value.to_string().into(),
                _ => self.template(&place, value)?,
            };
            environment.insert(name.clone(), value);
        }
        Ok(environment)
    }

    fn folder(&mut self, place: &Place, value: &Value) -> Result<Folder, Problem> {
        let path = self.template(place, value)?;
        if !path.names_allocation() && path.for_allocation(None).is_empty() {
            return Err(place.problem("is empty: give a folder"));
        }
        Ok(Folder { base: self.folder.to_owned(), path })
    }

    fn remote(&mut self, place: &Place, fields: &Map<String, Value>, url: &Value) -> Result<Program, Problem> {
        let at = place.key("url");
        let url = self.text(&at, url)?;
        let parsed: Option<Uri> = url.parse().ok();
        let is_http = |parsed: &Uri| {
            matches!(parsed.scheme_str(), Some("http" | "https")) && parsed.host().is_some_and(|host| !host.is_empty())
        };
        if !parsed.as_ref().is_some_and(is_http) {
            return Err(at.problem("is no address of a server: give a url that begins with http:// or https://"));
        }
        let headers = given(fields, "headers")
            .map_or(Ok(BTreeMap::new()), |headers| self.headers(&place.key("headers"), headers))?;
        Ok(Program::Remote { url, headers })
    }

    fn headers(&mut self, place: &Place, value: &Value) -> Result<BTreeMap<String, String>, Problem> {
        let given = value.as_object().ok_or_else(|| place.wrong_type(value, "an object of strings"))?;
        let mut headers = BTreeMap::new();
        for (name, value) in given {
            let place = place.key(name);
            if HeaderName::from_bytes(name.as_bytes()).is_err() {
                return Err(place.problem("is no name of a header: give letters, digits and hyphens"));
            }
            let value = self.text(&place, value)?;
            if HeaderValue::from_str(&value).is_err() {
                return Err(place.problem("cannot be sent as a header: give one line without control characters"));
            }
            headers.insert(name.clone(), value);
        }
        Ok(headers)
    }

    /// A string with its variables put in.
    pub(super) fn text(&mut self, place: &Place, value: &Value) -> Result<String, Problem> {
        let why = format!("names {ALLOCATION_VARIABLE}, which only args, env and cwd may: leave it out");
        self.expanded(place, value)?.plain().ok_or_else(|| place.problem(why))
    }

    /// The same where the allocation may be named, whose id is put in at each start.
    fn template(&mut self, place: &Place, value: &Value) -> Result<Template, Problem> {
        let template = self.expanded(place, value)?;
        if template.names_allocation() {
            self.names_allocation.get_or_insert_with(|| place.clone());
        }
        Ok(template)
    }

    fn expanded(&mut self, place: &Place, value: &Value) -> Result<Template, Problem> {
        let text = value.as_str().ok_or_else(|| place.wrong_type(value, "a string"))?;
        let expanded = self.expander.expand(text).map_err(|error| place.problem(error.to_string()))?;
        if expanded.text.contains_nul() {
            return Err(place.problem("has a NUL character, which no process can be given: leave it out"));
        }
        if expanded.has_other_braces {
            self.warnings.add(place, "has a ${ that begins no ${NAME} or ${NAME:-default}, and keeps it as it is");
        }
        Ok(expanded.text)
    }
}

/// The value of a key; null is as good as none.
pub(super) fn given<'v>(fields: &'v Map<String, Value>, key: &str) -> Option<&'v Value> {
    fields.get(key).filter(|value| !value.is_null())
}

fn transport(place: &Place, value: Option<&Value>) -> Result<Option<Transport>, Problem> {
    const ALLOWED: &str = "stdio, http or streamable-http";
    let Some(value) = value else { return Ok(None) };
    let text = value.as_str().ok_or_else(|| place.wrong_type(value, ALLOWED))?;
    // Clients do not agree on how it is written.
    match text.to_ascii_lowercase().replace(['-', '_'], "").as_str() {
        "stdio" => Ok(Some(Transport::Stdio)),
        "http" | "streamablehttp" => Ok(Some(Transport::Http)),
        "sse" => Err(place
            .problem("is sse, a transport that MCP gave up: give the server's url for Streamable HTTP, and type http")),
        _ => Err(place.problem(format!("is \"{}\": give {ALLOWED}", shown(text)))),
    }
}
