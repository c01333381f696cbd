//! Invalid input to the real binary: the model gets a text with which it can correct its call, and nothing is held
//! afterwards.

use serde_json::{Value, json};

use crate::support::{
    pattern::check,
    server::{Server, call},
};

/// An upper bound for the length of errors, since long values are shortened.
const TEXT_LENGTH_MAX: usize = 500;

/// Returns a valid request with one argument replaced.
fn request(key: &str, value: Value) -> Value {
    let mut request = json!({
        "job_id": "job", "mcp_servers": ["server"], "workers": 2, "priority": "high", "ttl_seconds": 60,
        "metadata": {"a": 1}, "request_id": "key"
    });
    request[key] = value;
    request
}

/// Returns a valid request without one argument.
fn request_without(key: &str) -> Value {
    let mut request = request("workers", json!(2));
    request.as_object_mut().expect("an object").remove(key);
    request
}

/// Checks that each call is refused with a text that contains all of its parts, and that no call had an effect.
fn check_refused(tool: &str, cases: &[(Value, &[&str])]) {
    let mut server = Server::ready(&["--toolsets", "all"]);
    let before = server.capacity();
    for (arguments, parts) in cases {
        let error = server.error(tool, arguments);
        for part in *parts {
            assert!(error.contains(part), "{arguments} is answered with {error:?}, which lacks {part:?}");
        }
        assert!(error.len() <= TEXT_LENGTH_MAX, "{error:?} is too long");
        assert_eq!(server.capacity(), before, "{arguments} changed something");
    }
    assert_eq!(server.answer("list_allocations", &json!({}))["total"], 0);
    // No port, name, token or request_id is used: the first grant looks as if nothing had happened before.
    let first = server.answer("request_resources", &request("workers", json!(2)));
    check(
        &first,
        &json!({
            "status": "active",
            "mcp_servers": [{"name": "server", "endpoint": "http://localhost:9000"}],
            "workers_allocated": [
                {"worker_id": "worker-job-000", "endpoint": "http://localhost:8000"},
                {"worker_id": "worker-job-001", "endpoint": "http://localhost:8001"}
            ],
            "fencing_token": 1
        }),
    );
}

#[test]
fn missing_arguments() {
    let null = || Value::Null;
    check_refused(
        "request_resources",
        &[
            (json!({}), &["job_id", "missing", "256"]),
            (request_without("job_id"), &["job_id", "missing", "256"]),
            (request("job_id", null()), &["job_id", "missing", "256"]),
            (request_without("mcp_servers"), &["mcp_servers", "missing", "64"]),
            (request("mcp_servers", null()), &["mcp_servers", "missing", "64"]),
        ],
    );
    for tool in ["get_allocation", "release_resources", "renew_allocation"] {
        check_refused(tool, &[(json!({}), &["allocation_id", "missing", "256"])]);
    }
}

#[test]
fn unknown_arguments() {
    check_refused(
        "request_resources",
        &[
            (request("wokers", json!(1)), &["wokers", "did you mean workers?"]),
            (request("jobid", json!("a")), &["jobid", "did you mean job_id?"]),
            (request("ttl", json!(1)), &["ttl"]),
            (request("entirely_else", json!(1)), &["entirely_else", "job_id", "workers", "ttl_seconds"]),
            (request(&"long".repeat(1000), json!(1)), &["longlong", "workers"]),
        ],
    );
    check_refused("list_allocations", &[(json!({"stat": "active"}), &["stat", "did you mean state?"])]);
    check_refused("get_capacity", &[(json!({"verbose": true}), &["verbose"])]);
    check_refused("cleanup_expired", &[(json!({"force": true}), &["force"])]);
    for tool in ["get_allocation", "release_resources", "renew_allocation"] {
        check_refused(tool, &[(json!({"allocation_ids": "a"}), &["allocation_ids", "did you mean allocation_id?"])]);
    }
}

