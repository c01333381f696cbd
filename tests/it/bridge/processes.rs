//! Real child processes, which misbehave on request.

use crate::support::{WAIT_MAX, within};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use cortex_runtime::bridge::{Link, LinkError};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::rig::{Client, Rig, options};

/// Starts a server with these flags as the endpoint's child. Dropping the first value ends the process.
async fn start(rig: &Rig, flags: &[&str]) -> (Child, Link, Arc<Mutex<Vec<String>>>) {
    let folder = Path::new(env!("CARGO_BIN_EXE_cortex-resource-manager")).parent().expect("a folder");
    let program = folder.join("examples/misbehaving_server").with_extension(std::env::consts::EXE_EXTENSION);
    assert!(program.is_file(), "{} is missing: run cargo build --example misbehaving_server", program.display());
    let mut command = Command::new(program);
    command.args(flags).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().expect("a process");
    let (input, output) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
    let invalid_output = Arc::new(Mutex::new(Vec::new()));
    let reported = Arc::clone(&invalid_output);
    let on_invalid_output = Box::new(move |line: &str| reported.lock().expect("no panic").push(line.to_owned()));
    let link = within(rig.endpoint.connect(input, output, on_invalid_output)).await.expect("a link");
    (child, link, invalid_output)
}

/// Calls a tool and returns its response.
async fn call(client: &Client, name: &str, arguments: Value) -> Value {
    let mut http = client.call(1, "tools/call", json!({"name": name, "arguments": arguments})).await;
    http.response().await.json()
}

#[tokio::test]
async fn concurrent_faults_of_every_kind_affect_no_call() {
    let rig = Rig::new();
    let flags = ["--answer-twice", "--foreign-id", "--garbage-stdout"];
    let (_child, link, invalid_output) = start(&rig, &flags).await;
    let sessions = (0..8).map(|session| {
        let rig = &rig;
        async move {
            let client = rig.client().await;
            for call_number in 0..50 {
                let answer = call(&client, "echo", json!({"say": [session, call_number]})).await;
                assert_eq!(answer["id"], 1, "{answer}");
                assert!(answer["result"].to_string().contains(&format!("[{session},{call_number}]")), "{answer}");
            }
        }
    });
    futures_util::future::join_all(sessions).await;
    link.ping(WAIT_MAX).await.expect("it lives");
    let usage = rig.endpoint.total_usage();
    assert_eq!((usage.calls, usage.errors), (400, 0));
    // Each call causes an invalid line, and its response two foreign responses and two repetitions.
    assert!(invalid_output.lock().expect("no panic").len() >= 400 * 3);
}

#[tokio::test]
async fn a_crash_fails_each_call_in_flight_and_the_next_child_continues() {
    let rig = Rig::new();
    let (child, link, _) = start(&rig, &[]).await;
    let mut sleeping = Vec::new();
    let clients = [rig.client().await, rig.client().await];
    for id in 0..40 {
        let params = json!({"name": "sleep", "arguments": {"ms": 600_000}});
        sleeping.push(clients[id % 2].call(id, "tools/call", params).await);
    }
    let crashed = call(&clients[0], "crash", json!({})).await;
    assert_eq!((&crashed["error"]["code"], &crashed["error"]["data"]["retryable"]), (&json!(-32_000), &json!(true)));
    for (id, http) in sleeping.iter_mut().enumerate() {
        let answer = http.response().await.json();
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(id), &json!(-32_000)), "{answer}");
    }
    assert!(matches!(within(link.closed()).await, LinkError::OutputEnded));
    drop((child, link));
    let early = call(&clients[1], "add", json!({"a": 1, "b": 2}));
    let (answer, (_child, _link, _)) = tokio::join!(early, start(&rig, &[]));
    assert!(answer["result"].to_string().contains('3'), "{answer}");
}

#[tokio::test]
async fn what_a_server_asks_of_its_client_is_answered() {
    let mut with_roots = options();
    with_roots.roots = vec!["file:///work".to_owned()];
    let rig = Rig::with(with_roots, true);
    let (_child, _link, _) = start(&rig, &[]).await;
    let client = rig.client().await;
    let roots = call(&client, "ask_roots", json!({})).await;
    assert!(roots["result"].to_string().contains("file:///work"), "{roots}");
    for tool in ["ask_sampling", "ask_elicitation"] {
        let refused = call(&client, tool, json!({})).await;
        assert!(refused.to_string().contains("shared by several clients"), "{refused}");
    }
}

#[tokio::test]
async fn a_server_of_the_newest_version_serves_clients_of_every_version() {
    let rig = Rig::new();
    let (_child, link, _) = start(&rig, &["--only-2026"]).await;
    let client = rig.client().await;
    let answer = call(&client, "add", json!({"a": 1, "b": 2})).await;
    assert!(answer["result"].to_string().contains('3'), "{answer}");
    let params = json!({"name": "progress", "arguments": {"steps": 3, "ms": 1}, "_meta": {"progressToken": "p"}});
    let mut events = client.call(2, "tools/call", params).await.events().await;
    for _ in 0..3 {
        assert_eq!(events.next().await.expect("progress")["params"]["progressToken"], "p");
    }
    assert_eq!(events.next().await.expect("an answer")["id"], 2);
    link.ping(WAIT_MAX).await.expect("a listing");
}
