//! The tools about workers.

use cortex_core::ids::{AllocationId, JobId};
use cortex_managed::WorkerReport;
use serde_json::json;

use super::rig::Rig;
use super::stub::worker;

#[tokio::test]
async fn workers_are_listed_by_id_a_page_at_a_time() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    assert_eq!(client.call("list_workers", json!({})).await, json!({"workers": [], "count": 0, "total": 0}));
    let leased = WorkerReport {
        job: Some(JobId::new("job").expect("a name")),
        ..worker("worker-job-000", Some(AllocationId::from_bits(1)))
    };
    rig.reports().workers =
        (0..5).rev().map(|number| worker(&format!("pool-{number}"), None)).chain([leased]).collect();
    let (mut seen, mut page) = (Vec::new(), json!({"limit": 4}));
    loop {
        let answer = client.call("list_workers", page.clone()).await;
        assert_eq!(answer["total"], 6);
        seen.extend(answer["workers"].as_array().expect("a list").clone());
        match answer.get("next_cursor") {
            Some(cursor) => page["cursor"] = cursor.clone(),
            None => break,
        }
    }
    let ids: Vec<_> = seen.iter().map(|worker| worker["worker_id"].as_str().expect("an id")).collect();
    assert_eq!(ids, ["pool-0", "pool-1", "pool-2", "pool-3", "pool-4", "worker-job-000"]);
    assert_eq!(
        seen[5],
        json!({
            "worker_id": "worker-job-000", "state": "running", "endpoint": "http://localhost:8000",
            "allocation_id": AllocationId::from_bits(1).to_string(), "job_id": "job", "restarts": 0,
            "running_since": "2025-12-08T19:00:00.000Z", "memory": 20
        })
    );
    let error = client.error("list_workers", json!({"cursor": "elsewhere"})).await;
    assert!(error.contains("next_cursor"), "{error}");
}

#[tokio::test]
async fn a_worker_with_the_longest_id_is_found() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    let id = format!("worker-{}-57435", "é".repeat(256));
    rig.reports().workers = vec![worker(&id, None)];
    let shown = client.call("get_worker", json!({"worker_id": id})).await;
    assert_eq!(shown["last_lines"].as_array().map(Vec::len), Some(20));
    assert_eq!(shown["last_lines"][19], "line 299");
    for bad in [json!(""), json!("a".repeat(289)), json!("a\nb"), json!(5)] {
        let error = client.error("get_worker", json!({"worker_id": bad})).await;
        assert!(error.starts_with("worker_id is ") && error.contains("give a text of 1 to 288"), "{error}");
    }
    let unknown = client.error("get_worker", json!({"worker_id": "nobody"})).await;
    assert_eq!(unknown, "worker \"nobody\" not found: list_workers lists the known workers");
}

#[tokio::test]
async fn a_worker_of_the_pool_is_drained_and_a_leased_one_is_not() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    let allocation = AllocationId::from_bits(1);
    rig.reports().workers = vec![worker("pool-0", None), worker("worker-job-000", Some(allocation))];
    let drained = client.call("drain_worker", json!({"worker_id": "pool-0"})).await;
    assert_eq!((&drained["status"], &drained["worker"]["state"]), (&json!("draining"), &json!("stopping")));
    assert_eq!(drained["worker"].get("last_lines"), None);
    let leased = client.error("drain_worker", json!({"worker_id": "worker-job-000"})).await;
    assert!(leased.contains(&allocation.to_string()) && leased.contains("release_resources"), "{leased}");
    let unknown = client.error("drain_worker", json!({"worker_id": "nobody"})).await;
    assert!(unknown.contains("list_workers"), "{unknown}");
}
