//! The end of a connection, and failures of its writer.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use rmcp::{
    model::{
        JsonRpcMessage, ProgressNotification, ProgressNotificationParam, ProgressToken, RequestId,
        ServerJsonRpcMessage, ServerNotification,
    },
    service::QuitReason,
    transport::Transport,
};
use serde_json::Value;
use tokio::io::AsyncWrite;

use super::{
    super::{LineTransport, OUTBOX_HIGH_WATER_BYTES, WireLimits},
    idle,
    server::{Client, answered},
};

#[tokio::test]
async fn calls_in_flight_are_answered_at_the_end_of_the_input() {
    let mut client = Client::legacy(WireLimits::default()).await;
    client.call(1, "wait").await;
    // The last line has no newline.
    let last = super::server::call(2, "echo", &serde_json::json!({}));
    client.send_bytes(last.as_bytes()).await;
    let handle = client.handle.clone();
    let (rest, ended) = client.finish().await;
    let ids: std::collections::BTreeSet<i64> = rest.iter().map(|it| answered(it).0).collect();
    assert_eq!(ids, [1, 2].into());
    assert!(matches!(ended, Ok(QuitReason::Closed)));
    assert!(handle.ended().is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_input_is_seen_behind_a_full_flight() {
    let limits = WireLimits { calls_in_flight_max: 2, ..WireLimits::default() };
    let mut client = Client::legacy(limits).await;
    for id in 1..=5 {
        client.call(id, "wait").await;
    }
    idle().await;
    assert_eq!(client.seen.delivered(), 2);
    let (rest, _) = client.finish().await;
    assert_eq!(rest.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_stop_answers_what_is_in_flight_and_no_more() {
    let mut client = Client::legacy(WireLimits::default()).await;
    client.call(1, "wait").await;
    idle().await;
    client.handle.stop();
    client.call(2, "echo").await;
    assert_eq!(answered(&client.reply().await).0, 1);
    assert_eq!(client.next_reply().await, None);
    assert!(matches!(client.served.await.expect("no panic"), Ok(QuitReason::Closed)));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_closes_its_end_ends_the_connection() {
    let mut client = Client::legacy(WireLimits::default()).await;
    client.call(1, "wait").await;
    client.call(2, "hold").await;
    idle().await;
    let (_, nowhere) = tokio::io::duplex(1);
    client.replies = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(nowhere));
    client.seen.gate.add_permits(1);
    client.handle.closing().cancelled().await;
    client.handle.flushed().await.expect_err("it is broken");
    assert!(matches!(client.served.await.expect("no panic"), Ok(QuitReason::Closed)));
    drop(client.writer);
}

/// A writer that accepts a few bytes at a time, and none while it is stalled.
#[derive(Clone, Default)]
struct Drip(Arc<Mutex<Dripped>>);

#[derive(Default)]
struct Dripped {
    bytes: Vec<u8>,
    stalled: bool,
    failing: bool,
    waker: Option<std::task::Waker>,
    takes_next: bool,
}

impl Drip {
    fn set(&self, change: impl FnOnce(&mut Dripped)) {
        let mut state = self.0.lock().expect("not poisoned");
        change(&mut state);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    fn lines(&self) -> Vec<Value> {
        let state = self.0.lock().expect("not poisoned");
        state
            .bytes
            .split_inclusive(|byte| *byte == b'\n')
            .map(|line| serde_json::from_slice(line).expect("a whole line"))
            .collect()
    }
}

impl AsyncWrite for Drip {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock().expect("not poisoned");
        if state.failing {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if state.stalled {
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        // Every other write is pending, as with a pipe that is nearly full.
        state.takes_next = !state.takes_next;
        if !state.takes_next {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let taken = bytes.len().min(7);
        state.bytes.extend_from_slice(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn progress(step: i64) -> ServerJsonRpcMessage {
    let token = ProgressToken(RequestId::Number(step));
    JsonRpcMessage::notification(ServerNotification::ProgressNotification(ProgressNotification::new(
        ProgressNotificationParam::new(token, 1.0),
    )))
}

#[tokio::test]
async fn partial_writes_lose_nothing() {
    let sink = Drip::default();
    let input: &[u8] = b"1\n2\n3\n";
    let (mut transport, handle) = LineTransport::new(input, sink.clone(), WireLimits::default());
    assert!(transport.receive().await.is_none());
    for step in 0..10 {
        drop(transport.send(progress(step)));
    }
    transport.close().await.expect("all is written");
    handle.flushed().await.expect("all is written");
    let lines = sink.lines();
    assert_eq!(lines.len(), 13);
    assert_eq!(lines[12]["params"]["progressToken"], 9);
}

#[tokio::test(start_paused = true)]
async fn a_notification_waits_until_it_is_written() {
    let sink = Drip::default();
    sink.set(|state| state.stalled = true);
    let input = tokio::io::empty();
    let (mut transport, handle) = LineTransport::new(input, sink.clone(), WireLimits::default());
    let first = tokio::spawn(transport.send(progress(1)));
    let second = tokio::spawn(transport.send(progress(2)));
    idle().await;
    assert!(!first.is_finished() && !second.is_finished());
    sink.set(|state| state.stalled = false);
    second.await.expect("no panic").expect("it is written");
    first.await.expect("no panic").expect("it is written");
    assert_eq!(sink.lines().len(), 2);
    // A flush that never can succeed fails.
    sink.set(|state| state.stalled = true);
    let third = tokio::spawn(transport.send(progress(3)));
    idle().await;
    sink.set(|state| state.failing = true);
    let error = third.await.expect("no panic").expect_err("it is broken");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    transport.send(progress(4)).await.expect_err("it stays broken");
    transport.close().await.expect_err("it is broken");
    assert!(handle.closing().is_cancelled());
    assert!(transport.receive().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_client_that_never_reads() {
    let sink = Drip::default();
    sink.set(|state| state.stalled = true);
    let input = tokio::io::repeat(b'\n');
    let noise = io::Cursor::new("{}\n".repeat(OUTBOX_HIGH_WATER_BYTES / 50));
    let input = tokio::io::AsyncReadExt::chain(noise, input);
    let (mut transport, handle) = LineTransport::new(input, sink, WireLimits::default());
    let receiving = tokio::spawn(async move { transport.receive().await.is_none() });
    idle().await;
    assert!(!receiving.is_finished());
    handle.stop();
    assert!(receiving.await.expect("no panic"));
}
