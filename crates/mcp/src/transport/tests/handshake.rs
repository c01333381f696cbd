//! Input before the first valid request, which ends a process with rmcp's own transport.

use rmcp::service::{QuitReason, ServerInitializeError};
use serde_json::{Value, json};

use super::{
    super::WireLimits,
    server::{Client, MODERN_META, answered, check_error},
};

#[tokio::test]
async fn a_client_may_begin_badly() {
    let mut client = Client::connect(WireLimits::default(), 65_536);
    for silent in [
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"hello"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}"#,
    ] {
        client.send(silent).await;
    }
    client.send("nonsense").await;
    check_error(&client.reply().await, &Value::Null, -32700, "Parse error");
    client.send(r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":1}}"#).await;
    check_error(&client.reply().await, &json!(1), -32602, "initialize");
    client.send(r#"{"jsonrpc":"2.0","id":1,"method":"initialize"}"#).await;
    check_error(&client.reply().await, &json!(1), -32602, "missing");
    client.call(2, "echo").await;
    check_error(&client.reply().await, &json!(2), -32602, "_meta");
    client.send(r#"{"jsonrpc":"2.0","id":3,"method":"no/such"}"#).await;
    check_error(&client.reply().await, &json!(3), -32602, "_meta");
    client.check_alive().await;
    client.shake_hands().await;
    client.call(1, "echo").await;
    assert_eq!(answered(&client.reply().await), (1, "{}"));
    let (rest, ended) = client.finish().await;
    assert_eq!(rest, Vec::<Value>::new());
    assert!(matches!(ended, Ok(QuitReason::Closed)));
}

#[tokio::test]
async fn the_handshake_may_come_in_one_piece() {
    let mut client = Client::connect(WireLimits::default(), 65_536);
    client
        .send(concat!(
            r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"test","version":"0"}}}"#,
            "\n",
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
            "\n",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":null}}"#,
        ))
        .await;
    let reply = client.reply().await;
    assert_eq!(reply["result"]["protocolVersion"], "2025-06-18", "{reply}");
    assert_eq!(answered(&client.reply().await), (1, "null"));
}

#[tokio::test]
async fn a_modern_client_needs_no_handshake() {
    let mut client = Client::connect(WireLimits::default(), 65_536);
    client.send(&format!(r#"{{"jsonrpc":"2.0","id":0,"method":"server/discover","params":{{{MODERN_META}}}}}"#)).await;
    let reply = client.reply().await;
    assert!(reply["result"]["supportedVersions"].is_array(), "{reply}");
    // The first call ends the handshake, and can be cancelled immediately.
    client
        .send(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"grant",{MODERN_META}}}}}"#))
        .await;
    client.cancel(1).await;
    client
        .send(&format!(r#"{{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{{"name":"echo",{MODERN_META}}}}}"#))
        .await;
    assert_eq!(answered(&client.reply().await), (2, "null"));
    assert_eq!(client.seen.undone(), 1);
}

#[tokio::test]
async fn the_input_may_end_before_the_handshake() {
    for input in ["", "nonsense\n", "nonsense"] {
        let mut client = Client::connect(WireLimits::default(), 65_536);
        client.send_bytes(input.as_bytes()).await;
        let handle = client.handle.clone();
        let (rest, ended) = client.finish().await;
        assert_eq!(rest.len(), usize::from(!input.is_empty()));
        assert!(matches!(ended, Err(ServerInitializeError::ConnectionClosed(_))));
        handle.flushed().await.expect("all was read");
        assert!(handle.ended().is_cancelled());
    }
}

#[tokio::test]
async fn a_stop_ends_the_handshake() {
    let client = Client::connect(WireLimits::default(), 65_536);
    tokio::task::yield_now().await;
    client.handle.stop();
    assert!(matches!(client.served.await.expect("no panic"), Err(ServerInitializeError::ConnectionClosed(_))));
}
