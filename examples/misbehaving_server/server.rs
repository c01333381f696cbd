//! The protocol: reads messages line by line and answers them.

use crate::flags::Flags;
use crate::output::{Outcome, Output, Refusal};
use crate::{LONG, tools};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// The versions with a handshake, oldest first.
const VERSIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];

/// The version without one.
const VERSION_2026: &str = "2026-07-28";

const VERSION_KEY: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES_KEY: &str = "io.modelcontextprotocol/clientCapabilities";
const SUBSCRIPTION_KEY: &str = "io.modelcontextprotocol/subscriptionId";
pub(crate) const LOG_LEVEL_KEY: &str = "io.modelcontextprotocol/logLevel";

/// The levels of log messages, the most verbose first.
pub(crate) const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

pub(crate) const METHOD_NOT_FOUND: i32 = -32601;
pub(crate) const INVALID_PARAMS: i32 = -32602;

const RESOURCES: [&str; 2] = ["test://1", "test://2"];

/// The longest line that is read, in bytes.
const LINE_BYTES_MAX: u64 = 64 * 1_024 * 1_024;

/// The most concurrent calls, each on a thread, and the most subscriptions.
const RUNNING_MAX: usize = 1_024;

/// The server and its state.
pub(crate) struct Server {
    pub(crate) flags: Flags,
    pub(crate) output: Output,
    /// Calls of tools so far.
    pub(crate) calls: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) count: u64,
    pub(crate) version: String,
    /// The index in [`LEVELS`] below which log messages are not sent.
    pub(crate) level: usize,
    pub(crate) subscribed: BTreeSet<String>,
    /// The URIs of each `subscriptions/listen`, by the id of that request as JSON.
    pub(crate) listening: BTreeMap<String, Vec<String>>,
    /// Cancels each running call, by the id of its request as JSON.
    running: BTreeMap<String, SyncSender<()>>,
    /// Receives the answer to each request of the server, by its id.
    requests: BTreeMap<String, SyncSender<Value>>,
    requests_sent: u64,
    pub(crate) leaked: Vec<Vec<u8>>,
}

impl Server {
    pub(crate) fn new(flags: Flags) -> Arc<Self> {
        let output = Output::new(&flags);
        Arc::new(Self { flags, output, calls: AtomicU64::new(0), state: Mutex::default() })
    }

    /// Serves until the input ends.
    pub(crate) fn run(self: &Arc<Self>) -> ExitCode {
        if self.flags.never_ready {
            thread::sleep(LONG);
            return ExitCode::SUCCESS;
        }
        let mut input = BufReader::with_capacity(65_536, std::io::stdin().lock());
        let mut line = Vec::new();
        loop {
            line.clear();
            match input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => break,
                Ok(_) => self.take_line(&line),
            }
            // Answers to requests that were read together are sent together. No answer waits for the rest of a line.
            if !input.buffer().contains(&b'\n') {
                self.output.flush();
            }
        }
        eprintln!("the input has ended");
        if self.flags.ignore_term {
            thread::sleep(LONG);
        }
        ExitCode::SUCCESS
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_line(self: &Arc<Self>, line: &[u8]) {
        if line.trim_ascii().is_empty() {
            return;
        }
        let Ok(message) = serde_json::from_slice::<Value>(line) else {
            let refusal = Refusal(-32700, "a line is not JSON".to_owned(), None);
            return self.output.answer(&Value::Null, Err(refusal));
        };
        let params = &message["params"];
        match (message["method"].as_str(), message.get("id")) {
            (Some(method), Some(id)) => {
                if let Some(outcome) = self.request(method, id, params) {
                    self.output.answer(id, outcome);
                }
            }
            (Some("notifications/cancelled"), None) => self.cancel(&params["requestId"], params),
            (Some(_), None) => {}
            (None, Some(id)) => self.take_answer(id, &message),
            (None, None) => {
                let refusal = Refusal(-32600, "a message has neither method nor id".to_owned(), None);
                self.output.answer(&Value::Null, Err(refusal));
            }
        }
    }

