//! The tools about MCP servers.

use cortex_config::Toolset;
use cortex_core::ids::{AllocationId, JobId};
use cortex_core::provisioning::Sharing;
use cortex_managed::{ProcessState, ServerReport};
use serde_json::{Value, json};

use super::rig::Rig;
use super::stub::{figures, remote, running, stopped};

fn lease(number: u64) -> AllocationId {
    AllocationId::from_bits(number)
}

fn private(holder: AllocationId) -> ServerReport {
    let owner = Some((holder, JobId::new("job").expect("a name")));
    ServerReport { sharing: Sharing::PerAllocation, owner, ..running("memory", &[holder]) }
}

#[tokio::test]
async fn all_of_the_catalog_is_listed_by_name() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    rig.reports().servers = vec![remote("search", &[]), stopped("filesystem"), private(lease(1)), private(lease(2))];
    let listed = client.call("list_mcp_servers", json!({})).await;
    let memory = |number| {
        json!({
            "name": "memory", "state": "running", "sharing": "per_allocation",
            "allocation_id": lease(number).to_string(),
            "job_id": "job", "is_remote": false, "endpoint": "http://localhost:9000", "holders_count": 1, "restarts": 2,
            "running_since": "2025-12-08T19:00:00.000Z"
        })
    };
    assert_eq!(
        listed,
        json!({
            "servers": [
                {
                    "name": "filesystem", "state": "stopped", "sharing": "shared", "is_remote": false,
                    "holders_count": 0,
                    "restarts": 0
                },
                memory(1), memory(2),
                {
                    "name": "search", "state": "running", "sharing": "shared", "is_remote": true,
                    "endpoint": "https://search.example/mcp", "holders_count": 0, "restarts": 0
                }
            ],
            "count": 4
        })
    );
}

#[tokio::test]
async fn one_server_is_described_completely() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    rig.reports().servers = vec![running("filesystem", &[lease(1), lease(2)])];
    let shown = client.call("get_mcp_server", json!({"name": "filesystem"})).await;
    let calls = |count: u64| json!({"count": count, "errors": 0, "bytes_in": 0, "bytes_out": 0, "busy_ms": 0});
    let lines: Vec<String> = (10..30).map(|number| format!("line {number}")).collect();
    assert_eq!(
        shown,
        json!({
            "name": "filesystem", "sharing": "shared", "is_remote": false, "count": 1,
            "runs": [{
                "state": "running", "endpoint": "http://localhost:9000",
                "holders": [
                    {"allocation_id": lease(1).to_string(), "calls": calls(4)},
                    {"allocation_id": lease(2).to_string(), "calls": calls(0)}
                ],
                "holders_count": 2,
                "calls": {"count": 9, "errors": 1, "bytes_in": 900, "bytes_out": 9000, "busy_ms": 18},
                "restarts": 2, "running_since": "2025-12-08T19:00:00.000Z", "memory": 48, "processes": 3,
                "memory_limit": {"memory": 512, "held_by": "cgroup"}, "last_lines": lines
            }]
        })
    );
    for (requested, lines) in [(0, 0), (1, 1), (200, 30)] {
        let shown = client.call("get_mcp_server", json!({"name": "filesystem", "last_lines": requested})).await;
        assert_eq!(shown["runs"][0]["last_lines"].as_array().map(Vec::len), Some(lines));
    }
    let unknown = client.error("get_mcp_server", json!({"name": "filesytem"})).await;
    assert_eq!(unknown, "MCP server \"filesytem\" not found: list_mcp_servers lists the known servers");
}

#[tokio::test]
async fn an_instance_of_one_allocation_is_named_by_it() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    rig.reports().servers = vec![private(lease(1)), private(lease(2)), running("filesystem", &[lease(2)])];
    let all = client.call("get_mcp_server", json!({"name": "memory"})).await;
    let owners: Vec<&Value> = all["runs"].as_array().expect("runs").iter().map(|run| &run["allocation_id"]).collect();
    assert_eq!(owners, [&json!(lease(1).to_string()), &json!(lease(2).to_string())]);
    let of = |name: &str, allocation: AllocationId| json!({"name": name, "allocation_id": allocation.to_string()});
    let one = client.call("get_mcp_server", of("memory", lease(2))).await;
    assert_eq!((&one["count"], &one["runs"][0]["allocation_id"]), (&json!(1), &json!(lease(2).to_string())));
    assert_eq!(one["runs"][0]["job_id"], "job");
    let shared = client.call("get_mcp_server", of("filesystem", lease(2))).await;
    assert_eq!((&shared["count"], shared["runs"][0].get("allocation_id")), (&json!(1), None));
    let error = client.error("get_mcp_server", of("filesystem", lease(1))).await;
    let holder = lease(1);
    let expected = format!(
        "{holder} does not hold MCP server \"filesystem\": get_mcp_server without allocation_id lists its holders"
    );
    assert_eq!(error, expected);
    let unknown = json!({"name": "memory", "allocation_id": "no id"});
    assert_eq!(client.error("get_mcp_server", unknown).await, "Allocation no id not found");
}

