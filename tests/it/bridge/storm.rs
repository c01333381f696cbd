//! A random mix of everything, with children that crash.

use crate::support::within;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use cortex_test_support::setting::setting;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use super::child::Child;
use super::rig::{Client, Rig, options};

const CLIENTS: usize = 12;
const STEPS: usize = 120;

/// The time limit of the whole storm.
const STORM_MAX: Duration = Duration::from_secs(120);

/// Responds late, in random order and with invalid output in between, until a random number of responses.
async fn live(child: Child, random: &mut fastrand::Rng) -> u64 {
    let Child { input, mut output, link, .. } = child;
    let mut input = BufReader::new(input);
    let mut answered = 0;
    let mut held: Vec<Value> = Vec::new();
    let life = random.u64(50..250);
    loop {
        let mut line = String::new();
        let wait = Duration::from_millis(if held.is_empty() { 200 } else { 1 });
        match tokio::time::timeout(wait, input.read_line(&mut line)).await {
            Ok(Ok(1..)) => {
                let asked: Value = serde_json::from_str(&line).expect("whole lines of JSON");
                if asked.get("id").is_some() {
                    held.push(asked);
                }
                if held.len() < 8 {
                    continue;
                }
            }
            Ok(_) => break,
            Err(_) => {}
        }
        if held.is_empty() || answered >= life {
            break;
        }
        let asked = held.swap_remove(random.usize(..held.len()));
        let mut out = String::new();
        if random.u8(..8) == 0 {
            out.push_str("garbage\n{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":{}}\n");
        }
        if let Some(token) = asked["params"]["_meta"].get("progressToken") {
            let params = json!({"progressToken": token, "progress": 1, "say": asked["params"]["say"]});
            out += &json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}).to_string();
            out.push('\n');
        }
        let result = json!({"said": asked["params"]["say"]});
        let answer = json!({"jsonrpc": "2.0", "id": asked["id"], "result": result}).to_string();
        out += &format!("{answer}\n");
        if random.u8(..8) == 0 {
            out += &format!("{answer}\n");
        }
        if output.write_all(out.as_bytes()).await.is_err() {
            break;
        }
        answered += 1;
    }
    drop(link);
    answered
}

/// The number of responses of each kind.
#[derive(Debug, Default)]
struct Seen {
    results: Cell<u32>,
    errors: Cell<u32>,
    notices: Cell<u32>,
    silences: Cell<u32>,
}

fn count(times: &Cell<u32>) {
    times.set(times.get() + 1);
}

/// One step of a client: every message that it receives must be its own.
async fn step(client: &Client, say: &str, random: &mut fastrand::Rng, seen: &Seen) {
    let id = random.u64(..4);
    let mut params = json!({"say": say});
    if random.bool() {
        params["_meta"] = json!({"progressToken": "t"});
    }
    let mut http = client.call(id, "say", params).await;
    match random.u8(..10) {
        0 => return,
        1 => {
            let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
            assert_eq!(client.ask(cancel).await.head.status, 202);
        }
        2 => {
            client.call(9, "resources/subscribe", json!({"uri": say})).await.response().await;
        }
        _ => {}
    }
    let response = http.response().await;
    if response.head.status == 202 {
        assert_eq!(response.text, "");
        return count(&seen.silences);
    }
    assert_eq!(response.head.status, 200, "{response:?}");
    let stream = response.text.split("\n\n").filter_map(|event| event.split_once("data: ").map(|(_, data)| data));
    let is_stream = response.head.header("content-type") == Some("text/event-stream");
    let mut answers = 0;
    let messages: Vec<&str> = if is_stream { stream.collect() } else { vec![&response.text] };
    for message in messages {
        let message: Value = serde_json::from_str(message).expect("JSON");
        answers += u32::from(message.get("method").is_none());
        if message.get("method").is_some() {
            count(&seen.notices);
            assert_eq!((&message["params"]["progressToken"], &message["params"]["say"]), (&json!("t"), &json!(say)));
        } else if message.get("error").is_some() {
            count(&seen.errors);
            assert_eq!((&message["id"], &message["error"]["code"]), (&json!(id), &json!(-32_000)), "{message}");
        } else {
            count(&seen.results);
            assert_eq!(message, json!({"jsonrpc": "2.0", "id": id, "result": {"said": say}}));
        }
    }
    // A stream that was opened before its call was cancelled ends without a response.
    assert!(answers == 1 || answers == 0 && is_stream, "{response:?}");
}

#[tokio::test]
#[expect(clippy::print_stderr, reason = "the seed of a failure must be known")]
async fn each_client_gets_its_own_messages_and_nothing_is_left() {
    let seed = setting("CORTEX_STORM_SEED", fastrand::u64(..));
    // The test harness prints this if the test fails.
    eprintln!("CORTEX_STORM_SEED={seed}");
    let mut few = options();
    few.calls_in_flight_max = 8;
    let rig = Rig::with(few, true);
    let mut child = Some(Child::connect(&rig.endpoint).await);
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(rig.client().await);
    }
    let done = Rc::new(Cell::new(0));
    let seen = Rc::new(Seen::default());
    let crowd = clients.iter().enumerate().map(|(number, client)| {
        let mut random = fastrand::Rng::with_seed(seed.wrapping_add(number as u64 + 1));
        let (done, seen) = (Rc::clone(&done), Rc::clone(&seen));
        async move {
            for round in 0..STEPS {
                step(client, &format!("{number}/{round}"), &mut random, &seen).await;
            }
            done.set(done.get() + 1);
        }
    });
    let children = async {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut lives = 0;
        loop {
            let next = match child.take() {
                Some(child) => child,
                None => Child::connect(&rig.endpoint).await,
            };
            lives += 1;
            live(next, &mut random).await;
            if done.get() == CLIENTS {
                return lives;
            }
        }
    };
    let storm = async { tokio::join!(futures_util::future::join_all(crowd), children) };
    let ended = tokio::time::timeout(STORM_MAX, storm).await;
    let (_, lives) = ended.unwrap_or_else(|_| panic!("no progress: {:#?}", rig.endpoint));
    assert!(lives > 3, "{lives} children");
    assert!(seen.results.get() > 500, "{seen:?}");
    assert!([&seen.errors, &seen.notices, &seen.silences].iter().all(|times| times.get() > 0), "{seen:?}");
    let _last = within(Child::connect(&rig.endpoint)).await;
    for client in &clients {
        super::http::Http::connect(rig.port).await.ask("DELETE", "/mcp", &client.headers(), "").await;
    }
    let state = format!("{:?}", rig.endpoint);
    assert!(!state.contains("Call {") && !state.contains("Session {"), "{state}");
}
