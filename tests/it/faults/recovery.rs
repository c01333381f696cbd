//! What a restart preserves: leases with all their properties, tokens, and the answers to repeated requests.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use crate::support::{
    durable::{ENDINGS, Ending, Home, MODES, Mode, allocation, identity, workers},
    pattern::check,
    server::Server,
    wait_until,
};

/// The grace period of overdue leases.
const GRACE: Duration = Duration::from_secs(2);

/// How much later than twice the grace period a lease may still be live, because a busy machine sweeps late.
const LOOK_SLACK: Duration = Duration::from_secs(2);

fn check_kept(mode: Mode, ending: Ending) {
    let home = Home::new();
    let mut server = home.server(mode, &[]);
    let mut request = workers("kept", 3);
    request["mcp_servers"] = json!(["filesystem", "github"]);
    request["request_id"] = "the-key".into();
    request["metadata"] = json!({"task": "héllo", "share": 0.1});
    let granted = server.answer("request_resources", &request);
    let kept = granted["allocation_id"].as_str().expect("an id").to_owned();
    let gone = server.grant(&workers("gone", 2));
    server.answer("release_resources", &allocation(&gone));
    server.answer("renew_allocation", &json!({"allocation_id": kept, "ttl_seconds": 7200}));
    let (before, ended) = (server.allocation(&kept), server.allocation(&gone));
    let last = server.answer("request_resources", &json!({"job_id": "last", "mcp_servers": ["github"]}));
    home.end(server, ending);

    let mut server = home.server(mode, &[]);
    let after = server.allocation(&kept);
    assert_eq!(identity(&after), identity(&before));
    for key in ["state", "expires_at", "metadata", "priority", "resources"] {
        assert_eq!(after[key], before[key], "{key} after {ending:?}");
    }
    assert_eq!(after["timestamps"]["created_at"], before["timestamps"]["created_at"]);
    check(
        &server.allocation(&gone),
        &json!({"state": "released", "timestamps": {"released_at": ended["timestamps"]["released_at"]}}),
    );
    check(&server.answer("release_resources", &allocation(&gone)), &json!({"status": "already_released"}));

    let repeated = server.answer("request_resources", &request);
    for key in ["allocation_id", "fencing_token", "workers_allocated", "mcp_servers", "created_at"] {
        assert_eq!(repeated[key], granted[key], "{key} of a repeat after {ending:?}");
    }
    let mut other = request.clone();
    other["workers"] = 1.into();
    assert!(
        server.error("request_resources", &other).contains("the-key"),
        "the key is still that of the first request"
    );
    let next = server.answer("request_resources", &json!({"job_id": "next", "mcp_servers": ["github"], "workers": 1}));
    assert!(next["fencing_token"].as_u64() > last["fencing_token"].as_u64(), "{next} after {last}");
    assert_eq!(next["mcp_servers"][0]["endpoint"], last["mcp_servers"][0]["endpoint"], "a server keeps its port");
    check(&server.capacity(), &json!({"allocated_workers": 4, "running_mcp_servers": ["filesystem", "github"]}));
    home.end(server, ending);
    home.printed("verify", &[]);
}

#[test]
fn leases_tokens_and_keys_survive_every_end() {
    for mode in MODES {
        ENDINGS.into_iter().for_each(|ending| check_kept(mode, ending));
    }
}

#[test]
fn a_state_survives_many_starts() {
    let home = Home::new();
    let mut last_token = 0;
    for (number, ending) in ENDINGS.into_iter().cycle().take(10).enumerate() {
        let mut server = home.server(Mode::Never, &[]);
        assert_eq!(server.capacity()["allocated_workers"], number);
        let granted = server.answer("request_resources", &workers("one", 1));
        let token = granted["fencing_token"].as_u64().expect("a token");
        assert!(token > last_token, "{token} after {last_token}");
        last_token = token;
        home.end(server, ending);
    }
    home.printed("verify", &[]);
}

/// Waits until this time of the wall clock.
fn wait_until_time(moment: &str) {
    let moment = SystemTime::from(chrono::DateTime::parse_from_rfc3339(moment).expect("a time"));
    wait_until("a deadline to pass", || SystemTime::now() > moment);
}

fn check_overdue(mode: Mode, ending: Ending) {
    let home = Home::new();
    let mut server = home.server(mode, &[]);
    let mut lease = |job: &str, ttl: u64| {
        let mut request = workers(job, 2);
        request["ttl_seconds"] = ttl.into();
        server.grant(&request)
    };
    let (early, renewed, late, long) = (lease("early", 1), lease("renewed", 1), lease("late", 2), lease("long", 3600));
    let last_deadline = server.allocation(&late)["expires_at"].as_str().expect("a time").to_owned();
    home.end(server, ending);
    wait_until_time(&last_deadline);

    let started = Instant::now();
    let mut server = home.server(mode, &["--recovery-grace-seconds", &GRACE.as_secs().to_string()]);
    let ready = Instant::now();
    for id in [&early, &renewed, &late, &long] {
        check(&server.allocation(id), &json!({"state": "active", "is_expired": false}));
    }
    let renewal = server.answer("renew_allocation", &json!({"allocation_id": renewed, "ttl_seconds": 3600}));
    assert_eq!(renewal["status"], "active", "{renewal}");
    // Two workers are available, so the leases in their grace period are not reclaimed.
    let refused = server.answer("request_resources", &workers("wants", 4));
    assert_eq!(refused["status"], "failed", "{refused}");

    let is_over = |server: &mut Server, id: &str| {
        let found = server.allocation(id);
        found["is_expired"] == true || found["state"] == "released"
    };
    let mut ends = [None; 2];
    wait_until("the end of the grace", || {
        // The later lease is checked first: if it has ended, so has the earlier one.
        let (late_is_over, early_is_over) = (is_over(&mut server, &late), is_over(&mut server, &early));
        assert!(early_is_over || !late_is_over, "leases end in the order of their deadlines");
        for (end, is_over) in ends.iter_mut().zip([early_is_over, late_is_over]) {
            if is_over && end.is_none() {
                assert!(started.elapsed() >= GRACE, "a lease ended {:?} after the start", started.elapsed());
                assert!(
                    ready.elapsed() <= GRACE * 2 + LOOK_SLACK,
                    "a lease ended {:?} after the start",
                    ready.elapsed()
                );
                *end = Some(());
            }
        }
        ends.iter().all(Option::is_some)
    });
    let granted = server.answer("request_resources", &workers("wants", 4));
    assert_eq!(granted["status"], "active", "{granted}");
    for id in [&renewed, &long] {
        check(&server.allocation(id), &json!({"state": "active", "is_expired": false}));
    }
    check(&server.allocation(&early), &json!({"state": "released", "ended_by": "expired"}));
    home.end(server, ending);
    home.printed("verify", &[]);
}

#[test]
fn overdue_leases_get_a_grace_and_then_end() {
    // Each check mostly waits, so they run concurrently.
    thread::scope(|scope| {
        for (mode, ending) in
            [(Mode::Never, Ending::Killed), (Mode::Never, Ending::InOrder), (Mode::Auto, Ending::Killed)]
        {
            scope.spawn(move || check_overdue(mode, ending));
        }
    });
}
