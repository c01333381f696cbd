//! The tools.

use crate::CRASH_CODE;
use crate::output::{Outcome, Refusal};
use crate::server::{INVALID_PARAMS, LEVELS, LOG_LEVEL_KEY, Server, level_of};
use serde_json::{Value, json};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

/// The most that one call of `big` sends and one of `leak` allocates.
const BIG_BYTES_MAX: u64 = 1 << 30;
const LEAK_MB_MAX: u64 = 1 << 16;

/// The most reports of `progress`.
const STEPS_MAX: u64 = 100_000;

/// The time limit for a client to answer a request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Names and types of arguments, all of which are optional.
type Arguments = &'static [(&'static str, &'static str)];

/// Each tool: its name, what it does, and its arguments.
const TOOLS: [(&str, &str, Arguments); 15] = [
    ("echo", "Answers with its arguments and the pid of the server", &[]),
    ("add", "The sum of a and b", &[("a", "number"), ("b", "number")]),
    ("count", "Counts its calls in the memory of the server", &[]),
    ("sleep", "Answers after ms milliseconds, unless cancelled", &[("ms", "integer")]),
    ("progress", "Reports its progress in steps, ms apart", &[("steps", "integer"), ("ms", "integer")]),
    ("ask_roots", "Asks the client for its roots and answers with its answer", &[]),
    ("ask_sampling", "Asks the client to sample and answers with its answer", &[]),
    ("ask_elicitation", "Asks the client to elicit and answers with its answer", &[]),
    ("crash", "Ends the server with the code 7 and no answer", &[]),
    ("environment", "The names of the server's variables", &[]),
    ("leak", "Takes mb MB of memory for good", &[("mb", "integer")]),
    ("log", "Sends a log message of a level, if that is wanted", &[("level", "string"), ("text", "string")]),
    ("change", "Tells subscribers that a resource changed; always: even if there are none", CHANGE_ARGUMENTS),
    ("big", "Answers with a text of this many bytes", &[("bytes", "integer")]),
    ("state", "The version spoken, the log level, the subscriptions and the calls so far", &[]),
];

const CHANGE_ARGUMENTS: Arguments = &[("uri", "string"), ("always", "boolean")];

pub(crate) fn list() -> Vec<Value> {
    let tools = TOOLS.iter().map(|(name, description, arguments)| {
        let properties = arguments.iter().map(|(name, kind)| ((*name).to_owned(), json!({"type": kind})));
        let properties = Value::Object(properties.collect());
        json!({"name": name, "description": description, "inputSchema": {"type": "object", "properties": properties}})
    });
    tools.collect()
}

/// Returns the answer to a call; none if it is sent later, or never.
pub(crate) fn call(server: &Arc<Server>, id: &Value, params: &Value) -> Option<Outcome> {
    let calls = server.calls.fetch_add(1, Ordering::Relaxed) + 1;
    if server.flags.crash_after_calls.is_some_and(|most| calls > most) {
        crash(server);
    }
    let arguments = &params["arguments"];
    let number = |name: &str, otherwise: u64| arguments[name].as_u64().unwrap_or(otherwise);
    let name = params["name"].as_str().unwrap_or_default();
    let result = match name {
        "echo" => structured(&json!({"arguments": arguments, "pid": std::process::id()})),
        "add" => {
            let part = |name: &str| arguments[name].as_f64().unwrap_or_default();
            structured(&json!({"sum": part("a") + part("b")}))
        }
        "count" => {
            let mut state = server.state();
            state.count += 1;
            structured(&json!({"count": state.count}))
        }
        "sleep" => return sleep(server, id, Duration::from_millis(number("ms", 0))),
        "progress" => {
            let token = params["_meta"].get("progressToken").cloned();
            let steps = number("steps", 3).min(STEPS_MAX);
            return progress(server, id, token, steps, Duration::from_millis(number("ms", 0)));
        }
        "ask_roots" => return ask(server, id, params, "roots/list", json!({})),
        "ask_sampling" => {
            let messages = json!([{"role": "user", "content": {"type": "text", "text": "Who are you?"}}]);
            return ask(server, id, params, "sampling/createMessage", json!({"messages": messages, "maxTokens": 10}));
        }
        "ask_elicitation" => {
            let schema = json!({"type": "object", "properties": {"name": {"type": "string"}}});
            let question = json!({"message": "Your name?", "requestedSchema": schema});
            return ask(server, id, params, "elicitation/create", question);
        }
        "crash" => crash(server),
        "environment" => {
            let mut names: Vec<String> =
                std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
            names.sort_unstable();
            structured(&json!({"names": names}))
        }
        "leak" => leak(server, number("mb", 1).min(LEAK_MB_MAX)),
        "log" => return Some(log(server, arguments, &params["_meta"])),
        "change" => {
            let uri = arguments["uri"].as_str().unwrap_or("test://1");
            let notified = server.tell_change(uri, arguments["always"] == true);
            structured(&json!({"uri": uri, "notified": notified}))
        }
        "big" => {
            let bytes = number("bytes", 1_000).min(BIG_BYTES_MAX);
            let bytes = server.flags.huge_line_bytes.unwrap_or(usize::try_from(bytes).unwrap_or(usize::MAX));
            json!({"content": [{"type": "text", "text": "x".repeat(bytes)}]})
        }
        "state" => state(server, calls),
        _ => return Some(Err(Refusal(INVALID_PARAMS, format!("tool {name:?} not found"), None))),
    };
    Some(Ok(result))
}

