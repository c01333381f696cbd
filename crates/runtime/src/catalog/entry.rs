//! Reads an entry: the keys that MCP clients know, and the block `"cortex"`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};
use ureq::http::{HeaderName, HeaderValue, Uri};

use super::cortex_block::CortexBlock;
use super::error::{KeyPath, Problem, Warnings, excerpt};
use super::expand::Expander;
use super::{ALLOCATION_VARIABLE, CatalogEntry, Folder, Program, Template};
use cortex_core::provisioning::Sharing;

/// The known keys. Clients have others of their own, which are ignored with a warning.
const KEYS: [&str; 9] = ["command", "args", "env", "cwd", "url", "headers", "type", "disabled", "cortex"];

/// The keys that apply only to an entry with a command.
const KEYS_OF_COMMAND: [&str; 3] = ["args", "env", "cwd"];

/// The keys that apply only to an entry with a url.
const KEYS_OF_URL: [&str; 1] = ["headers"];

/// The value of the key `type`.
#[derive(PartialEq)]
enum Transport {
    Stdio,
    Http,
}

/// Reads the entries of one file.
pub(super) struct EntryReader<'a> {
    /// The folder of the file, to which relative folders are relative.
    folder: &'a Path,
    expander: Expander<'a>,
    pub(super) warnings: Warnings,
    /// The path of the first text of the current entry that names its allocation.
    names_allocation: Option<KeyPath>,
}

impl<'a> EntryReader<'a> {
    pub(super) fn new(folder: &'a Path, variable: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { folder, expander: Expander::new(variable), warnings: Warnings::default(), names_allocation: None }
    }

    /// Reads an entry. Returns none if it is disabled.
    pub(super) fn entry(&mut self, key_path: &KeyPath, value: &Value) -> Result<Option<CatalogEntry>, Problem> {
        let fields = value.as_object().ok_or_else(|| key_path.wrong_type(value, "an object with command, or url"))?;
        if let Some(disabled) = present(fields, "disabled") {
            let wrong = || key_path.key("disabled").wrong_type(disabled, "true or false");
            if disabled.as_bool().ok_or_else(wrong)? {
                return Ok(None);
            }
        }
        for unknown in fields.keys().filter(|key| !KEYS.contains(&key.as_str())) {
            self.warnings.add(&key_path.key(unknown), "is not a known key and is ignored");
        }
        let program = self.program(key_path, fields)?;
        let CortexBlock { sharing, idle, start_timeout, calls_in_flight_max, memory, roots } =
            CortexBlock::read(self, &key_path.key("cortex"), present(fields, "cortex"))?;
        if let Some(key_path) = self.names_allocation.take()
            && sharing == Sharing::Shared
        {
            return Err(key_path.problem(format!(
                "names {ALLOCATION_VARIABLE}, but allocations share this server: remove it, or add \
                 \"cortex\": {{\"sharing\": \"per_allocation\"}} to the entry"
            )));
        }
        Ok(Some(CatalogEntry { program, sharing, idle, start_timeout, calls_in_flight_max, memory, roots }))
    }

    fn program(&mut self, key_path: &KeyPath, fields: &Map<String, Value>) -> Result<Program, Problem> {
        let transport = transport(&key_path.key("type"), present(fields, "type"))?;
        let missing = |key: &str, advice: &str| key_path.key(key).problem(format!("is missing: give {advice}"));
        match (present(fields, "command"), present(fields, "url"), transport) {
            (Some(_), Some(_), _) => Err(key_path.problem("has both command and url: remove one of them")),
            (None, None, None) => Err(missing("command", "command, or url")),
            (None, _, Some(Transport::Stdio)) => {
                Err(missing("command", "a command, or set type to http and give a url"))
            }
            (_, None, Some(Transport::Http)) => Err(missing("url", "a url, or set type to stdio and give a command")),
            (Some(command), None, _) => {
                self.warn_of_the_other_kind(key_path, fields, &KEYS_OF_URL, "a command");
                self.command(key_path, fields, command)
            }
            (None, Some(url), _) => {
                self.warn_of_the_other_kind(key_path, fields, &KEYS_OF_COMMAND, "a url");
                self.remote(key_path, fields, url)
            }
        }
    }

    fn warn_of_the_other_kind(&mut self, key_path: &KeyPath, fields: &Map<String, Value>, keys: &[&str], what: &str) {
        for key in keys.iter().filter(|key| present(fields, key).is_some()) {
            self.warnings.add(&key_path.key(key), format!("is ignored because the entry has {what}"));
        }
    }

    fn command(
        &mut self,
        key_path: &KeyPath,
        fields: &Map<String, Value>,
        command: &Value,
    ) -> Result<Program, Problem> {
        let at = key_path.key("command");
        let command = self.text(&at, command)?;
        if command.is_empty() {
            return Err(at.problem("is empty: give a program"));
        }
        let at = key_path.key("args");
        let arguments = match present(fields, "args") {
            Some(Value::Array(arguments)) => {
                let arguments = arguments.iter().enumerate();
                arguments
                    .map(|(index, argument)| self.template(&at.index(index), argument))
                    .collect::<Result<_, _>>()?
            }
            Some(other) => return Err(at.wrong_type(other, "an array of strings")),
            None => Vec::new(),
        };
        let environment = present(fields, "env")
            .map_or(Ok(BTreeMap::new()), |variables| self.environment(&key_path.key("env"), variables))?;
        let folder = present(fields, "cwd").map(|folder| self.folder(&key_path.key("cwd"), folder)).transpose()?;
        Ok(Program::Command { command, arguments, environment, folder })
    }

