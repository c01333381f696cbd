//! Invalid input: the model gets a text with which it can correct its call, and nothing changes.

use serde_json::{Value, json};

use crate::support::server::Server;
use crate::wire_fleet::fleet::{ready, usage};

/// An upper bound for the length of errors, since long values are shortened.
const TEXT_LENGTH_MAX: usize = 500;

/// Returns a valid registration with one argument replaced.
fn agent(key: &str, value: Value) -> Value {
    let mut agent = json!({
        "agent_id": "agent-1", "agent_type": "backend", "capabilities": ["rust"], "max_concurrent": 2,
        "metadata": {"a": 1}
    });
    agent[key] = value;
    agent
}

/// Checks that each call is refused with a text that contains all of its parts, and that no call had an effect.
fn check_refused(server: &mut Server, tool: &str, cases: &[(Value, &[&str])]) {
    let before = usage(server);
    for (arguments, parts) in cases {
        let error = server.error(tool, arguments);
        for part in *parts {
            assert!(error.contains(part), "{tool} {arguments} is answered with {error:?}, which lacks {part:?}");
        }
        assert!(error.len() <= TEXT_LENGTH_MAX, "{error:?} is too long");
        assert_eq!(usage(server), before, "{tool} {arguments} changed something");
    }
    assert_eq!(server.answer("list_agents", &json!({}))["total"], 0);
    assert_eq!(server.capacity()["allocated_workers"], 0);
}

/// Invalid names, each with a part of its error.
fn no_names(key: &'static str) -> Vec<(Value, [&'static str; 3])> {
    vec![
        (json!(""), [key, "\"\"", "256"]),
        (json!(format!("begin{}", "n".repeat(252))), [key, "begin", "256"]),
        (json!("a\nb"), [key, "a\\nb", "control characters"]),
        (json!("a\u{7f}"), [key, "a", "control characters"]),
        (json!(5), [key, "5", "256"]),
        (json!(["a"]), [key, "[\"a\"]", "256"]),
        (json!({"a": 1}), [key, "{\"a\":1}", "256"]),
        (json!(false), [key, "false", "256"]),
    ]
}

/// Values that are not an integer in a range.
fn no_counts(key: &'static str, least: u64, most: u64) -> Vec<(Value, Vec<String>)> {
    let mut values = vec![json!(-1), json!(1.5), json!("3"), json!(true), json!([3]), json!(1e300), json!(most + 1)];
    if least > 0 {
        values.push(json!(least - 1));
    }
    values
        .into_iter()
        .map(|value| (value, vec![key.to_owned(), format!("a whole number from {least} to {most}")]))
        .collect()
}

#[test]
fn missing_arguments() {
    let mut server = ready(&[]);
    let parts: &[&str] = &["agent_id", "missing", "256"];
    for tool in ["register_agent", "heartbeat_agent", "unregister_agent"] {
        check_refused(&mut server, tool, &[(json!({}), parts), (json!({"agent_id": null}), parts)]);
    }
    check_refused(
        &mut server,
        "set_token_budget",
        &[
            (json!({}), &["budget_tokens", "window_seconds", "at least one"]),
            (json!({"budget_tokens": null, "remove": false}), &["budget_tokens", "window_seconds", "at least one"]),
            (json!({"job_id": "a"}), &["budget_tokens", "missing", "remove"]),
        ],
    );
    let parts: &[&str] = &["quota", "missing", "remove"];
    check_refused(
        &mut server,
        "set_agent_quota",
        &[(json!({}), parts), (json!({"agent_type": "a"}), parts), (json!({"remove": false}), parts)],
    );
}

#[test]
fn arguments_that_contradict_each_other() {
    let mut server = ready(&[]);
    check_refused(
        &mut server,
        "set_token_budget",
        &[
            (json!({"job_id": "a", "budget_tokens": 1, "window_seconds": 1}), &["window_seconds", "job_id"]),
            (json!({"job_id": "a", "budget_tokens": 1, "remove": true}), &["remove", "budget_tokens"]),
            (json!({"remove": true}), &["remove", "job_id"]),
            (json!({"remove": true, "budget_tokens": 1}), &["remove", "job_id"]),
        ],
    );
    check_refused(&mut server, "set_agent_quota", &[(json!({"quota": 1, "remove": true}), &["remove", "quota"])]);
}

#[test]
fn unknown_arguments() {
    let mut server = ready(&[]);
    check_refused(
        &mut server,
        "register_agent",
        &[
            (agent("agent_typ", json!("a")), &["agent_typ", "did you mean agent_type?"]),
            (agent("capability", json!([])), &["capability", "did you mean capabilities?"]),
            (agent("entirely_else", json!(1)), &["entirely_else", "agent_id", "max_concurrent", "allocation_id"]),
        ],
    );
    for tool in ["heartbeat_agent", "unregister_agent"] {
        check_refused(&mut server, tool, &[(json!({"agentid": "a"}), &["agentid", "did you mean agent_id?"])]);
    }
    check_refused(&mut server, "list_agents", &[(json!({"stat": "idle"}), &["stat", "did you mean state?"])]);
    for tool in ["get_resource_usage", "detect_bottlenecks"] {
        check_refused(&mut server, tool, &[(json!({"verbose": true}), &["verbose", "this tool has no arguments"])]);
    }
    check_refused(
        &mut server,
        "set_token_budget",
        &[(json!({"budget_token": 1}), &["budget_token", "did you mean budget_tokens?"])],
    );
    check_refused(&mut server, "set_agent_quota", &[(json!({"quotas": 1}), &["quotas", "did you mean quota?"])]);
}