#[test]
fn ids_and_names() {
    let bad = |key: &'static str| {
        let long = format!("{}{}", "begin", "n".repeat(252));
        [
            (json!(""), [key, "\"\"", "256"]),
            (json!(long), [key, "begin", "256"]),
            (json!("a\nb"), [key, "a\\nb", "control characters"]),
            (json!("a\u{0}"), [key, "a", "control characters"]),
            (json!("a\u{7f}"), [key, "a", "control characters"]),
            (json!(5), [key, "5", "256"]),
            (json!(["a"]), [key, "[\"a\"]", "256"]),
            (json!({"a": 1}), [key, "{\"a\":1}", "256"]),
            (json!(false), [key, "false", "256"]),
        ]
    };
    for key in ["job_id", "request_id"] {
        for (value, parts) in bad(key) {
            check_refused("request_resources", &[(request(key, value), &parts)]);
        }
    }
    for tool in ["get_allocation", "release_resources", "renew_allocation"] {
        let cases = bad("allocation_id").map(|(value, parts)| (json!({"allocation_id": value}), parts));
        let cases: Vec<_> = cases.iter().map(|(value, parts)| (value.clone(), parts.as_slice())).collect();
        check_refused(tool, &cases);
    }
    // Characters are counted, not bytes.
    let mut server = Server::ready(&[]);
    for length in [1, 256] {
        server.grant(&json!({"job_id": "é".repeat(length), "mcp_servers": ["ß".repeat(length)]}));
    }
}

#[test]
fn servers() {
    let names = |count: u32| (0..count).map(|number| format!("s{number}")).collect::<Vec<_>>();
    check_refused(
        "request_resources",
        &[
            (request("mcp_servers", json!("filesystem")), &["mcp_servers", "filesystem", "list", "64"]),
            (request("mcp_servers", json!({"name": "a"})), &["mcp_servers", "name", "list"]),
            (request("mcp_servers", json!(names(65))), &["mcp_servers", "s0", "64"]),
            (request("mcp_servers", json!(["a", 5])), &["mcp_servers", "5", "256"]),
            (request("mcp_servers", json!(["a", null])), &["mcp_servers", "null", "256"]),
            (request("mcp_servers", json!(["a", ""])), &["mcp_servers", "\"\"", "256"]),
            (request("mcp_servers", json!(["n".repeat(257)])), &["mcp_servers", "nnn", "256"]),
            (request("mcp_servers", json!(["a\tb"])), &["mcp_servers", "a\\tb", "control characters"]),
        ],
    );
    let mut server = Server::ready(&[]);
    server.grant(&json!({"job_id": "a", "mcp_servers": names(64)}));
    server.grant(&json!({"job_id": "a", "mcp_servers": ["n".repeat(256)]}));
}

#[test]
fn workers() {
    let bad = |value: Value, shown: &'static str| {
        let request = request("workers", value);
        (request, ["workers", shown, "whole number", "4294967295"])
    };
    let cases = [
        bad(json!(-1), "-1"),
        bad(json!(1.5), "1.5"),
        bad(json!("3"), "\"3\""),
        bad(json!(true), "true"),
        bad(json!([3]), "[3]"),
        bad(json!(4_294_967_296_u64), "4294967296"),
        bad(json!(u64::MAX), "18446744073709551615"),
        bad(json!(1e300), "1e"),
    ];
    let cases: Vec<_> = cases.iter().map(|(value, parts)| (value.clone(), parts.as_slice())).collect();
    check_refused("request_resources", &cases);
}

#[test]
fn neither_servers_nor_workers() {
    let mut absent = request("mcp_servers", json!([]));
    absent["workers"] = Value::Null;
    let mut none = request("mcp_servers", json!([]));
    none["workers"] = json!(0);
    let parts: &[&str] = &["mcp_servers", "workers", "at least one"];
    check_refused("request_resources", &[(absent, parts), (none, parts)]);
}

#[test]
fn priorities() {
    let bad = |value: Value, shown: &'static str| {
        (request("priority", value), ["priority", shown, "low", "normal", "high", "critical"])
    };
    let cases = [
        bad(json!("urgent"), "urgent"),
        bad(json!(""), "\"\""),
        bad(json!(" high"), " high"),
        bad(json!(3), "3"),
        bad(json!(["high"]), "[\"high\"]"),
        bad(json!("u".repeat(10_000)), "uuu"),
    ];
    let cases: Vec<_> = cases.iter().map(|(value, parts)| (value.clone(), parts.as_slice())).collect();
    check_refused("request_resources", &cases);
}