/// Returns a result with the same content as text and as JSON.
fn structured(content: &Value) -> Value {
    json!({"content": [{"type": "text", "text": content.to_string()}], "structuredContent": content})
}

fn crash(server: &Server) -> ! {
    // Earlier answers are sent.
    server.output.flush();
    eprintln!("crashing on request");
    std::process::exit(i32::from(CRASH_CODE));
}

fn sleep(server: &Arc<Server>, id: &Value, duration: Duration) -> Option<Outcome> {
    let own_id = id.clone();
    server.later(id, move |_, cancelled| {
        if cancelled.recv_timeout(duration) == Err(RecvTimeoutError::Timeout) {
            return Some(Ok(structured(&json!({"slept_ms": duration.as_millis() as u64}))));
        }
        eprintln!("sleep {own_id} was cancelled");
        None
    })
}

fn progress(server: &Arc<Server>, id: &Value, token: Option<Value>, steps: u64, pause: Duration) -> Option<Outcome> {
    server.later(id, move |server, cancelled| {
        for step in 1..=steps {
            if cancelled.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return None;
            }
            if let Some(token) = &token {
                let report = json!({"progressToken": token, "progress": step, "total": steps, "message": "at work"});
                server.output.notify("notifications/progress", report);
            }
        }
        Some(Ok(structured(&json!({"steps": steps}))))
    })
}

/// Requests something from the client: by a request of the server, or in 2026-07-28 by a result that requires input.
fn ask(server: &Arc<Server>, id: &Value, call: &Value, method: &'static str, question: Value) -> Option<Outcome> {
    if server.flags.only_2026 {
        let result = match call["inputResponses"].get("question") {
            Some(answer) => structured(&json!({"answered": {"result": answer}})),
            None => {
                let requests = json!({"question": {"method": method, "params": question}});
                json!({"resultType": "input_required", "inputRequests": requests, "requestState": "asked"})
            }
        };
        return Some(Ok(result));
    }
    server.later(id, move |server, _| {
        let answer = server.ask(method, question).recv_timeout(ANSWER_TIMEOUT);
        Some(match answer {
            Ok(answer) => Ok(structured(&json!({"answered": answer}))),
            Err(_) => Err(Refusal(-32000, format!("{method} was not answered"), None)),
        })
    })
}

fn leak(server: &Server, mb: u64) -> Value {
    let bytes = usize::try_from(mb * 1_024 * 1_024).unwrap_or(usize::MAX);
    // Pages of zeros might not be allocated.
    let taken = black_box(vec![1_u8; bytes]);
    let mut state = server.state();
    state.leaked.push(taken);
    let leaked: usize = state.leaked.iter().map(Vec::len).sum();
    structured(&json!({"leaked_mb": leaked / (1_024 * 1_024)}))
}

fn log(server: &Server, arguments: &Value, meta: &Value) -> Outcome {
    let level = if arguments["level"].is_null() { 1 } else { level_of(&arguments["level"])? };
    let least = match meta.get(LOG_LEVEL_KEY) {
        Some(least) => Some(level_of(least)?),
        // Without a handshake, only requests that ask for log messages get any.
        None if server.flags.only_2026 => None,
        None => Some(server.state().level),
    };
    let is_sent = least.is_some_and(|least| level >= least);
    if is_sent {
        let text = arguments["text"].as_str().unwrap_or("a log message");
        let message = json!({"level": LEVELS[level], "logger": "tests", "data": text});
        server.output.notify("notifications/message", message);
    }
    Ok(structured(&json!({"sent": is_sent})))
}

fn state(server: &Server, calls: u64) -> Value {
    let state = server.state();
    structured(&json!({
        "pid": std::process::id(),
        "version": state.version,
        "level": LEVELS[state.level],
        "subscribed": state.subscribed,
        "listening": state.listening,
        "calls": calls,
    }))
}
