//! What the holder of a grant gets from it and from reading it, and what others see.

use std::collections::BTreeSet;
use std::path::Path;

use cortex_config::Toolset;
use cortex_core::allocation::State;
use cortex_core::ids::FencingToken;
use cortex_managed::{ProcessState, ServerReport, WorkerReport};
use cortex_test_support::snapshot_files;
use cortex_test_support::wait::wait_until_async;
use serde_json::{Value, json};

use super::client::Client;
use super::rig::Rig;
use super::stub::{remote, running, worker};

const REQUEST: &str = "request_resources";

fn request() -> Value {
    json!({"job_id": "job", "mcp_servers": ["filesystem", "search"], "workers": 1})
}

/// A client with a grant of [`request`], and the answer.
async fn granted(rig: &Rig) -> (Client, Value) {
    let mut client = rig.client().await;
    let id = client.begin(REQUEST, request()).await;
    let allocation = rig.only(State::Pending).await;
    rig.reports().servers = vec![running("filesystem", &[allocation]), remote("search", &[allocation])];
    rig.reports().workers = vec![worker("worker-job-000", Some(allocation))];
    rig.engine.activate(allocation).await.expect("a reservation");
    let answer = client.answer(REQUEST, id).await;
    (client, answer)
}

#[tokio::test]
async fn a_grant_has_a_client_configuration() {
    let rig = Rig::new().await;
    let (_, answer) = granted(&rig).await;
    let allocation = rig.only(State::Active).await;
    let token = rig.managed.access_token(allocation, FencingToken::new(1)).expect("a token");
    assert_eq!(answer["status"], "active");
    assert_eq!(answer["access_token"], token);
    assert_eq!(
        answer["mcp_config"],
        json!({"mcpServers": {
            "filesystem": {
                "type": "http", "url": "http://localhost:9000/mcp",
                "headers": {"Authorization": format!("Bearer {token}")}
            },
            "search": {
                "type": "http", "url": "https://me:hidden@search.example/mcp?key=hidden",
                "headers": {"X-Api-Key": "hidden too"}
            }
        }})
    );
    assert_eq!(
        answer["mcp_servers"],
        json!([
            {"name": "filesystem", "endpoint": "http://localhost:9000", "status": "running"},
            {"name": "search", "endpoint": "https://me:hidden@search.example/mcp?key=hidden", "status": "running"}
        ])
    );
}

#[tokio::test]
async fn without_a_key_no_token_is_required_or_issued() {
    let rig = Rig::with_key(None).await;
    let (mut client, answer) = granted(&rig).await;
    let read = client.call("get_allocation", json!({"allocation_id": answer["allocation_id"]})).await;
    for answer in [answer, read] {
        assert_eq!(answer.get("access_token"), None);
        let servers = &answer["mcp_config"]["mcpServers"];
        assert_eq!(servers["filesystem"], json!({"type": "http", "url": "http://localhost:9000/mcp"}));
        assert_eq!(servers["search"]["headers"], json!({"X-Api-Key": "hidden too"}), "that is another's");
    }
}

#[tokio::test]
async fn workers_alone_come_with_a_token_and_no_list_of_servers() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    let id = client.begin(REQUEST, json!({"job_id": "job", "mcp_servers": [], "workers": 2})).await;
    rig.engine.activate(rig.only(State::Pending).await).await.expect("a reservation");
    let answer = client.answer(REQUEST, id).await;
    assert!(answer["access_token"].is_string() && answer.get("mcp_config").is_none(), "{answer}");
}

#[tokio::test]
async fn a_reading_shows_the_runtime_status() {
    let rig = Rig::new().await;
    let (mut client, answer) = granted(&rig).await;
    let allocation = rig.only(State::Active).await;
    rig.reports().servers[0] = ServerReport {
        state: ProcessState::Restarting,
        reason: Some("it ended with exit code 1".to_owned()),
        ..running("filesystem", &[allocation])
    };
    rig.reports().workers[0] = WorkerReport {
        state: ProcessState::Failed,
        reason: Some("x".repeat(5_000)),
        ..worker("worker-job-000", Some(allocation))
    };
    let read = client.call("get_allocation", json!({"allocation_id": answer["allocation_id"]})).await;
    assert_eq!((&read["access_token"], &read["mcp_config"]), (&answer["access_token"], &answer["mcp_config"]));
    let filesystem = &read["mcp_servers"][0];
    assert_eq!(
        (&filesystem["status"], &filesystem["reason"]),
        (&json!("restarting"), &json!("it ended with exit code 1"))
    );
    assert_eq!(read["mcp_servers"][1]["status"], "running");
    assert_eq!(read["mcp_servers"][1].get("reason"), None);
    let worker = &read["workers"][0];
    assert_eq!(worker["status"], "failed");
    assert_eq!(worker["reason"], format!("{}…", "x".repeat(2_000)), "a reason is cut where it is too long");
}

#[tokio::test]
async fn only_the_holder_gets_a_token_or_a_header() {
    let rig = Rig::new().await;
    let (mut client, answer) = granted(&rig).await;
    let id = answer["allocation_id"].as_str().expect("an id").to_owned();
    let token = answer["access_token"].as_str().expect("a token");
    let uri = format!("cluster://allocations/{id}");
    let resource = client.ask("resources/read", json!({"uri": uri})).await["result"].take();
    let shown = [
        resource,
        client.call("list_allocations", json!({})).await,
        client.call("list_mcp_servers", json!({})).await,
        client.call("get_mcp_server", json!({"name": "search"})).await,
        client.call("get_mcp_server", json!({"name": "filesystem"})).await,
        client.call("list_workers", json!({})).await,
        client.call("restart_mcp_server", json!({"name": "search"})).await,
    ];
    for shown in &shown {
        let text = shown.to_string();
        assert!(!text.contains(token) && !text.contains("hidden") && !text.contains("X-Api-Key"), "{text}");
    }
    let text = shown[0]["contents"][0]["text"].as_str().expect("a text");
    let shown: Value = serde_json::from_str(text).expect("JSON");
    assert_eq!(shown["mcp_servers"][1]["endpoint"], "https://search.example/mcp");
    assert_eq!((shown.get("access_token"), shown.get("mcp_config")), (None, None));
}

