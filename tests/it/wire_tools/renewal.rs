//! The toolset `leases`: renewals that succeed, and those that are refused.

use serde_json::{Value, json};

use crate::support::{
    pattern::{TIME, check},
    server::Server,
};

/// Returns a timestamp of an answer in milliseconds since 1970.
fn milliseconds(time: &Value) -> i64 {
    let time = time.as_str().expect("a time");
    chrono::DateTime::parse_from_rfc3339(time).expect("a time").timestamp_millis()
}

#[test]
fn a_renewal_sets_the_deadline_from_now_and_keeps_the_token() {
    let mut server = Server::ready(&["--toolsets", "all"]);
    let request = json!({"job_id": "a", "mcp_servers": ["s"], "workers": 2, "ttl_seconds": 60});
    let grant = server.answer("request_resources", &request);
    let id = &grant["allocation_id"];
    for (arguments, ttl_seconds) in [
        (json!({"allocation_id": id}), 60),
        (json!({"allocation_id": id, "ttl_seconds": 600}), 600),
        (json!({"allocation_id": id, "fencing_token": grant["fencing_token"]}), 600),
        (json!({"allocation_id": id, "ttl_seconds": null, "fencing_token": null}), 600),
        (json!({"allocation_id": id, "ttl_seconds": 5}), 5),
    ] {
        let before = milliseconds(&json!(chrono::Utc::now().to_rfc3339()));
        let renewed = server.answer("renew_allocation", &arguments);
        let after = milliseconds(&json!(chrono::Utc::now().to_rfc3339()));
        check(
            &renewed,
            &json!({
                "allocation_id": id, "ttl_seconds": ttl_seconds, "fencing_token": grant["fencing_token"],
                "expires_at": TIME
            }),
        );
        let start = milliseconds(&renewed["expires_at"]) - ttl_seconds * 1000;
        assert!((before..=after).contains(&start), "{arguments}: {renewed}");
        let record = server.allocation(id.as_str().expect("an id"));
        check(
            &record,
            &json!({
                "state": "active", "ttl_seconds": ttl_seconds, "expires_at": renewed["expires_at"],
                "fencing_token": grant["fencing_token"], "is_expired": false
            }),
        );
        assert_eq!(record["timestamps"]["activated_at"], record["timestamps"]["created_at"]);
    }
    check(&server.capacity(), &json!({"allocated_workers": 2, "active_allocations": 1}));
}

#[test]
fn a_renewed_lease_outlives_its_first_deadline() {
    let mut server = Server::ready(&["--toolsets", "all"]);
    let request = json!({"job_id": "a", "mcp_servers": [], "workers": 1, "ttl_seconds": 1});
    let renewed = server.grant(&request);
    server.answer("renew_allocation", &json!({"allocation_id": renewed, "ttl_seconds": 600}));
    let other = server.grant(&request);
    server.wait_until_expired(&other);
    assert_eq!(server.allocation(&renewed)["is_expired"], false);
    assert_eq!(server.answer("cleanup_expired", &json!({}))["cleaned_up"], json!([other]));
}

#[test]
fn stale_and_ended_leases_are_not_renewed() {
    let mut server = Server::ready(&["--toolsets", "all"]);
    let request = |ttl_seconds: u32| json!({"job_id": "a", "mcp_servers": ["s"], "ttl_seconds": ttl_seconds});
    let first = server.answer("request_resources", &request(600));
    let second = server.answer("request_resources", &request(600));
    let expired = server.grant(&request(1));
    let released = server.grant(&request(600));
    server.answer("release_resources", &json!({"allocation_id": released}));
    let too_much = json!({"job_id": "a", "mcp_servers": [], "workers": 99});
    let refused = server.answer("request_resources", &too_much)["allocation_id"].clone();
    server.wait_until_expired(&expired);
    for (arguments, named) in [
        (json!({"allocation_id": first["allocation_id"], "fencing_token": second["fencing_token"]}), "fencing_token"),
        (json!({"allocation_id": second["allocation_id"], "fencing_token": first["fencing_token"]}), "fencing_token"),
        (json!({"allocation_id": first["allocation_id"], "fencing_token": 0}), "fencing_token"),
        (json!({"allocation_id": expired}), "expired"),
        (json!({"allocation_id": released}), "released"),
        (json!({"allocation_id": refused}), "failed"),
        (json!({"allocation_id": "nonexistent-id"}), "Allocation nonexistent-id not found"),
        (json!({"allocation_id": first["allocation_id"], "ttl_seconds": 0}), "ttl_seconds is 0"),
        (json!({"allocation_id": first["allocation_id"], "ttl_seconds": 604_801}), "604800"),
    ] {
        let error = server.error("renew_allocation", &arguments);
        assert!(error.contains(named), "{arguments}: {error}");
    }
    for grant in [first, second] {
        let record = server.allocation(grant["allocation_id"].as_str().expect("an id"));
        assert_eq!(record["expires_at"], grant["expires_at"], "a refused renewal changes nothing");
    }
}
