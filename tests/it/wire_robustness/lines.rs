//! Lines that are not a valid request: each is answered, and the next line is served.

use serde_json::{Value, json};

use crate::support::{
    pattern::check,
    server::{Server, TRANSPORTS, command, modern, request},
};

/// The default limit of the length of a line.
const LINE_LENGTH_MAX: usize = 1 << 20;

/// The JSON-RPC code of a parse error.
const PARSE_ERROR: i32 = -32700;

/// The JSON-RPC code of an invalid request.
const INVALID_REQUEST: i32 = -32600;

/// The JSON-RPC code of an unknown method.
const METHOD_NOT_FOUND: i32 = -32601;

/// The JSON-RPC code of invalid params.
const INVALID_PARAMS: i32 = -32602;

/// Checks that the line is answered with this code and id on both transports, before and after the handshake, and that
/// the server continues.
fn check_refused(line: &[u8], code: i32, id: &Value, named: &str) {
    let shown = String::from_utf8_lossy(&line[..line.len().min(100)]).into_owned();
    for transport in TRANSPORTS {
        let mut server = Server::start_on(transport, command(&[]));
        for _ in 0..2 {
            server.write_line(line);
            let reply = server.next().unwrap_or_else(|| panic!("{shown} ends the server: {}", server.log()));
            check(&reply, &json!({"id": id, "error": {"code": code}}));
            let text = reply["error"]["message"].as_str().expect("a message");
            assert!(text.contains(named), "{shown} is answered with {text:?}, which lacks {named:?}");
            server.greet("2025-11-25");
        }
        check(&server.ask("ping", &json!({})), &json!({"result": {}}));
    }
}

