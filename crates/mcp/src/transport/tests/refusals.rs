//! Invalid lines, each with its error reply.

use serde_json::{Value, json};

use super::{
    super::{ID_BYTES_MAX, LINE_BYTES_MAX, WireLimits},
    server::{Client, check_error},
};

const PARSE_ERROR: i64 = -32700;
const INVALID_REQUEST: i64 = -32600;
const METHOD_NOT_FOUND: i64 = -32601;
const INVALID_PARAMS: i64 = -32602;

/// Sends `line`, and checks its error and that the server goes on.
async fn check(line: impl AsRef<[u8]>, id: Value, code: i64, part: &str) {
    let mut client = Client::legacy(WireLimits::default()).await;
    client.send_bytes(line.as_ref()).await;
    client.send_bytes(b"\n").await;
    let reply = client.reply().await;
    check_error(&reply, &id, code, part);
    client.check_alive().await;
    assert_eq!(client.handle.calls_in_flight(), 0);
}

/// Sends a `tools/call` with these parameters and checks that they are refused.
async fn check_call(params: &str, part: &str) {
    let line = format!(r#"{{"jsonrpc":"2.0","id":3,"method":"tools/call"{params}}}"#);
    check(line, json!(3), INVALID_PARAMS, part).await;
}

/// Sends `lines` and checks that none is answered.
async fn check_silent(lines: &str) {
    let mut client = Client::legacy(WireLimits::default()).await;
    client.send(lines).await;
    client.check_alive().await;
}

#[tokio::test]
async fn what_is_no_json_is_a_parse_error() {
    let null = Value::Null;
    for line in [
        "nonsense",
        r#"{"jsonrpc":"2.0","id":1,"method":"ping""#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping"}{}"#,
        "[1,2",
        "{,}",
        "\u{0}",
    ] {
        check(line, null.clone(), PARSE_ERROR, "Parse error: ").await;
    }
    let bad_text = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"p\xFFng\"}";
    check(bad_text, null.clone(), PARSE_ERROR, "byte 35").await;
    let surrogate = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"\ud800"}}"#;
    check(surrogate, null, PARSE_ERROR, "hex escape").await;
}

#[tokio::test]
async fn what_is_nested_too_deep_is_a_parse_error() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for line in [
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"echo","arguments":{{"a":{deep}}}}}}}"#
        ),
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{{"uri":{deep}}}}}"#),
        format!(r#"{{"jsonrpc":"2.0","method":"notifications/x","params":{{"a":{deep}}}}}"#),
    ] {
        check(line, Value::Null, PARSE_ERROR, "recursion limit").await;
    }
    check(deep, Value::Null, INVALID_REQUEST, "batches").await;
}