    /// Returns the answer to a request; none if it is sent later, or never.
    fn request(self: &Arc<Self>, method: &str, id: &Value, params: &Value) -> Option<Outcome> {
        let is_2026 = self.flags.only_2026;
        let not_found = || Some(Err(Refusal(METHOD_NOT_FOUND, method.to_owned(), None)));
        match method {
            "initialize" | "ping" | "resources/subscribe" | "resources/unsubscribe" | "logging/setLevel" if is_2026 => {
                return not_found();
            }
            "server/discover" | "subscriptions/listen" if !is_2026 => return not_found(),
            _ if is_2026 => {
                if let Err(refusal) = check_meta(&params["_meta"]) {
                    return Some(Err(refusal));
                }
            }
            _ => {}
        }
        let outcome = match method {
            "initialize" => Ok(self.initialize(params)),
            "server/discover" => Ok(discover()),
            "ping" => return self.ping(id),
            "tools/list" if is_2026 && self.flags.hang_on_ping => return None,
            "tools/list" => Ok(json!({"tools": tools::list()})),
            "tools/call" => {
                let outcome = tools::call(self, id, params)?;
                return Some(outcome.map(|result| self.whole(result)));
            }
            "resources/list" => {
                let resource = |uri| json!({"uri": uri, "name": uri, "mimeType": "text/plain"});
                Ok(json!({"resources": RESOURCES.map(resource)}))
            }
            "resources/templates/list" => Ok(json!({"resourceTemplates": []})),
            "resources/read" => known_resource(params).map(|uri| {
                json!({"contents": [{"uri": uri, "mimeType": "text/plain", "text": format!("the text of {uri}")}]})
            }),
            "resources/subscribe" => known_resource(params).map(|uri| {
                self.state().subscribed.insert(uri);
                json!({})
            }),
            "resources/unsubscribe" => known_resource(params).map(|uri| {
                self.state().subscribed.remove(&uri);
                json!({})
            }),
            "subscriptions/listen" => return self.listen(id, params),
            "logging/setLevel" => self.set_level(params),
            _ => return not_found(),
        };
        Some(outcome.map(|result| self.whole(result)))
    }

    /// Adds the fields that 2026-07-28 requires to a result, if that version is used.
    pub(crate) fn whole(&self, mut result: Value) -> Value {
        if self.flags.only_2026
            && let Some(fields) = result.as_object_mut()
        {
            fields.entry("resultType").or_insert_with(|| json!("complete"));
            if ["tools", "resources", "resourceTemplates", "contents"].iter().any(|key| fields.contains_key(*key)) {
                fields.insert("ttlMs".to_owned(), json!(0));
                fields.insert("cacheScope".to_owned(), json!("private"));
            }
        }
        result
    }

    fn initialize(&self, params: &Value) -> Value {
        let wanted = params["protocolVersion"].as_str().unwrap_or_default();
        let version = VERSIONS.into_iter().find(|version| *version == wanted).unwrap_or("2025-11-25");
        self.state().version = version.to_owned();
        json!({
            "protocolVersion": version,
            "capabilities": {
                "logging": {},
                "resources": {"subscribe": true, "listChanged": true},
                "tools": {"listChanged": true},
            },
            "serverInfo": server_info(),
            "instructions": "A server of tests.",
        })
    }

    fn ping(self: &Arc<Self>, id: &Value) -> Option<Outcome> {
        if self.flags.hang_on_ping {
            return None;
        }
        if self.flags.slow_ping.is_zero() {
            return Some(Ok(json!({})));
        }
        let delay = self.flags.slow_ping;
        self.later(id, move |_, cancelled| match cancelled.recv_timeout(delay) {
            Ok(()) => None,
            Err(_) => Some(Ok(json!({}))),
        })
    }

    fn set_level(&self, params: &Value) -> Outcome {
        let level = level_of(&params["level"])?;
        self.state().level = level;
        Ok(json!({}))
    }

    fn listen(&self, id: &Value, params: &Value) -> Option<Outcome> {
        let filter = &params["notifications"];
        let uris = filter["resourceSubscriptions"].as_array().into_iter().flatten();
        let uris: Vec<String> = uris.filter_map(|uri| uri.as_str().map(str::to_owned)).collect();
        {
            let mut state = self.state();
            if state.listening.len() >= RUNNING_MAX {
                return Some(Err(Refusal(-32000, "too many subscriptions".to_owned(), None)));
            }
            state.listening.insert(id.to_string(), uris);
        }
        let mut accepted = filter.clone();
        if let Some(fields) = accepted.as_object_mut() {
            fields.remove("promptsListChanged");
        }
        self.output.notify(
            "notifications/subscriptions/acknowledged",
            json!({"_meta": {SUBSCRIPTION_KEY: id}, "notifications": accepted}),
        );
        None
    }

    /// Notifies subscribers that a resource changed; if `always`, even a client that did not subscribe. Returns the
    /// number of notifications.
    pub(crate) fn tell_change(&self, uri: &str, always: bool) -> usize {
        const UPDATED: &str = "notifications/resources/updated";
        if !self.flags.only_2026 {
            let is_notified = always || self.state().subscribed.contains(uri);
            if is_notified {
                self.output.notify(UPDATED, json!({"uri": uri}));
            }
            return usize::from(is_notified);
        }
        let listening = self.state().listening.clone();
        let concerned = listening.iter().filter(|(_, uris)| uris.iter().any(|listened| listened == uri));
        let ids = concerned.filter_map(|(id, _)| serde_json::from_str::<Value>(id).ok());
        ids.map(|id| self.output.notify(UPDATED, json!({"uri": uri, "_meta": {SUBSCRIPTION_KEY: id}}))).count()
    }

