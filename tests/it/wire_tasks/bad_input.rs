//! Invalid input: the model gets a text that names the argument, the value and the allowed values, and no call has a
//! partial effect.

use serde_json::{Value, json};

use crate::support::{server::Server, wait_until};
use crate::wire_tasks::fleet::{claim_one, ready, register, report, submit, timeless};

/// An upper bound for the length of errors, since long values are shortened.
const TEXT_LENGTH_MAX: usize = 500;

/// The tools, each with its required arguments.
fn needed() -> [(&'static str, Value); 8] {
    [
        ("submit_task", json!({})),
        ("claim_task", json!({"agent_id": "a"})),
        ("assign_task", json!({"task_id": "waiting"})),
        ("get_task", json!({"task_id": "waiting"})),
        ("complete_task", json!({"task_id": "held", "agent_id": "a", "fencing_token": 1, "result": "success"})),
        ("cancel_task", json!({"task_id": "waiting"})),
        ("update_task", json!({"task_id": "waiting", "priority": "LOW"})),
        ("list_tasks", json!({})),
    ]
}

/// Returns the arguments of a tool with one argument replaced.
fn with(tool: &str, key: &str, value: &Value) -> Value {
    let mut arguments = needed().into_iter().find(|(name, _)| *name == tool).expect("a tool").1;
    arguments[key] = value.clone();
    arguments
}

/// Starts a server with an agent that holds one task, while another task waits.
fn scene() -> Server {
    let mut server = ready(&[]);
    register(&mut server, "a", 3);
    submit(&mut server, &json!({"task_id": "held"}));
    claim_one(&mut server, "a");
    submit(&mut server, &json!({"task_id": "waiting"}));
    server
}

/// Returns the complete state of the tasks.
fn task_state(server: &mut Server) -> Value {
    let mut list = server.answer("list_tasks", &json!({}));
    for entry in list["tasks"].as_array_mut().expect("a list") {
        entry["age_seconds"] = Value::Null;
    }
    let tasks = ["held", "waiting"].map(|id| timeless(server.answer("get_task", &json!({"task_id": id}))));
    json!([list, tasks])
}

/// Checks that each call is refused with a text that contains all of its parts, and that no call had an effect.
fn check_refused(cases: &[(&str, Value, Vec<&str>)]) {
    let mut server = scene();
    let before = task_state(&mut server);
    for (tool, arguments, parts) in cases {
        let error = server.error(tool, arguments);
        for part in parts {
            assert!(error.contains(part), "{tool} {arguments} is answered with {error:?}, which lacks {part:?}");
        }
        assert!(error.len() <= TEXT_LENGTH_MAX, "{error:?} is too long");
    }
    assert_eq!(task_state(&mut server), before);
}

#[test]
fn missing_arguments() {
    let mut cases = Vec::new();
    for (tool, required) in [
        ("claim_task", vec!["agent_id"]),
        ("assign_task", vec!["task_id"]),
        ("get_task", vec!["task_id"]),
        ("complete_task", vec!["task_id", "agent_id", "fencing_token", "result"]),
        ("cancel_task", vec!["task_id"]),
        ("update_task", vec!["task_id"]),
    ] {
        for key in required {
            let mut without = with(tool, key, &Value::Null);
            cases.push((tool, without.clone(), vec![key, "is missing", "give"]));
            without.as_object_mut().expect("an object").remove(key);
            cases.push((tool, without, vec![key, "is missing", "give"]));
        }
    }
    let nothing = json!({"task_id": "waiting"});
    cases.push(("update_task", nothing, vec!["priority", "deadline", "at least one"]));
    let nothing = json!({"task_id": "waiting", "priority": null, "deadline": null});
    cases.push(("update_task", nothing, vec!["priority", "deadline", "at least one"]));
    check_refused(&cases);
}

#[test]
fn unknown_arguments() {
    check_refused(&[
        ("submit_task", json!({"prioritiy": "LOW"}), vec!["prioritiy", "did you mean priority?"]),
        ("submit_task", json!({"estimate": 1}), vec!["estimate"]),
        ("submit_task", json!({"wholly_else": 1}), vec!["wholly_else", "task_id", "payload", "lease_seconds"]),
        ("claim_task", with("claim_task", "wait_second", &json!(1)), vec!["did you mean wait_seconds?"]),
        ("assign_task", with("assign_task", "agent", &json!("a")), vec!["agent", "task_id"]),
        ("get_task", json!({"taskid": "waiting"}), vec!["taskid", "did you mean task_id?"]),
        ("complete_task", with("complete_task", "token_used", &json!(1)), vec!["did you mean tokens_used?"]),
        ("cancel_task", with("cancel_task", "force", &json!(true)), vec!["force", "task_id"]),
        ("update_task", with("update_task", "payload", &json!(1)), vec!["payload", "task_id", "priority", "deadline"]),
        ("list_tasks", json!({"stat": "queued"}), vec!["stat", "did you mean state?"]),
    ]);
}

#[test]
fn ids_and_names() {
    let mut cases = Vec::new();
    for (tool, keys) in [
        ("submit_task", vec!["task_id", "job_id", "agent_type", "batch_key"]),
        ("claim_task", vec!["agent_id"]),
        ("assign_task", vec!["task_id"]),
        ("get_task", vec!["task_id"]),
        ("complete_task", vec!["task_id", "agent_id"]),
        ("cancel_task", vec!["task_id"]),
        ("update_task", vec!["task_id"]),
        ("list_tasks", vec!["job_id", "agent_id"]),
    ] {
        for key in keys {
            for (value, shown) in [
                (json!(""), "\"\""),
                (json!(format!("begin{}", "n".repeat(252))), "begin"),
                (json!("a\nb"), "a\\nb"),
                (json!("a\u{0}"), "control characters"),
                (json!("a\u{7f}"), "control characters"),
                (json!(5), "is 5"),
                (json!(["a"]), "[\"a\"]"),
                (json!({"a": 1}), "{\"a\":1}"),
                (json!(false), "false"),
            ] {
                cases.push((tool, with(tool, key, &value), vec![key, shown, "1 to 256 characters"]));
            }
        }
    }
    check_refused(&cases);
}

#[test]
fn capabilities() {
    let names = |count: u32| json!((0..count).map(|number| format!("c{number}")).collect::<Vec<_>>());
    let bad = |value: Value, shown: &'static str| {
        ("submit_task", json!({"capabilities": value}), vec!["capabilities is", shown, "0 to 64", "256"])
    };
    check_refused(&[
        bad(json!("rust"), "rust"),
        bad(json!({"rust": true}), "rust"),
        bad(names(65), "c0"),
        bad(json!(["a", 5]), "5"),
        bad(json!(["a", null]), "null"),
        bad(json!([""]), "\"\""),
        bad(json!(["n".repeat(257)]), "nnn"),
        bad(json!(["a\tb"]), "a\\tb"),
    ]);
    let mut server = ready(&[]);
    submit(&mut server, &json!({"capabilities": names(64)}));
}