#[tokio::test]
async fn an_ended_lease_gives_no_access() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    let keyed = json!({"job_id": "job", "mcp_servers": ["filesystem"], "request_id": "key"});
    let id = client.begin(REQUEST, keyed.clone()).await;
    let allocation = rig.only(State::Pending).await;
    let by_id = json!({"allocation_id": allocation.to_string()});
    let pending = client.call("get_allocation", by_id.clone()).await;
    assert_eq!((&pending["state"], pending.get("access_token")), (&json!("pending"), None));
    rig.engine.activate(allocation).await.expect("a reservation");
    assert!(client.answer(REQUEST, id).await["access_token"].is_string());
    let release = client.begin("release_resources", by_id.clone()).await;
    assert_eq!(rig.only(State::Releasing).await, allocation);
    let releasing = client.call("get_allocation", by_id.clone()).await;
    assert_eq!((&releasing["state"], releasing.get("access_token")), (&json!("releasing"), None));
    rig.engine.finish_release(allocation).await.expect("a release");
    assert_eq!(client.answer("release_resources", release).await["status"], "released");
    for ended in [client.call("get_allocation", by_id).await, client.call(REQUEST, keyed).await] {
        assert_eq!((ended.get("access_token"), ended.get("mcp_config")), (None, None), "{ended}");
        assert_eq!(ended["mcp_servers"][0]["status"], "released");
    }
}

#[tokio::test]
async fn a_lease_past_its_deadline_gives_no_access() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    let brief = json!({"job_id": "job", "mcp_servers": ["filesystem"], "ttl_seconds": 1});
    let id = client.begin(REQUEST, brief).await;
    let allocation = rig.only(State::Pending).await;
    rig.engine.activate(allocation).await.expect("a reservation");
    assert!(client.answer(REQUEST, id).await["access_token"].is_string());
    wait_until_async("the deadline", async || {
        let read = client.call("get_allocation", json!({"allocation_id": allocation.to_string()})).await;
        // The sweep does not run here: it is active on record to the end.
        assert_eq!(read["state"], "active");
        let (is_expired, has_access) = (read["is_expired"] == true, read.get("access_token").is_some());
        assert_eq!((is_expired, read.get("mcp_config").is_some()), (!has_access, has_access), "{read}");
        is_expired
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_started_fails_with_the_reason() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    let id = client.begin(REQUEST, request()).await;
    let allocation = rig.only(State::Pending).await;
    let error = "filesystem did not answer within 30 s; it last wrote: no such folder";
    rig.engine.fail_activation(allocation, error.into(), error.into()).await.expect("a reservation");
    let answer = client.answer(REQUEST, id).await;
    assert_eq!(answer, json!({"allocation_id": allocation.to_string(), "status": "failed", "error": error}));
    let unknown = client.error(REQUEST, json!({"job_id": "job", "mcp_servers": ["filesytem"]})).await;
    assert!(unknown.contains("filesytem") && unknown.contains("\"filesystem\", \"memory\", \"search\""), "{unknown}");
    let full = client.call(REQUEST, json!({"job_id": "job", "mcp_servers": [], "workers": 11})).await;
    assert_eq!((&full["status"], full.get("access_token")), (&json!("failed"), None));
}

#[tokio::test]
async fn each_mode_describes_itself() {
    let rig = Rig::new().await;
    let all = || Toolset::ALL.iter().map(|(_, toolset)| *toolset).collect();
    let managed = rig.connect(Some(rig.managed.clone()), all()).await;
    let tracked = rig.connect(None, all()).await;
    let brief = rig.connect(Some(rig.managed.clone()), [Toolset::Allocation].into()).await;
    assert_eq!(managed.tools.keys().collect::<Vec<_>>(), tracked.tools.keys().collect::<Vec<_>>());
    let mut differing = BTreeSet::new();
    for (name, tool) in &managed.tools {
        assert_eq!(tool["outputSchema"], tracked.tools[name]["outputSchema"], "{name}");
        if tool == &tracked.tools[name] {
            continue;
        }
        insta::with_settings!({prepend_module_to_snapshot => false, snapshot_path => "../snapshots/managed_tools"}, {
            insta::assert_json_snapshot!(name.as_str(), tool);
        });
        differing.insert(name.clone());
    }
    snapshot_files::assert_names(Path::new("tests/it/snapshots/managed_tools"), &differing);
    let servers = |client: &Client| {
        let property = &client.tools[REQUEST]["inputSchema"]["properties"]["mcp_servers"]["description"];
        property.as_str().expect("a text").to_owned()
    };
    assert!(servers(&managed).contains("list_mcp_servers"));
    assert!(!servers(&brief).contains("list_mcp_servers"), "that tool is off");
    assert!(managed.tools[REQUEST]["description"].to_string().contains("access_token"));
    assert!(tracked.tools[REQUEST]["description"].to_string().contains("nothing is started there"));
    let mentions = |client: &Client| client.greeting["instructions"].to_string().contains("mcp_config");
    assert_eq!((mentions(&managed), mentions(&tracked)), (true, false));
}