#[test]
fn times_to_live() {
    let values = [
        (json!(0), "is 0"),
        (json!(-1), "-1"),
        (json!(-1e30), "-1e"),
        (json!(604_801), "604801"),
        (json!(u64::MAX), "18446744073709551615"),
        (json!(0.5), "0.5"),
        (json!("60"), "\"60\""),
        (json!([]), "[]"),
    ];
    for (value, shown) in values {
        let parts = ["ttl_seconds", shown, "from 1 to 604800"];
        check_refused("request_resources", &[(request("ttl_seconds", value.clone()), &parts)]);
        check_refused("renew_allocation", &[(json!({"allocation_id": "a", "ttl_seconds": value}), &parts)]);
    }
    // The maximum is a setting, and itself allowed.
    let mut server = Server::ready(&["--max-ttl-seconds", "100", "--default-ttl-seconds", "50"]);
    server.grant(&request("ttl_seconds", json!(100)));
    let error = server.error("request_resources", &request("ttl_seconds", json!(101)));
    assert!(error.contains("from 1 to 100"), "{error}");
}

#[test]
fn metadata() {
    // {"k":"…"} is 8 bytes around its text.
    let of_bytes = |bytes: usize| json!({"k": "v".repeat(bytes - 8)});
    check_refused(
        "request_resources",
        &[
            (request("metadata", json!([])), &["metadata", "[]", "object"]),
            (request("metadata", json!("text")), &["metadata", "text", "object"]),
            (request("metadata", json!(1)), &["metadata", "1", "object"]),
            (request("metadata", of_bytes(16 * 1024 + 1)), &["metadata", "vvv", "16384"]),
        ],
    );
    let mut server = Server::ready(&[]);
    let largest = of_bytes(16 * 1024);
    let id = server.grant(&request("metadata", largest.clone()));
    assert_eq!(server.allocation(&id)["metadata"], largest);
}

#[test]
fn lists() {
    check_refused(
        "list_allocations",
        &[
            (json!({"cursor": "made up"}), &["cursor", "made up", "next_cursor"]),
            (json!({"cursor": ""}), &["cursor", "\"\"", "next_cursor"]),
            (json!({"cursor": 5}), &["cursor", "5", "next_cursor"]),
            (json!({"cursor": "c".repeat(100_000)}), &["cursor", "ccc", "next_cursor"]),
            (json!({"limit": 0}), &["limit", "is 0", "1"]),
            (json!({"limit": -1}), &["limit", "-1", "1"]),
            (json!({"limit": 1_000_000_000}), &["limit", "1000000000", "1"]),
            (json!({"limit": "all"}), &["limit", "all", "1"]),
            (
                json!({"state": "running"}),
                &["state", "running", "pending", "active", "releasing", "released", "failed"],
            ),
            (json!({"state": 1}), &["state", "1", "active"]),
            (json!({"job_id": ""}), &["job_id", "\"\"", "256"]),
            (json!({"job_id": 7}), &["job_id", "7", "256"]),
        ],
    );
}

#[test]
fn fencing_tokens() {
    for (value, shown) in [(json!(-1), "-1"), (json!("1"), "\"1\""), (json!(1.5), "1.5")] {
        let parts = ["fencing_token", shown, "whole number"];
        check_refused("renew_allocation", &[(json!({"allocation_id": "a", "fencing_token": value}), &parts)]);
    }
}

#[test]
fn one_bad_argument_among_many_takes_nothing_from_the_calls_around_it() {
    let mut server = Server::ready(&[]);
    let good = json!({"job_id": "job", "mcp_servers": ["server"], "workers": 1});
    let ids: Vec<_> = (0..10).map(|_| server.new_id()).collect();
    let lines = ids.iter().map(|id| {
        let arguments = if id % 2 == 0 { good.clone() } else { request("priority", json!("urgent")) };
        call(*id, "request_resources", &arguments) + "\n"
    });
    server.write(lines.collect::<String>());
    for id in ids {
        assert_eq!(server.reply(id)["result"]["isError"], id % 2 == 1);
    }
    check(&server.capacity(), &json!({"allocated_workers": 5, "active_allocations": 5}));
}

#[test]
fn metadata_stays_out_of_the_log() {
    let mut server = Server::ready(&[]);
    let secret = "this is not for the log";
    server.grant(&request("metadata", json!({"key": secret})));
    let mut refused = request("metadata", json!({"key": secret}));
    refused["workers"] = json!(99);
    refused["request_id"] = Value::Null;
    server.answer("request_resources", &refused);
    server.error("request_resources", &request("metadata", json!([secret])));
    server.close_input();
    server.check_end();
    crate::support::wait_until("the last log line", || server.log().contains("ended"));
    let log = server.log();
    assert!(log.contains("granted") && log.contains("refused"), "{log}");
    assert!(!log.contains(secret), "{log}");
}