#[test]
fn words() {
    let mut cases = Vec::new();
    for (tool, key, known, allowed) in [
        ("submit_task", "priority", "HIGH", "CRITICAL, HIGH, MEDIUM or LOW"),
        ("update_task", "priority", "HIGH", "CRITICAL, HIGH, MEDIUM or LOW"),
        ("submit_task", "complexity", "simple", "simple, medium or complex"),
        ("complete_task", "result", "success", "success, failure or timeout"),
        ("list_tasks", "state", "queued", "queued, deferred, running, completed, failed or cancelled"),
    ] {
        for (value, shown) in [
            (json!("urgent"), "urgent"),
            (json!(""), "\"\""),
            (json!(format!(" {known}")), known),
            (json!(3), "3"),
            (json!([known]), known),
            (json!("u".repeat(10_000)), "uuu"),
        ] {
            cases.push((tool, with(tool, key, &value), vec![key, shown, allowed]));
        }
    }
    check_refused(&cases);
}

#[test]
fn numbers() {
    let mut cases = Vec::new();
    for (tool, key, allowed, least, most) in [
        ("submit_task", "estimated_tokens", "from 1 to 1000000000000", 1, 1_000_000_000_000_u64),
        ("submit_task", "max_attempts", "from 1 to 100", 1, 100),
        ("submit_task", "lease_seconds", "from 1 to 604800", 1, 604_800),
        ("claim_task", "wait_seconds", "from 0 to 30", 0, 30),
        ("complete_task", "fencing_token", "from 0 to 18446744073709551615", 0, u64::MAX),
        ("complete_task", "tokens_used", "from 0 to 1000000000000", 0, 1_000_000_000_000),
        ("complete_task", "duration_ms", "from 0 to 31536000000", 0, 31_536_000_000),
        ("list_tasks", "limit", "from 1 to 500", 1, 500),
    ] {
        let mut bad = vec![json!(-1), json!(-1e30), json!(1.5), json!("1"), json!(true), json!([1]), json!(1e300)];
        bad.extend(most.checked_add(1).map(Value::from));
        if least == 1 {
            bad.push(json!(0));
        }
        for value in bad {
            let arguments = with(tool, key, &value);
            let shown = format!("{key} is {value}");
            cases.push((tool, arguments, shown, allowed));
        }
    }
    let cases: Vec<_> = cases
        .iter()
        .map(|(tool, arguments, shown, allowed)| {
            (*tool, arguments.clone(), vec![shown.as_str(), "whole number", *allowed])
        })
        .collect();
    check_refused(&cases);
    // The longest lease is a setting.
    let mut server = ready(&["--max-ttl-seconds", "400", "--default-ttl-seconds", "400"]);
    submit(&mut server, &json!({"lease_seconds": 400}));
    let error = server.error("submit_task", &json!({"lease_seconds": 401}));
    assert!(error.contains("from 1 to 400"), "{error}");
}