#[test]
fn names() {
    let mut server = ready(&[]);
    for (tool, key, base) in [
        ("register_agent", "agent_id", agent("agent_id", Value::Null)),
        ("register_agent", "agent_type", agent("agent_type", Value::Null)),
        ("register_agent", "allocation_id", agent("allocation_id", Value::Null)),
        ("heartbeat_agent", "agent_id", json!({})),
        ("unregister_agent", "agent_id", json!({})),
        ("list_agents", "agent_type", json!({})),
        ("set_token_budget", "job_id", json!({"budget_tokens": 1})),
        ("set_agent_quota", "agent_type", json!({"quota": 1})),
    ] {
        for (value, parts) in no_names(key) {
            let mut arguments = base.clone();
            arguments[key] = value;
            check_refused(&mut server, tool, &[(arguments, &parts)]);
        }
    }
}

#[test]
fn counts() {
    let mut server = ready(&[]);
    for (tool, key, least, most, base) in [
        ("register_agent", "max_concurrent", 1, 1_000, agent("max_concurrent", Value::Null)),
        ("list_agents", "limit", 1, 2_000, json!({})),
        ("set_token_budget", "budget_tokens", 0, 1_000_000_000_000_000, json!({})),
        ("set_token_budget", "window_seconds", 0, 31_536_000, json!({})),
        ("set_agent_quota", "quota", 0, 4_294_967_295, json!({})),
    ] {
        for (value, parts) in no_counts(key, least, most) {
            let mut arguments = base.clone();
            arguments[key] = value;
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            check_refused(&mut server, tool, &[(arguments, &parts)]);
        }
    }
}

#[test]
fn capabilities() {
    let mut server = ready(&[]);
    let many: Vec<String> = (0..65).map(|number| format!("c{number}")).collect();
    check_refused(
        &mut server,
        "register_agent",
        &[
            (agent("capabilities", json!("rust")), &["capabilities", "rust", "list", "64"]),
            (agent("capabilities", json!(many)), &["capabilities", "c0", "0 to 64"]),
            (agent("capabilities", json!(["a", 5])), &["capabilities", "5", "256"]),
            (agent("capabilities", json!(["a", null])), &["capabilities", "null", "256"]),
            (agent("capabilities", json!([""])), &["capabilities", "\"\"", "256"]),
            (agent("capabilities", json!(["a\tb"])), &["capabilities", "a\\tb", "control characters"]),
        ],
    );
    server.answer("register_agent", &agent("capabilities", json!(many[..64])));
}

#[test]
fn words_notes_and_flags() {
    let mut server = ready(&[]);
    check_refused(
        &mut server,
        "register_agent",
        &[
            (agent("metadata", json!([])), &["metadata", "[]", "object"]),
            (agent("metadata", json!("text")), &["metadata", "text", "object"]),
            // {"k":"…"} adds 8 bytes to its text.
            (agent("metadata", json!({"k": "v".repeat(16 * 1024 - 7)})), &["metadata", "vvv", "16384"]),
        ],
    );
    check_refused(
        &mut server,
        "list_agents",
        &[
            (json!({"state": "lost"}), &["state", "lost", "idle", "busy", "full", "unresponsive"]),
            (json!({"state": 1}), &["state", "1", "idle"]),
            (json!({"cursor": "made up"}), &["cursor", "made up", "next_cursor"]),
            (json!({"cursor": ""}), &["cursor", "\"\"", "next_cursor"]),
            (json!({"cursor": 5}), &["cursor", "5", "next_cursor"]),
            (json!({"cursor": format!("after-{}", "c".repeat(100_000))}), &["cursor", "ccc", "next_cursor"]),
        ],
    );
    for value in [json!("yes"), json!(1), json!([])] {
        let parts: &[&str] = &["remove", "true or false"];
        check_refused(&mut server, "set_token_budget", &[(json!({"job_id": "a", "remove": value}), parts)]);
        check_refused(&mut server, "set_agent_quota", &[(json!({"remove": value}), parts)]);
    }
}

#[test]
fn tools_that_are_off_say_how_they_are_turned_on() {
    let mut server = Server::ready(&[]);
    for (tool, toolset) in [("register_agent", "agents"), ("detect_bottlenecks", "usage"), ("get_plan", "planning")] {
        let reply = server.ask("tools/call", &json!({"name": tool, "arguments": {}}));
        assert_eq!(reply["error"]["code"], -32602, "{reply}");
        let message = reply["error"]["message"].as_str().expect("a text");
        assert!(message.contains(&format!("toolset {toolset}, which is off")), "{message}");
    }
}
