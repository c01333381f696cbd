//! Calls in flight: one reply each, undone if cancelled, never over the limit.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::{
    super::{OUTBOX_HIGH_WATER_BYTES, WireLimits},
    idle,
    server::{Client, MODERN_META, answered, call, check_error},
};

#[tokio::test]
async fn an_id_in_flight_is_not_taken_twice() {
    let mut client = Client::legacy(WireLimits::default()).await;
    client.call(5, "hold").await;
    client.call(5, "echo").await;
    check_error(&client.reply().await, &Value::Null, -32600, "id 5 is already in use by a request in flight");
    client.seen.gate.add_permits(1);
    assert_eq!(answered(&client.reply().await).0, 5);
    // Answered, it may be used again; and a string is another id than a number.
    client.call(5, "hold").await;
    client.send(&call(5, "echo", &json!({})).replace(":5,", ":\"5\",")).await;
    assert_eq!(client.reply().await["id"], "5");
    client.seen.gate.add_permits(1);
    assert_eq!(answered(&client.reply().await).0, 5);
    assert_eq!(client.seen.delivered(), 3);
}

#[tokio::test]
async fn a_cancelled_id_is_not_taken_again() {
    let mut client = Client::legacy(WireLimits::default()).await;
    client.call(5, "hold").await;
    client.cancel(5).await;
    client.call(5, "echo").await;
    check_error(&client.reply().await, &json!(5), -32600, "id 5 was used by a cancelled request");
    client.seen.gate.add_permits(1);
    client.check_alive().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_cancelled_call_did_is_taken_back() {
    for (tool, is_cancelled_first) in [("grant", false), ("grant", true), ("grant_late", true)] {
        let mut client = Client::legacy(WireLimits::default()).await;
        client.call(1, tool).await;
        idle().await;
        if is_cancelled_first {
            client.cancel(1).await;
            idle().await;
        }
        client.seen.gate.add_permits(1);
        idle().await;
        assert_eq!(client.handle.calls_in_flight(), 0);
        if is_cancelled_first {
            client.check_alive().await;
        } else {
            assert_eq!(answered(&client.reply().await).0, 1);
            client.cancel(1).await;
            client.check_alive().await;
        }
        assert_eq!(client.seen.undone(), usize::from(is_cancelled_first));
    }
}

#[tokio::test]
async fn a_handler_that_panics_is_answered_for() {
    let limits = WireLimits { calls_in_flight_max: 1, ..WireLimits::default() };
    let mut client = Client::legacy(limits).await;
    for id in [1, 2, 2] {
        client.call(id, "panic").await;
        check_error(&client.reply().await, &json!(id), -32603, "internal error");
    }
    client.call(3, "echo").await;
    assert_eq!(answered(&client.reply().await).0, 3);
}

#[tokio::test(start_paused = true)]
async fn no_more_calls_are_delivered_than_may_be_in_flight() {
    let limits = WireLimits { calls_in_flight_max: 8, ..WireLimits::default() };
    let mut client = Client::legacy(limits).await;
    for id in 0..50 {
        client.call(id, "hold").await;
    }
    idle().await;
    assert_eq!(client.seen.delivered(), 8);
    client.seen.gate.add_permits(3);
    idle().await;
    assert_eq!(client.seen.delivered(), 11);
    assert_eq!(client.handle.calls_in_flight(), 8);
    client.seen.gate.add_permits(47);
    let mut ids = BTreeSet::new();
    for _ in 0..50 {
        ids.insert(answered(&client.reply().await).0);
    }
    assert_eq!(ids, (0..50).collect());
    client.check_alive().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_call_makes_room_once_its_handler_is_done() {
    let limits = WireLimits { calls_in_flight_max: 2, ..WireLimits::default() };
    let mut client = Client::legacy(limits).await;
    client.call(1, "hold").await;
    client.call(2, "hold").await;
    client.cancel(1).await;
    client.call(3, "hold").await;
    idle().await;
    assert_eq!(client.seen.delivered(), 2);
    client.seen.gate.add_permits(1);
    idle().await;
    assert_eq!(client.seen.delivered(), 3);
    assert_eq!(client.handle.calls_in_flight(), 2);
}

#[tokio::test(start_paused = true)]
async fn listens_have_a_maximum_of_their_own() {
    let limits = WireLimits { calls_in_flight_max: 1, listens_max: 2, ..WireLimits::default() };
    let mut client = Client::connect(limits, 65_536);
    for id in 1..=3 {
        client
            .send(&format!(
                r#"{{"jsonrpc":"2.0","id":{id},"method":"subscriptions/listen","params":{{{MODERN_META},"notifications":{{"resourceSubscriptions":["a:b"]}}}}}}"#
            ))
            .await;
        let reply = client.reply().await;
        if id <= 2 {
            assert_eq!(reply["method"], "notifications/subscriptions/acknowledged");
        } else {
            check_error(&reply, &json!(3), -32600, "2 subscriptions/listen requests");
        }
    }
    assert_eq!(client.handle.listens_in_flight(), 2);
    client.cancel(1).await;
    idle().await;
    assert_eq!(client.handle.listens_in_flight(), 1);
    client
        .send(&format!(r#"{{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{{"name":"echo",{MODERN_META}}}}}"#))
        .await;
    assert_eq!(answered(&client.reply().await).0, 9);
    // At the end of the input the other listen gets its reply.
    let (rest, ended) = client.finish().await;
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0]["id"], 2);
    assert!(ended.is_ok());
}

/// Sends `lines` lines as fast as they are accepted, without reading a reply; then reads all replies.
async fn check_flood(line: &str, lines: usize, reply_bytes_min: usize) {
    let mut client = Client::legacy(WireLimits::default()).await;
    let line = format!("{line}\n");
    let taken_at_most = {
        let replies = OUTBOX_HIGH_WATER_BYTES / reply_bytes_min;
        // The capacity of the pipes and buffers, and the calls in flight.
        replies * line.len() + 4 * 65_536 + 512 * line.len()
    };
    assert!(lines * line.len() > taken_at_most, "too few to tell");
    let mut writer = std::mem::replace(&mut client.writer, tokio::io::duplex(1).0);
    let (progress, taken) = tokio::sync::watch::channel(0);
    let flood = tokio::spawn(async move {
        for number in 1..=lines {
            let line = line.replace("ID", &number.to_string());
            writer.write_all(line.as_bytes()).await.expect("the server reads");
            progress.send_replace(number * line.len());
        }
        writer
    });
    idle().await;
    let taken = *taken.borrow();
    assert!(taken <= taken_at_most, "{taken} of {taken_at_most} bytes");
    for _ in 0..lines {
        client.reply().await;
    }
    client.writer = flood.await.expect("all is sent");
    client.check_alive().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_reads_is_not_read() {
    // A refusal of this line is over 100 bytes, a reply to the call over 1,000.
    check_flood("{}", 100_000, 100).await;
    let call = call(0, "echo", &json!({"fill": "x".repeat(1_000)}));
    check_flood(&call.replace("\"id\":0", "\"id\":ID"), 5_000, 1_000).await;
}