/// Returns a ping with nested arrays, whose whole line has this depth.
fn nested(depth: usize) -> String {
    let arrays = depth - 2;
    let (open, close) = ("[".repeat(arrays), "]".repeat(arrays));
    format!(r#"{{"jsonrpc":"2.0","id":77,"method":"ping","params":{{"x":{open}{close}}}}}"#)
}

/// Returns a ping with this number of bytes. The id is before or after the long part.
fn long(bytes: usize, id_first: bool) -> String {
    let (before, behind) = if id_first { (r#""id":77,"#, "") } else { ("", r#","id":77"#) };
    let line = |text: &str| format!(r#"{{"jsonrpc":"2.0",{before}"method":"ping","params":{{"x":"{text}"}}{behind}}}"#);
    line(&"x".repeat(bytes - line("").len()))
}

#[test]
fn what_is_no_json() {
    for line in ["{", "{bad}", "hello", "{\"jsonrpc\":\"2.0\",\"id\":77,\"method\":\"ping\"", "}{", "nul\0"] {
        check_refused(line.as_bytes(), PARSE_ERROR, &Value::Null, "");
    }
}

#[test]
fn what_is_no_utf_8() {
    check_refused(b"{\"jsonrpc\":\"2.0\",\"id\":77,\"method\":\"p\xffng\"}", PARSE_ERROR, &Value::Null, "UTF-8");
    check_refused(b"\xff\xfe", PARSE_ERROR, &Value::Null, "UTF-8");
}

#[test]
fn what_is_nested_too_deep() {
    check_refused(nested(129).as_bytes(), PARSE_ERROR, &Value::Null, "");
    check_refused(nested(100_000).as_bytes(), PARSE_ERROR, &Value::Null, "");
    check_refused("[".repeat(500_000).as_bytes(), PARSE_ERROR, &Value::Null, "");
    let mut server = Server::ready(&[]);
    server.write_line(nested(126));
    check(&server.reply(77), &json!({"result": {}}));
    // A deeper line may be served or refused, but must not be ignored.
    server.write_line(nested(127));
    let reply = server.next().expect("a reply");
    assert!(reply["result"].is_object() || reply["error"]["code"] == PARSE_ERROR, "{reply}");
}

#[test]
fn what_is_too_long() {
    let limit = LINE_LENGTH_MAX.to_string();
    for id_first in [true, false] {
        for bytes in [LINE_LENGTH_MAX + 1, 3 * LINE_LENGTH_MAX] {
            check_refused(long(bytes, id_first).as_bytes(), INVALID_REQUEST, &json!(77), &limit);
        }
    }
    check_refused("x".repeat(LINE_LENGTH_MAX + 1).as_bytes(), INVALID_REQUEST, &Value::Null, &limit);
    for transport in TRANSPORTS {
        let mut server = Server::ready_on(transport, &[]);
        server.write_line(long(LINE_LENGTH_MAX, true));
        check(&server.reply(77), &json!({"result": {}}));
        let mut server = Server::ready_on(transport, &["--max-line-bytes", "2000"]);
        server.write_line(long(2001, true));
        assert!(server.reply(77)["error"]["message"].as_str().is_some_and(|text| text.contains("2000")));
        server.write_line(long(2000, true));
        check(&server.reply(77), &json!({"result": {}}));
    }
}

#[test]
fn what_is_no_request() {
    for (line, id) in [
        ("[]", Value::Null),
        (r#"[{"jsonrpc":"2.0","id":77,"method":"ping"}]"#, Value::Null),
        ("5", Value::Null),
        ("null", Value::Null),
        ("\"ping\"", Value::Null),
        ("{}", Value::Null),
        (r#"{"jsonrpc":"2.0","id":77}"#, json!(77)),
        (r#"{"id":77,"method":"ping"}"#, json!(77)),
        (r#"{"jsonrpc":"1.0","id":"a","method":"ping"}"#, json!("a")),
        (r#"{"jsonrpc":"2.0","id":77,"method":5}"#, json!(77)),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, Value::Null),
        (r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, Value::Null),
        (r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#, Value::Null),
    ] {
        check_refused(line.as_bytes(), INVALID_REQUEST, &id, "");
    }
}

#[test]
fn an_empty_line_is_nothing() {
    for transport in TRANSPORTS {
        let mut server = Server::ready_on(transport, &[]);
        server.write("\n\r\n  \n\t\n");
        server.write(request(77, "ping", &json!({})) + "\r\n");
        check(&server.next().expect("a reply"), &json!({"id": 77, "result": {}}));
    }
}

#[test]
fn a_line_may_come_in_pieces_and_many_at_once() {
    for transport in TRANSPORTS {
        let mut server = Server::ready_on(transport, &[]);
        for byte in request(77, "ping", &json!({})).bytes() {
            server.write([byte]);
        }
        server.write("\n");
        check(&server.reply(77), &json!({"result": {}}));
        server.write((1000..1500).map(|id| request(id, "ping", &json!({})) + "\n").collect::<String>());
        for id in 1000..1500 {
            check(&server.reply(id), &json!({"result": {}}));
        }
    }
}

#[test]
fn an_id_comes_back_as_it_was_given() {
    let mut server = Server::ready(&[]);
    for id in [json!(0), json!(-1), json!(i64::MAX), json!(i64::MIN), json!(""), json!("0"), json!("ü\"\\\n\u{1F600}")]
    {
        server.write_line(json!({"jsonrpc": "2.0", "id": id, "method": "ping"}).to_string());
        assert_eq!(server.next().expect("a reply")["id"], id);
    }
}

#[test]
fn a_tool_call_that_is_no_call() {
    for transport in TRANSPORTS {
        let mut server = Server::ready_on(transport, &[]);
        for (params, named) in [
            (Some(json!({"name": "get_capacity", "arguments": []})), "arguments"),
            (Some(json!({"name": "get_capacity", "arguments": "none"})), "arguments"),
            (Some(json!({"name": "get_capacity", "arguments": 5})), "arguments"),
            (Some(json!({"name": "get_capacity", "arguments": [{"a": 1}]})), "arguments"),
            (Some(json!({"arguments": {}})), "name"),
            (Some(json!({"name": 5})), "name"),
            (Some(json!({"name": null, "arguments": {}})), "name"),
            (Some(json!({"name": "get_capasity", "arguments": {}})), "get_capasity"),
            (Some(json!({})), "name"),
            (Some(json!([])), "params"),
            (Some(json!("get_capacity")), "params"),
            (None, "params"),
        ] {
            let mut line = json!({"jsonrpc": "2.0", "id": 77, "method": "tools/call"});
            if let Some(params) = &params {
                line["params"] = params.clone();
            }
            server.write_line(line.to_string());
            let reply = server.reply(77);
            check(&reply, &json!({"error": {"code": INVALID_PARAMS}}));
            let text = reply["error"]["message"].as_str().expect("a message");
            assert!(text.contains(named) && text != "tools/call", "{params:?} is answered with {text:?}");
        }
        server.capacity();
    }
}

#[test]
fn a_method_that_is_not_there() {
    let completion = json!({"ref": {"type": "ref/prompt", "name": "a"}, "argument": {"name": "b", "value": "c"}});
    for (method, params) in [
        ("prompts/list", json!({})),
        ("prompts/get", json!({"name": "a"})),
        ("completion/complete", completion),
        ("completion/complete", json!({})),
        ("tasks/list", json!({})),
        ("no/such/method", json!({})),
    ] {
        for transport in TRANSPORTS {
            let mut server = Server::ready_on(transport, &[]);
            check(&server.ask(method, &params), &json!({"error": {"code": METHOD_NOT_FOUND}}));
            let mut server = Server::start_on(transport, command(&[]));
            assert!(server.ask("server/discover", &modern(json!({})))["result"].is_object());
            check(&server.ask(method, &modern(params.clone())), &json!({"error": {"code": METHOD_NOT_FOUND}}));
        }
    }
}