#[tokio::test]
async fn answers_have_a_size_whatever_there_is() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    let bad = "\"\u{fffd}\n".repeat(800);
    let run = |number: u64| ServerReport {
        reason: Some("\"".repeat(100_000)),
        last_lines: vec![bad.clone(); 200],
        ..private(lease(number))
    };
    let holders: Vec<AllocationId> = (1..=20_000).map(lease).collect();
    let busy = ServerReport {
        calls_by_holder: holders.iter().map(|holder| (*holder, figures(1))).collect(),
        ..running("filesystem", &holders)
    };
    let catalog = (0..1_000).map(|number| ServerReport {
        state: ProcessState::Failed,
        reason: Some("\"".repeat(100_000)),
        ..stopped(&format!("{number:03}{}", "\"".repeat(250)))
    });
    rig.reports().servers = (1..=100).map(run).chain([busy]).chain(catalog).collect();
    let size = |answer: &Value| 2 * answer.to_string().len() + answer.to_string().matches(['"', '\\']).count();
    let shown = client.call("get_mcp_server", json!({"name": "memory", "last_lines": 200})).await;
    assert!((1_000_000..10_000_000).contains(&size(&shown)), "{}", size(&shown));
    assert!(shown["runs"][0]["last_lines"].as_array().is_some_and(|lines| !lines.is_empty()));
    assert_eq!(shown["count"].as_u64().expect("a count") + shown["omitted"].as_u64().unwrap_or(0), 100);
    let shown = client.call("get_mcp_server", json!({"name": "filesystem"})).await;
    assert_eq!(shown["runs"][0]["holders_count"], 20_000);
    assert_eq!(shown["runs"][0]["holders"].as_array().map(Vec::len), Some(1_000));
    assert!(size(&shown) < 10_000_000, "{}", size(&shown));
    let listed = client.call("list_mcp_servers", json!({})).await;
    assert!((1_000_000..10_000_000).contains(&size(&listed)), "{}", size(&listed));
    assert_eq!(listed["count"].as_u64().expect("a count") + listed["omitted"].as_u64().expect("a count"), 1_101);
}

#[tokio::test]
async fn a_restart_is_of_all_runs_or_of_one() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    rig.reports().servers = vec![private(lease(1)), private(lease(2))];
    let all = client.call("restart_mcp_server", json!({"name": "memory"})).await;
    assert_eq!((&all["status"], &all["name"], &all["count"]), (&json!("restarted"), &json!("memory"), &json!(2)));
    let one = json!({"name": "memory", "allocation_id": lease(2).to_string()});
    assert_eq!(client.call("restart_mcp_server", one).await["count"], 1);
    let other = json!({"name": "memory", "allocation_id": lease(3).to_string()});
    let error = client.error("restart_mcp_server", other).await;
    assert!(error.contains("does not hold MCP server \"memory\""), "{error}");
    let none = json!({"name": "memory", "allocation_id": "no id"});
    assert_eq!(client.error("restart_mcp_server", none).await, "Allocation no id not found");
    let restarted = std::mem::take(&mut rig.reports().restarted);
    let of = |allocation| ("memory".to_owned(), allocation);
    assert_eq!(restarted, [of(None), of(Some(lease(2))), of(Some(lease(3)))]);
}

#[tokio::test]
async fn without_a_catalog_each_tool_says_how_to_give_one() {
    let rig = Rig::new().await;
    let mut client = rig.connect(None, [Toolset::Servers].into()).await;
    assert_eq!(client.tools.len(), 6);
    for (tool, arguments) in [
        ("list_mcp_servers", json!({})),
        ("get_mcp_server", json!({"name": "filesystem"})),
        ("restart_mcp_server", json!({"name": "filesystem", "allocation_id": "no id"})),
        ("list_workers", json!({"limit": 1})),
        ("get_worker", json!({"worker_id": "worker-job-000"})),
        ("drain_worker", json!({"worker_id": "worker-job-000"})),
    ] {
        let error = client.error(tool, arguments).await;
        assert!(error.contains("no catalog is configured") && error.contains("--catalog FILE"), "{tool}: {error}");
        let mistake = client.error(tool, json!({"nmae": 1})).await;
        assert!(mistake.starts_with("unknown argument nmae"), "a mistake is reported all the same: {mistake}");
    }
}
