//! Many concurrent calls.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

use super::http::Http;
use super::rig::Rig;

#[tokio::test]
async fn each_of_many_calls_of_many_sessions_is_answered_once() {
    const SESSIONS: usize = 32;
    const CALLS: usize = 1_000;
    let (rig, child) = Rig::with_child().await;
    let (mut input, mut output) = (child.input, child.output);
    let _link = child.link;
    // The child echoes each request, and swaps the responses of each pair, so that responses overtake one another.
    let answering = tokio::spawn(async move {
        let mut held: Option<String> = None;
        let mut line = String::new();
        loop {
            line.clear();
            // A response that is held back is sent alone only if no other request arrives.
            let read = if held.is_some() && input.buffer().is_empty() {
                tokio::time::timeout(std::time::Duration::from_millis(1), input.read_line(&mut line))
                    .await
                    .unwrap_or(Ok(1))
            } else {
                input.read_line(&mut line).await
            };
            if read.unwrap_or(0) == 0 {
                return;
            }
            let answer = serde_json::from_str::<Value>(&line).ok().map(|asked| {
                json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"said": asked["params"]["say"]}}).to_string()
            });
            let both = match (held.take(), answer) {
                (None, Some(answer)) => {
                    held = Some(answer);
                    continue;
                }
                (held, answer) => [answer, held],
            };
            for answer in both.into_iter().flatten() {
                if output.write_all(format!("{answer}\n").as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    });
    let mut sessions = Vec::new();
    for session in 0..SESSIONS {
        let client = rig.client().await;
        sessions.push(tokio::spawn(async move {
            let mut http = Http::connect(client.port).await;
            let mut seen = BTreeSet::new();
            for call in 0..CALLS {
                let say = format!("{session}/{call}");
                let body = json!({"jsonrpc": "2.0", "id": call, "method": "say", "params": {"say": say}}).to_string();
                let answer = http.ask("POST", "/mcp", &client.headers(), &body).await.json();
                assert_eq!(answer, json!({"jsonrpc": "2.0", "id": call, "result": {"said": say}}));
                assert!(seen.insert(call));
            }
            seen.len()
        }));
    }
    for session in sessions {
        assert_eq!(session.await.expect("no panic"), CALLS);
    }
    let usage = rig.endpoint.total_usage();
    assert_eq!((usage.calls, usage.errors), ((SESSIONS * CALLS) as u64, 0));
    answering.abort();
}