    fn environment(&mut self, key_path: &KeyPath, value: &Value) -> Result<BTreeMap<String, Template>, Problem> {
        let variables = value.as_object().ok_or_else(|| key_path.wrong_type(value, "an object of strings"))?;
        let mut environment = BTreeMap::new();
        for (name, value) in variables {
            let key_path = key_path.key(name);
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(key_path.problem("is not a valid variable name: give a name without ="));
            }
            let value = match value {
                // In VS Code, null unsets a variable. Here, variables that are not named are unset anyway.
                Value::Null => continue,
                Value::Bool(_) | Value::Number(_) => value.to_string().into(),
                _ => self.template(&key_path, value)?,
            };
            environment.insert(name.clone(), value);
        }
        Ok(environment)
    }

    fn folder(&mut self, key_path: &KeyPath, value: &Value) -> Result<Folder, Problem> {
        let path = self.template(key_path, value)?;
        if !path.names_allocation() && path.for_allocation(None).is_empty() {
            return Err(key_path.problem("is empty: give a folder"));
        }
        Ok(Folder { base: self.folder.to_owned(), path })
    }

    fn remote(&mut self, key_path: &KeyPath, fields: &Map<String, Value>, url: &Value) -> Result<Program, Problem> {
        let at = key_path.key("url");
        let url = self.text(&at, url)?;
        let parsed: Option<Uri> = url.parse().ok();
        let is_http = |parsed: &Uri| {
            matches!(parsed.scheme_str(), Some("http" | "https")) && parsed.host().is_some_and(|host| !host.is_empty())
        };
        if !parsed.as_ref().is_some_and(is_http) {
            return Err(at.problem("is not the URL of a server: give a url that begins with http:// or https://"));
        }
        let headers = present(fields, "headers")
            .map_or(Ok(BTreeMap::new()), |headers| self.headers(&key_path.key("headers"), headers))?;
        Ok(Program::Remote { url, headers })
    }

    fn headers(&mut self, key_path: &KeyPath, value: &Value) -> Result<BTreeMap<String, String>, Problem> {
        let given = value.as_object().ok_or_else(|| key_path.wrong_type(value, "an object of strings"))?;
        let mut headers = BTreeMap::new();
        for (name, value) in given {
            let key_path = key_path.key(name);
            if HeaderName::from_bytes(name.as_bytes()).is_err() {
                return Err(key_path.problem("is not a valid header name: give letters, digits and hyphens"));
            }
            let value = self.text(&key_path, value)?;
            if HeaderValue::from_str(&value).is_err() {
                return Err(key_path.problem("cannot be sent as a header: give one line without control characters"));
            }
            headers.insert(name.clone(), value);
        }
        Ok(headers)
    }

    /// Reads a string and expands its variables.
    pub(super) fn text(&mut self, key_path: &KeyPath, value: &Value) -> Result<String, Problem> {
        let why = format!("names {ALLOCATION_VARIABLE}, which is allowed only in args, env and cwd: remove it");
        self.expanded(key_path, value)?.plain().ok_or_else(|| key_path.problem(why))
    }

    /// Reads a string that may name the allocation, whose id is inserted at each start.
    fn template(&mut self, key_path: &KeyPath, value: &Value) -> Result<Template, Problem> {
        let template = self.expanded(key_path, value)?;
        if template.names_allocation() {
            self.names_allocation.get_or_insert_with(|| key_path.clone());
        }
        Ok(template)
    }

    fn expanded(&mut self, key_path: &KeyPath, value: &Value) -> Result<Template, Problem> {
        let text = value.as_str().ok_or_else(|| key_path.wrong_type(value, "a string"))?;
        let expanded = self.expander.expand(text).map_err(|error| key_path.problem(error.to_string()))?;
        if expanded.text.contains_nul() {
            return Err(key_path.problem("contains a NUL character, which a process cannot receive: remove it"));
        }
        if expanded.has_other_braces {
            self.warnings.add(key_path, "has a ${ that does not begin ${NAME} or ${NAME:-default}: it stays as it is");
        }
        Ok(expanded.text)
    }
}

/// Returns the value of a key; none if it is null.
pub(super) fn present<'v>(fields: &'v Map<String, Value>, key: &str) -> Option<&'v Value> {
    fields.get(key).filter(|value| !value.is_null())
}

fn transport(key_path: &KeyPath, value: Option<&Value>) -> Result<Option<Transport>, Problem> {
    const ALLOWED: &str = "stdio, http or streamable-http";
    let Some(value) = value else { return Ok(None) };
    let text = value.as_str().ok_or_else(|| key_path.wrong_type(value, ALLOWED))?;
    // Clients spell it in different ways.
    match text.to_ascii_lowercase().replace(['-', '_'], "").as_str() {
        "stdio" => Ok(Some(Transport::Stdio)),
        "http" | "streamablehttp" => Ok(Some(Transport::Http)),
        "sse" => Err(key_path.problem(
            "is sse, a transport that MCP has removed: give the server's url for Streamable HTTP, and set type to http",
        )),
        _ => Err(key_path.problem(format!("is \"{}\": give {ALLOWED}", excerpt(text)))),
    }
}