    /// Answers a request on a thread of its own. `work` receives a cancellation, after which there is no answer.
    pub(crate) fn later<W>(self: &Arc<Self>, id: &Value, work: W) -> Option<Outcome>
    where
        W: FnOnce(&Arc<Self>, &Receiver<()>) -> Option<Outcome> + Send + 'static,
    {
        let (cancel, cancelled) = sync_channel(1);
        let key = id.to_string();
        {
            let mut state = self.state();
            if state.running.len() >= RUNNING_MAX {
                return Some(Err(Refusal(-32000, format!("{RUNNING_MAX} calls run already"), None)));
            }
            state.running.insert(key.clone(), cancel);
        }
        let (server, id) = (Arc::clone(self), id.clone());
        let started = thread::Builder::new().name("call".to_owned()).spawn(move || {
            let outcome = work(&server, &cancelled);
            server.state().running.remove(&id.to_string());
            if let Some(outcome) = outcome {
                server.output.answer(&id, outcome.map(|result| server.whole(result)));
                server.output.flush();
            }
        });
        if let Err(error) = started {
            self.state().running.remove(&key);
            return Some(Err(Refusal(-32603, error.to_string(), None)));
        }
        None
    }

    /// Sends a request to the client. The receiver gets its answer.
    pub(crate) fn ask(&self, method: &str, params: Value) -> Receiver<Value> {
        let (sender, receiver) = sync_channel(1);
        let id = {
            let mut state = self.state();
            state.requests_sent += 1;
            let id = format!("ask-{}", state.requests_sent);
            state.requests.insert(id.clone(), sender);
            id
        };
        self.output.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        receiver
    }

    fn take_answer(&self, id: &Value, answer: &Value) {
        let waiting = id.as_str().and_then(|id| self.state().requests.remove(id));
        match waiting {
            Some(waiting) => {
                let part = |key: &str| answer.get(key).map(|value| json!({key: value}));
                let _ = waiting.try_send(part("error").or_else(|| part("result")).unwrap_or_default());
            }
            None => eprintln!("an answer with the id {id}, which does not belong to a request"),
        }
    }

    fn cancel(&self, id: &Value, params: &Value) {
        let key = id.to_string();
        let mut state = self.state();
        let is_known = match state.running.get(&key) {
            Some(cancel) => cancel.try_send(()).is_ok(),
            None => state.listening.remove(&key).is_some(),
        };
        let reason = params["reason"].as_str().unwrap_or("no reason");
        eprintln!("{} {id}: {reason}", if is_known { "cancelled" } else { "cancelled, but not running:" });
    }
}

/// Returns the index of a level in [`LEVELS`].
pub(crate) fn level_of(level: &Value) -> Result<usize, Refusal> {
    let index = LEVELS.iter().position(|known| level.as_str() == Some(known));
    index.ok_or_else(|| Refusal(INVALID_PARAMS, format!("level is {level}"), None))
}

fn server_info() -> Value {
    json!({"name": "misbehaving-server", "version": "1.0.0"})
}

fn discover() -> Value {
    json!({
        "supportedVersions": [VERSION_2026],
        "capabilities": {
            "logging": {},
            "resources": {"subscribe": true, "listChanged": true},
            "tools": {"listChanged": true},
        },
        "instructions": "A server of tests.",
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": {"io.modelcontextprotocol/serverInfo": server_info()},
    })
}

/// Checks that a request has the `_meta` fields that 2026-07-28 requires.
fn check_meta(meta: &Value) -> Result<(), Refusal> {
    let is_there =
        [(VERSION_KEY, meta[VERSION_KEY].is_string()), (CAPABILITIES_KEY, meta[CAPABILITIES_KEY].is_object())];
    let missing: Vec<&str> = is_there.iter().filter(|(_, is_there)| !is_there).map(|(key, _)| *key).collect();
    if !missing.is_empty() {
        let message = format!("request _meta is missing or has malformed required fields: {}", missing.join(", "));
        return Err(Refusal(INVALID_PARAMS, message, None));
    }
    if meta[VERSION_KEY] != VERSION_2026 {
        let data = json!({"requested": meta[VERSION_KEY], "supported": [VERSION_2026]});
        return Err(Refusal(-32022, "Unsupported protocol version".to_owned(), Some(data)));
    }
    Ok(())
}

fn known_resource(params: &Value) -> Result<String, Refusal> {
    let uri = params["uri"].as_str().unwrap_or_default();
    let known = RESOURCES.into_iter().find(|known| *known == uri);
    known.map(str::to_owned).ok_or_else(|| Refusal(INVALID_PARAMS, format!("resource {uri:?} not found"), None))
}
