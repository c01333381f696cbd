//! The expiry of a lease that was not released: at its deadline it is expired, and the next grant can reclaim it.

use serde_json::json;

use crate::support::{
    pattern::{TIME, check},
    server::Server,
    wait_until,
};

/// Returns a request for workers with a time to live of one second.
fn brief(workers: u32) -> serde_json::Value {
    json!({"job_id": "brief", "mcp_servers": ["s"], "workers": workers, "ttl_seconds": 1})
}

#[test]
fn a_lease_past_its_deadline_is_expired_before_the_sweep() {
    let mut server = Server::ready(&[]);
    let id = server.grant(&brief(4));
    check(&server.allocation(&id), &json!({"is_expired": false, "state": "active"}));
    server.wait_until_expired(&id);
    check(
        &server.allocation(&id),
        &json!({"is_expired": true, "state": "active", "timestamps": {"released_at": null}}),
    );
    let listed = server.answer("list_allocations", &json!({}));
    check(&listed, &json!({"allocations": [{"allocation_id": id, "is_expired": true, "state": "active"}]}));
    check(
        &server.capacity(),
        &json!({
            "allocated_workers": 4, "available_workers": 6, "active_allocations": 1, "running_mcp_servers": ["s"],
            "reclaimable_workers": 4, "reclaimable_cpu": 4.0, "reclaimable_memory": 8192
        }),
    );
}

#[test]
fn a_cleanup_ends_what_is_expired_and_nothing_else() {
    let mut server = Server::ready(&[]);
    let kept = server.grant(&json!({"job_id": "kept", "mcp_servers": ["t"], "workers": 2}));
    let (first, second) = (server.grant(&brief(3)), server.grant(&brief(1)));
    server.wait_until_expired(&second);
    let cleaned = server.answer("cleanup_expired", &json!({}));
    assert_eq!(cleaned, json!({"cleaned_up": [first, second], "count": 2}));
    for id in [&first, &second] {
        check(
            &server.allocation(id),
            &json!({"state": "released", "is_expired": false, "timestamps": {"released_at": TIME}}),
        );
        let again = server.answer("release_resources", &json!({"allocation_id": id}));
        check(&again, &json!({"status": "already_released", "released_at": TIME}));
    }
    assert_eq!(server.allocation(&kept)["state"], "active");
    check(&server.capacity(), &json!({"allocated_workers": 2, "reclaimable_workers": 0, "running_mcp_servers": ["t"]}));
    assert_eq!(server.answer("cleanup_expired", &json!({})), json!({"cleaned_up": [], "count": 0}));
}

#[test]
fn a_request_that_lacks_capacity_reclaims_expired_leases() {
    let mut server = Server::ready(&[]);
    let expired = server.grant(&brief(8));
    server.wait_until_expired(&expired);
    // Enough workers are available for this request, so the expired lease is not reclaimed.
    server.grant(&json!({"job_id": "a", "mcp_servers": [], "workers": 2}));
    assert_eq!(server.allocation(&expired)["state"], "active");
    // This request needs the workers of the expired lease.
    server.grant(&json!({"job_id": "a", "mcp_servers": [], "workers": 5}));
    assert_eq!(server.allocation(&expired)["state"], "released");
    check(&server.capacity(), &json!({"allocated_workers": 7, "reclaimable_workers": 0, "active_allocations": 2}));
}

#[test]
fn a_request_that_lacks_ports_reclaims_those_of_expired_leases() {
    let mut server = Server::ready(&[]);
    let names = |from: u32| (from..from + 50).map(|number| format!("s{number}")).collect::<Vec<_>>();
    server.grant(&json!({"job_id": "a", "mcp_servers": names(0)}));
    let expired = server.grant(&json!({"job_id": "b", "mcp_servers": names(50), "ttl_seconds": 1}));
    server.wait_until_expired(&expired);
    server.grant(&json!({"job_id": "c", "mcp_servers": ["one more"]}));
    assert_eq!(server.allocation(&expired)["state"], "released");
}

#[test]
fn an_expired_lease_can_still_be_released() {
    let mut server = Server::ready(&[]);
    let id = server.grant(&brief(4));
    server.wait_until_expired(&id);
    let released = server.answer("release_resources", &json!({"allocation_id": id}));
    check(&released, &json!({"status": "released", "workers_released": 4}));
}

#[test]
fn the_sweep_ends_what_is_expired_by_itself() {
    let mut server = Server::ready(&["--sweep-seconds", "1"]);
    let id = server.grant(&brief(4));
    wait_until("the sweep", || server.allocation(&id)["state"] == "released");
    check(&server.capacity(), &json!({"allocated_workers": 0, "active_allocations": 0, "running_mcp_servers": []}));
    wait_until("its log line", || server.log().contains("expired"));
}

#[test]
fn a_refusal_says_when_to_retry() {
    let mut server = Server::ready(&[]);
    server.grant(&json!({"job_id": "long", "mcp_servers": [], "workers": 5, "ttl_seconds": 5000}));
    server.grant(&json!({"job_id": "short", "mcp_servers": [], "workers": 5, "ttl_seconds": 600}));
    for (workers, from, to) in [(5, 500, 600), (6, 4900, 5000)] {
        let request = json!({"job_id": "a", "mcp_servers": [], "workers": workers});
        let refusal = server.answer("request_resources", &request);
        let seconds = refusal["retry_after_seconds"].as_u64().expect("a deadline is known");
        assert!((from..=to).contains(&seconds), "{workers}: {refusal}");
    }
    let never = server.answer("request_resources", &json!({"job_id": "a", "mcp_servers": [], "workers": 11}));
    assert_eq!(never.get("retry_after_seconds").filter(|seconds| !seconds.is_null()), None);
}