#[test]
fn texts_and_moments() {
    let mut cases = Vec::new();
    for (tool, key) in [("submit_task", "deadline"), ("update_task", "deadline")] {
        for (value, shown) in [
            (json!("tomorrow"), "tomorrow"),
            (json!(""), "\"\""),
            (json!("2030-01-01"), "2030-01-01"),
            (json!("2030-01-01T00:00:00"), "2030-01-01T00:00:00"),
            (json!("2030-02-30T00:00:00Z"), "2030-02-30"),
            (json!("9999-12-31T23:59:59-23:59"), "9999-12-31"),
            (json!(1_765_220_400), "1765220400"),
            (json!({"at": "now"}), "now"),
        ] {
            cases.push((tool, with(tool, key, &value), vec!["deadline is", shown, "RFC 3339", "offset"]));
        }
    }
    for value in [json!(5), json!(["a"]), json!({"a": 1}), json!(true)] {
        cases.push(("submit_task", json!({"input": value}), vec!["input is", "a text"]));
        cases.push(("complete_task", with("complete_task", "error", &value), vec!["error is", "4096"]));
    }
    for (value, shown) in [
        (json!("made up"), "made up"),
        (json!(""), "\"\""),
        (json!(5), "5"),
        (json!("after-task-01"), "after-task-01"),
        (json!("c".repeat(100_000)), "ccc"),
    ] {
        cases.push(("list_tasks", json!({"cursor": value}), vec!["cursor is", shown, "next_cursor"]));
    }
    check_refused(&cases);
}

#[test]
fn payloads_and_errors_stay_out_of_the_log() {
    let mut server = ready(&[]);
    register(&mut server, "a", 3);
    let secret = "this is not for the log";
    submit(&mut server, &json!({"payload": secret, "input": secret}));
    let held = claim_one(&mut server, "a");
    let mut done = report(&held, "a", "failure");
    done["error"] = json!(secret);
    done["output"] = json!(secret);
    server.answer("complete_task", &done);
    server.close_input();
    server.check_end();
    wait_until("the last log line", || server.log().contains("ended"));
    let log = server.log();
    assert!(log.contains("attempt ended"), "{log}");
    assert!(!log.contains(secret), "{log}");
}