#[tokio::test]
async fn json_that_is_no_message_is_an_invalid_request() {
    let cases = [
        ("1", Value::Null, "not a JSON-RPC 2.0 message"),
        ("\"text\"", Value::Null, "not a JSON-RPC 2.0 message"),
        ("null", Value::Null, "not a JSON-RPC 2.0 message"),
        ("[]", Value::Null, "batches"),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, Value::Null, "a line of its own"),
        ("{}", Value::Null, "jsonrpc is missing"),
        (r#"{"id":1,"method":"ping"}"#, json!(1), "jsonrpc is missing"),
        (r#"{"jsonrpc":"1.0","id":"a","method":"ping"}"#, json!("a"), "jsonrpc is \"1.0\": give \"2.0\""),
        (r#"{"jsonrpc":"2.0","id":5}"#, json!(5), "method is missing"),
        (r#"{"jsonrpc":"2.0","id":5,"method":7}"#, json!(5), "method is 7"),
        (r#"{"jsonrpc":"2.0","id":5,"method":"ping","result":{}}"#, json!(5), "give one of them"),
        (r#"{"jsonrpc":"2.0","id":5,"id":6,"method":"ping"}"#, Value::Null, "\"id\" is given twice"),
    ];
    for (line, id, part) in cases {
        check(line, id, INVALID_REQUEST, part).await;
    }
    for (id, part) in [
        ("null", "null"),
        ("1.5", "not a 64-bit integer"),
        ("1.0", "not a 64-bit integer"),
        ("9223372036854775808", "not a 64-bit integer"),
        ("true", "a boolean"),
        ("[1]", "an array"),
        ("{}", "an object"),
        (
            &format!("\"{}\"", "x".repeat(ID_BYTES_MAX + 1)),
            "too long a string: give an integer, or a string of up to 1024 bytes",
        ),
    ] {
        let line = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
        check(line, Value::Null, INVALID_REQUEST, part).await;
    }
}

#[tokio::test]
async fn parameters_that_do_not_fit_are_named() {
    check_call("", "params is missing: give {\"name\"").await;
    check_call(r#","params":null"#, "params is null: give a JSON object").await;
    check_call(r#","params":[null,"echo",{}]"#, "params is [").await;
    check_call(r#","params":{}"#, "params.name is missing").await;
    check_call(r#","params":{"name":5}"#, "params.name is 5").await;
    check_call(r#","params":{"name":"echo","arguments":"x"}"#, "arguments is \"x\": give a JSON object").await;
    check_call(r#","params":{"name":"echo","arguments":[1]}"#, "arguments is [1]: give a JSON object").await;
    check_call(r#","params":{"name":"echo","_meta":1}"#, "_meta is 1: give a JSON object").await;
    check_call(r#","params":{"name":"echo","requestState":1}"#, "params do not fit tools/call: invalid type: integer")
        .await;
    let long = format!(r#","params":{{"name":"echo","arguments":"{}"}}"#, "x".repeat(5_000));
    check_call(&long, "xxx…: give a JSON object").await;

    for (method, params, part) in [
        ("resources/read", "{}", "missing field `uri`"),
        ("resources/read", r#"{"uri":1}"#, "invalid type: integer"),
        ("resources/subscribe", "{}", "missing field `uri`"),
        ("resources/unsubscribe", "[1]", "params is [1]"),
        ("subscriptions/listen", "{}", "missing field"),
        ("initialize", "{}", "missing field `protocolVersion`"),
        ("prompts/get", r#"{"name":"x","_meta":[]}"#, "_meta is []"),
        ("tools/list", r#"{"cursor":1}"#, "invalid type: integer"),
        ("prompts/list", r#"{"cursor":{}}"#, "invalid type: map"),
        ("resources/list", "[]", "params is []"),
        ("ping", "[]", "params is []"),
        ("logging/setLevel", r#"{"level":"loud"}"#, "unknown variant"),
        ("server/discover", r#"{"_meta":1}"#, "_meta is 1"),
    ] {
        let line = format!(r#"{{"jsonrpc":"2.0","id":4,"method":"{method}","params":{params}}}"#);
        check(line, json!(4), INVALID_PARAMS, part).await;
    }
    let missing = r#"{"jsonrpc":"2.0","id":4,"method":"resources/read"}"#;
    check(missing, json!(4), INVALID_PARAMS, "missing").await;
}

#[tokio::test]
async fn an_unknown_method_is_left_to_the_handler() {
    for params in ["", r#","params":{"a":1}"#, r#","params":[1]"#] {
        let line = format!(r#"{{"jsonrpc":"2.0","id":4,"method":"no/such"{params}}}"#);
        check(line, json!(4), METHOD_NOT_FOUND, "no/such").await;
    }
}

#[tokio::test]
async fn what_has_no_answer_gets_none() {
    check_silent(r#"{"jsonrpc":"2.0","method":"notifications/no_such"}"#).await;
    check_silent(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":[1]}"#).await;
    check_silent(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":99}}"#).await;
    check_silent(r#"{"jsonrpc":"2.0","id":77,"result":{}}"#).await;
    check_silent(r#"{"jsonrpc":"2.0","id":77,"error":{"code":1,"message":"x"}}"#).await;
    check_silent(r#"{"jsonrpc":"2.0","id":[],"result":{}}"#).await;
    check_silent(r#"{"result":{}}"#).await;
    check_silent("\n\r\n   \n\u{FEFF}\n").await;
}

#[tokio::test]
async fn a_line_over_the_limit_is_refused_with_its_id() {
    let fill = "x".repeat(3 * LINE_BYTES_MAX);
    let at_the_end = format!(r#"{{"method":"tools/call","params":{{"id":1,"fill":"{fill}"}},"jsonrpc":"2.0","id":8}}"#);
    let bytes = at_the_end.len().to_string();
    let limit = format!("at most {LINE_BYTES_MAX} bytes");
    check(&at_the_end, json!(8), INVALID_REQUEST, &bytes).await;
    check(&at_the_end, json!(8), INVALID_REQUEST, &limit).await;
    let at_the_start = format!(r#"{{"id":"a","method":"{fill}"}}"#);
    check(at_the_start, json!("a"), INVALID_REQUEST, &limit).await;
    let nowhere = format!(r#"{{"params":{{"id":1}},"fill":"{fill}"}}"#);
    check(nowhere, Value::Null, INVALID_REQUEST, &limit).await;
    check(fill, Value::Null, INVALID_REQUEST, &limit).await;
}

#[tokio::test]
async fn a_line_at_the_limit_is_served() {
    let limits = WireLimits { line_bytes_max: 500, ..WireLimits::default() };
    for (excess, is_served) in [(0, true), (1, false)] {
        let mut client = Client::legacy(limits).await;
        let frame = r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":""}}"#;
        let fill = "x".repeat(limits.line_bytes_max + excess - frame.len());
        client.send(&frame.replace(r#""a":"""#, &format!(r#""a":"{fill}""#))).await;
        let reply = client.reply().await;
        assert_eq!(reply.get("result").is_some(), is_served, "{reply}");
        client.check_alive().await;
    }
}
